"""The log of a run: one row a look, as JSON in ``log.jsonl`` and wherever else it is wanted."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tessera.evaluation.base import Score
from tessera.recipe import Recipe
from tessera.training.display import clock

LOG = "log.jsonl"
TENSORBOARD = "tensorboard"

Row = dict[str, Any]


class Logger(ABC):
    """Takes the rows of a run, oldest first."""

    @abstractmethod
    def write(self, row: Row) -> None:
        """Keep a row; it has at least ``step``."""

    @abstractmethod
    def close(self) -> None:
        """Finish writing."""


class JsonLines(Logger):
    """The file that resuming and reports read."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LOG

    def write(self, row: Row) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def close(self) -> None:
        """Nothing is left open."""


class TensorBoard(Logger):
    """Event files, in which every number of a row is a scalar.

    Raises:
        ValueError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ValueError(
                "--tensorboard wants the package tensorboard\nhint: pip install 'tessera-vit[log]'"
            ) from error
        self.writer = SummaryWriter(str(folder / TENSORBOARD))

    def write(self, row: Row) -> None:
        for name, value in row.items():
            if name != "step":
                self.writer.add_scalar(name, value, row["step"])
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


LOGGERS: dict[str, Callable[[Path], Logger]] = {"tensorboard": TensorBoard}
"""Besides the file, by the switch of the recipe that turns them on."""


def make_loggers(folder: Path, recipe: Recipe) -> list[Logger]:
    """Return the loggers that a recipe asks for."""
    wanted = [make(folder) for name, make in LOGGERS.items() if getattr(recipe, name)]
    return [JsonLines(folder), *wanted]


def as_text(row: Row, stop: int, score: Score, best: str) -> str:
    """Write a row for people."""
    return (
        f"step {row['step']:>{len(str(stop))}}/{stop}  epoch {row['epoch']:6.2f}  "
        f"loss {row['train_loss']:.3f}  val loss {row['val_loss']:.3f}  "
        f"val {score.name} {score.text(score.interval.value):>6}  "
        f"{row['images_per_second']:,.0f} images/s  "
        f"{clock(row['seconds'])}{best}"
    )


def read_log(folder: Path) -> list[Row]:
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
