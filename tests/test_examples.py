"""What lies in examples/ runs as it stands."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import tessera

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
