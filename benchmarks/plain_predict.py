"""What a user of transformers writes to label a folder; benchmarks/throughput.py times it.

python benchmarks/plain_predict.py FOLDER MODEL OUT.csv
"""

import csv
import sys
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoImageProcessor, ViTForImageClassification

BATCH = 64


def main() -> None:
    """Write the five most likely classes of every image."""
    folder, ref, out = sys.argv[1:]
    processor = AutoImageProcessor.from_pretrained(ref)
    model = ViTForImageClassification.from_pretrained(ref).eval()
    files = sorted(p for p in Path(folder).rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    with Path(out).open("w", newline="", encoding="utf-8") as stream, torch.inference_mode():
        writer = csv.writer(stream)
        for start in range(0, len(files), BATCH):
            batch = files[start : start + BATCH]
            images = [Image.open(path).convert("RGB") for path in batch]
            pixels = processor(images=images, return_tensors="pt")["pixel_values"]
            found = model(pixel_values=pixels).logits.softmax(dim=-1).topk(5)
            for path, values, indices in zip(batch, found.values, found.indices, strict=True):
                labels = [model.config.id2label[int(k)] for k in indices]
                pairs = zip(labels, values.tolist(), strict=True)
                writer.writerow([path, *(cell for pair in pairs for cell in pair)])


if __name__ == "__main__":
    main()
