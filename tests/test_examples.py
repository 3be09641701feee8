"""What lies in examples/ runs as it stands."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

import tessera
from tessera.checkpoint.artifact import Header, save_artifact
from tessera.data.images import open_image
from tessera.data.preprocessing import Preprocessing
from tessera.explaining import ExplainSettings
from tessera.models.variants import parse
from tessera.models.vit import ViT

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_ray_labels_a_folder_as_predict_does(tmp_path: Path) -> None:
    run = tessera.train(
        "digits",
        out=tmp_path / "run",
        overrides={"arch.depth": 1, "schedule.total_steps": 20, "eval_every": 1},
    )
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    paths = [str(tmp_path / "images" / f"{k:02}.png") for k in range(10)]
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (16, 16), dtype=np.uint8)).save(path)
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    command = [sys.executable, str(EXAMPLES / "predict_on_ray.py"), str(run.folder)]
    done = subprocess.run(
        [*command, str(tmp_path / "images"), str(tmp_path / "labels")],
        env={**os.environ, "OMP_NUM_THREADS": "1", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "11 images" in done.stdout
    assert "1 of which cannot be read" in done.stdout
    rows = {row["image"]: row for row in pq.read_table(tmp_path / "labels").to_pylist()}
    expected = tessera.load(run.folder).predict(paths, top_k=1)
    assert [rows[path]["label"] for path in paths] == [e.labels[0] for e in expected]
    for path, each in zip(paths, expected, strict=True):
        assert rows[path]["probability"] == pytest.approx(each.probabilities[0], abs=1e-6)
    broken = rows[str(tmp_path / "images" / "broken.png")]
    assert broken["label"] == ""
    assert "broken.png" in broken["error"]


@pytest.mark.slow
def test_the_corruptions_are_drawn_on_a_sheet(tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    command = [sys.executable, str(EXAMPLES / "corruptions.py"), "china.jpg", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    sheet = np.asarray(Image.open(out))
    assert sheet.shape == (4 * 196, 5 * 180, 3)
    tiles = [
        sheet[196 * r + 16 : 196 * r + 192, 180 * c : 180 * c + 180]
        for r in range(4)
        for c in range(5)
    ]
    assert len({tile.tobytes() for tile in tiles}) == 20


@pytest.mark.slow
def test_a_montage_of_maps_is_what_explain_paints(tmp_path: Path) -> None:
    try:
        china = Image.fromarray(load_sample_image("china.jpg"))
    except (AttributeError, OSError):
        pytest.skip("this scikit-learn brings no china.jpg")
    torch.manual_seed(0)
    config = parse("vit_mu_patch4", img_size=32, num_classes=3)
    model = ViT(config, init="timm")
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    header = Header(
        config=config, preprocessing=Preprocessing(size=(32, 32)), class_names=("a", "b", "c")
    )
    save_artifact(tmp_path / "model.safetensors", model, header)
    command = [sys.executable, str(EXAMPLES / "explain_montage.py"), "model.safetensors"]
    done = subprocess.run(
        [*command, "china.jpg", "page.png", "--square"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = np.asarray(open_image(tmp_path / "page.png"))
    square, methods = china.crop((0, 0, 427, 427)), ("rollout", "relevance")
    settings = ExplainSettings(methods=methods, curve_steps=0, sanity_images=0)
    found = tessera.explain(
        tmp_path / "model.safetensors", [square], settings, out=tmp_path / "out"
    )
    names = [name for name in found.images[0].files if name.endswith(".png")]
    pictures = [square, *(open_image(tmp_path / "out" / name) for name in names)]
    assert page.shape == (280, 3 * 280 + 2 * 8, 3)
    for number, picture in enumerate(pictures):
        tile = page[:, 288 * number : 288 * number + 280]
        small = picture.resize((280, 280), Image.Resampling.LANCZOS)
        assert np.array_equal(tile, np.asarray(small))
        assert (page[:, 288 * number + 280 : 288 * number + 288] == 255).all()
    assert len({picture.tobytes() for picture in pictures}) == 3
    row = runpy.run_path(str(EXAMPLES / "explain_montage.py"))["row"]
    assert row([china, china]).size == (2 * 420 + 8, 280)  # 640 by 427 pixels
