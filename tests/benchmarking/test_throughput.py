"""The script that compares with other libraries, with those that are here."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "throughput.py"


@pytest.mark.slow
def test_the_comparison_runs_and_its_ratios_are_those_of_its_speeds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for k in range(2):
        pixels = rng.integers(0, 256, (260, 300, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{k}.jpg")
    out = tmp_path / "found.json"
    args = [
        "models",
        "command",
        "--quick",
        "--images",
        str(tmp_path / "photos"),
        "--json",
        str(out),
    ]
    shown = subprocess.run(
        [sys.executable, str(SCRIPT), *args], capture_output=True, text=True, check=True
    )
    found = json.loads(out.read_text())
    assert "transformers" in found["versions"]
    assert [row["task"] for row in found["models"]] == ["forward", "train"]
    for row in found["models"]:
        low, high = (row["ratio"]["transformers"][k] for k in (1, 2))
        assert 0 < low <= row["ratio"]["transformers"][0] <= high
        assert row["images_per_second"]["tessera"] > 0
        assert f"| {row['model']} | {row['task']} | {row['batch']} |" in shown.stdout
    assert found["command"]["photographs"] == 2
    assert "logits of transformers and ours, same weights, differ by" in shown.stderr
