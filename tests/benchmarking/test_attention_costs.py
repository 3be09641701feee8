"""The script that measures attention patterns against the number of tokens."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "attention.py"


@pytest.mark.slow
def test_every_case_is_timed_weighed_and_drawn(tmp_path: Path) -> None:
    out, picture = tmp_path / "found.json", tmp_path / "curves.png"
    args = ["--quick", "--patterns", "global", "axial", "--json", str(out), "--plot", str(picture)]
    shown = subprocess.run(
        [sys.executable, str(SCRIPT), *args], capture_output=True, text=True, check=True
    )
    rows = json.loads(out.read_text())["rows"]
    cases = [(row["pattern"], row["way"], row["tokens"]) for row in rows]
    ways = [("global", "dense"), ("axial", "dense"), ("axial", "blocks")]
    assert cases == [(*way, tokens) for tokens in (17, 65) for way in ways]
    for row in rows:
        assert row["quarters"][0] <= row["ms"] <= row["quarters"][1]
        assert row["ms"] > 0
        assert row["bytes"] >= 3 * 3 * 64 * 4 * row["tokens"], "queries, keys and values at least"
    # Of 8 x 8 patches and a class token: 8 x 8 x 8 pairs in rows, and 2 x 65 - 1 with the token.
    assert rows[4]["pairs"] == pytest.approx((8**3 + 129) / 65**2)
    assert rows[4]["blocks"] == 1, "65 tokens are one block"
    assert "| `axial` | blocks |" in shown.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
