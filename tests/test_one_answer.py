"""One image has one answer, whichever way it is asked for, and whatever was done to fit it in."""

import csv
import json
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tessera
from tessera.checkpoint.load import load_model
from tessera.cli import main
from tessera.data.preprocessing import Preprocessing
from tessera.data.sources import find_data
from tessera.evaluation.measure import measure

NAMES = ("tall", "wide")


def odd_images(folder: Path) -> None:
    """Write images of many shapes and modes, three of each class and kind."""
    rng = np.random.default_rng(0)
    for k in range(8):
        for name, (width, height) in zip(NAMES, ((30 + k, 52 + 3 * k), (61 + k, 33)), strict=True):
            pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
            image = Image.fromarray(pixels).resize((width, height))
            path = folder / name / f"{k}"
            path.parent.mkdir(parents=True, exist_ok=True)
            match k % 8:
                case 0:
                    image.save(path.with_suffix(".jpg"), quality=92)
                case 1:
                    exif = Image.Exif()
                    exif[0x0112] = 6
                    image.transpose(Image.Transpose.ROTATE_90).save(
                        path.with_suffix(".jpg"), exif=exif, quality=92
                    )
                case 2:
                    image.convert("RGBA").save(path.with_suffix(".png"))
                case 3:
                    deep = (np.asarray(image.convert("L")).astype(np.uint16) * 257).copy()
                    Image.fromarray(deep).save(path.with_suffix(".png"))
                case 4:
                    image.convert("P").save(path.with_suffix(".gif"))
                case 5:
                    image.convert("CMYK").save(path.with_suffix(".jpg"))
                case _:
                    image.save(path.with_suffix(".png"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    odd_images(root / "train")
    odd_images(root / "test")
    return root


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "crop",
    ["crop", "native", pytest.param("squash", marks=SLOW), pytest.param("letterbox", marks=SLOW)],
)
def test_training_evaluate_predict_and_python_agree_to_the_bit(
    crop: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tessera.train(
        photos,
        out=tmp_path / "run",
        weights="none",
        model="vit_mu_patch8_32",
        overrides={
            "arch.embed_dim": 32,
            "arch.depth": 2,
            "arch.num_heads": 2,
            "augment.crop_scale": (0.5, 1.0),
            "schedule.total_steps": 3,
            "data.batch_size": 8,
            "data.eval_batch_size": 1,
            "data.crop": crop,
            "data.near_duplicates": False,
        },
    )
    in_training = run.results["test"].logits
    evaluated = tessera.evaluate(run.folder, photos, batch_size=1).result
    np.testing.assert_array_equal(evaluated.logits, in_training)

    data = find_data(str(photos))["test"]
    predictor = tessera.Predictor(load_model(run.folder), batch_size=1)
    files = [str(photos / data.name(i)) for i in range(len(data))]
    np.testing.assert_array_equal(predictor.logits(files), in_training)
    with ExitStack() as stack:
        opened = [stack.enter_context(Image.open(file)) for file in files]
        np.testing.assert_array_equal(predictor.logits(opened), in_training)

    for file, logits in zip(files, in_training, strict=True):
        assert main(["predict", str(run.folder), file, "--format", "jsonl"]) == 0
        answer = json.loads(capsys.readouterr().out)
        assert answer["labels"][0] == NAMES[int(logits.argmax())]
        exact = np.exp((logits - logits.max()) / predictor.header.temperature)
        assert answer["probabilities"][0] == float((exact / exact.sum()).max())

    # In larger batches the sums of a product may come in another order: 4e-7 measured.
    together = tessera.evaluate(run.folder, photos).result.logits
    np.testing.assert_allclose(together, in_training, atol=5e-6)


@pytest.mark.parametrize("kind", ["table", "folder"])
def test_the_way_to_the_images_does_not_matter(kind: str, photos: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = tessera.create_model("vit_mu_patch8_32", num_classes=2)
    torch.nn.init.normal_(model.get_parameter("head.weight"))
    data = find_data(str(photos))["test"]
    if kind == "table":
        with (tmp_path / "t.csv").open("w", newline="") as file:
            rows = [(photos / data.name(i), data.label_text(i), "test") for i in range(len(data))]
            writer = csv.writer(file)
            writer.writerows([("image", "label", "split"), *rows, (rows[0][0], "tall", "train")])
            writer.writerow((rows[-1][0], "wide", "train"))
        other = find_data(str(tmp_path / "t.csv"))["test"]
    else:
        other = find_data(str(photos) + "/")["test"]
    found = [
        measure(
            model,
            each,
            Preprocessing(size=(32, 32)),
            split="test",
            device=torch.device("cpu"),
        ).logits
        for each in (data, other)
    ]
    np.testing.assert_array_equal(found[0], found[1])
