"""The log of a run: one JSON object a look, in ``log.jsonl``."""

import json
from pathlib import Path
from typing import Any

from tessera.evaluation.base import Score
from tessera.training.display import clock

LOG = "log.jsonl"


def as_text(row: dict[str, Any], stop: int, score: Score, best: str) -> str:
    """Write a row for people."""
    return (
        f"step {row['step']:>{len(str(stop))}}/{stop}  epoch {row['epoch']:6.2f}  "
        f"loss {row['train_loss']:.3f}  val loss {row['val_loss']:.3f}  "
        f"val {score.name} {score.text(score.interval.value):>6}  "
        f"{row['images_per_second']:,.0f} images/s  "
        f"{clock(row['seconds'])}{best}"
    )


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's log, oldest first."""
    path = folder / LOG
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]  # the last may be half


def truncate_log(path: Path, step: int) -> None:
    """Drop rows after the checkpoint, which the resumed run writes again."""
    rows = [row for row in read_log(path.parent) if row["step"] <= step]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
