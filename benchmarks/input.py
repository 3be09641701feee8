"""How fast training images are prepared: ours against plain Pillow, in one interleaved run.

    python benchmarks/input.py DIR [--workers 0 1 2] [--rounds 5] [--repeat 4] [--index 1000000]

DIR holds JPEG photographs at any depth. An image is decoded, cut by a random resized crop to 224
pixels, flipped, and stacked into a batch of bytes. "Plain Pillow" does it with
`Image.resize(box=)`; both draw the same boxes. Printed are medians over rounds, and their ratio.
"""

import argparse
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tessera.data.augment import TrainTransform, draw_motion
from tessera.data.images import open_lazily
from tessera.data.preprocessing import Preprocessing
from tessera.data.sources import find_data
from tessera.data.stored import FlatStrings
from tessera.recipe import Augment

AUGMENT = Augment(crop_scale=(0.08, 1.0), flip=0.5)
PREPARE = Preprocessing(size=(224, 224))


class Ours(Dataset[Tensor]):
    """What a training worker does."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths
        self.transform = TrainTransform(PREPARE, AUGMENT)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with open_lazily(self.paths[index], self.paths[index]) as image:
            return self.transform(image, np.random.default_rng(index))


class Pillow(Dataset[Tensor]):
    """What most training scripts do."""

    def __init__(self, paths: list[str]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.paths[index]) as opened:
            image = opened.convert("RGB")
        motion = draw_motion(image.size, AUGMENT, np.random.default_rng(index))
        cropped = image.resize((224, 224), Image.Resampling.BICUBIC, box=motion.box)
        if motion.flip:
            cropped = cropped.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(cropped).transpose(2, 0, 1).copy())


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def speed(images: Dataset[Tensor], workers: int) -> float:
    """Return images per second of one pass, without the start of the workers."""
    loader = (
        DataLoader(
            images,
            batch_size=32,
            num_workers=workers,
            worker_init_fn=_one_thread,
            prefetch_factor=None,
        )
        if workers == 0
        else DataLoader(images, batch_size=32, num_workers=workers, worker_init_fn=_one_thread)
    )
    batches: Iterator[Tensor] = iter(loader)
    next(batches)
    start, count = time.perf_counter(), 0
    for batch in batches:
        count += len(batch)
    return count / (time.perf_counter() - start)


def index_memory(rows: int) -> None:
    """Print how much memory the index of so many images takes, and how fast it is made."""
    tracemalloc.start()
    start = time.perf_counter()
    paths = FlatStrings(f"train/class_{k % 1000:04d}/photograph_{k:09d}.jpeg" for k in range(rows))
    labels = np.arange(rows) % 1000
    places = np.arange(rows)
    seconds = time.perf_counter() - start
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(
        f"index of {rows:,} rows: {held / 1e6:.0f} MB held, {peak / 1e6:.0f} MB at most, "
        f"{rows / seconds:,.0f} rows/s while memory is traced "
        f"({paths.nbytes / 1e6:.0f} MB of it paths, "
        f"{(labels.nbytes + places.nbytes) / 1e6:.0f} MB numbers)"
    )


def index_folder(rows: int) -> None:
    """Print how fast a folder of so many images in 100 classes is indexed."""
    with tempfile.TemporaryDirectory() as folder:
        for k in range(100):
            (Path(folder) / f"class_{k:02d}").mkdir()
        for k in range(rows):
            (Path(folder) / f"class_{k % 100:02d}" / f"{k}.jpg").touch()
        start = time.perf_counter()
        found = find_data(folder)
        seconds = time.perf_counter() - start
    print(f"folder of {len(found['train']):,} images: {rows / seconds:,.0f} files/s")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=4, help="passes over the files in a round")
    parser.add_argument("--index", type=int, default=1_000_000, help="rows of the index")
    args = parser.parse_args()
    files = sorted(p for p in args.folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    paths = [str(path) for path in files] * args.repeat
    pixels = statistics.mean(w * h for w, h in (Image.open(path).size for path in files))
    print(f"{len(files)} photographs of {pixels / 1e6:.2f} megapixels, torch {torch.__version__}")
    torch.set_num_threads(1)
    for workers in args.workers:
        found: dict[str, list[float]] = {"pillow": [], "ours": []}
        for _ in range(args.rounds):
            found["pillow"].append(speed(Pillow(paths), workers))
            found["ours"].append(speed(Ours(paths), workers))
        ratios = [b / a for a, b in zip(found["pillow"], found["ours"], strict=True)]
        plain, ours = (statistics.median(found[name]) for name in ("pillow", "ours"))
        print(
            f"workers {workers}: plain Pillow {plain:,.0f}, ours {ours:,.0f} images/s, "
            f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )
    index_memory(args.index)
    index_folder(min(args.index, 100_000))


if __name__ == "__main__":
    main()
