"""What every measurement of a model on a split has."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tessera.evaluation.metrics import Interval


class Score(NamedTuple):
    """The number that a task is judged by."""

    name: str
    interval: Interval
    percent: bool = True
    """Whether it is a share."""

    def text(self, number: float) -> str:
        """Write a number of this kind."""
        return f"{number:.2%}" if self.percent else f"{number:.4g}"


@dataclass(frozen=True, kw_only=True)
class Measured(ABC):
    """What a model answered for every image of a split, and the numbers that follow."""

    split: str
    class_names: tuple[str, ...]
    logits: np.ndarray
    """Outputs of the model, ``n k``."""
    labels: np.ndarray
    """As in the data set."""
    seconds: float
    """Wall-clock time for reading and answering all images."""
    rows: np.ndarray
    """Which images of the split these are."""
    unreadable: tuple[str, ...] = ()
    """Why others are not here, a message each."""
    temperature: float | None = None
    """What a classifier's logits are divided by for its probabilities; None if none was fitted."""

    @property
    @abstractmethod
    def loss(self) -> float:
        """What training minimises, as a mean over the images."""

    @property
    @abstractmethod
    def score(self) -> Score:
        """The number to look at first, with its 95 % interval."""

    @abstractmethod
    def numbers(self) -> dict[str, Any]:
        """Return the numbers of the task as JSON knows them; shares are in [0, 1]."""

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the answers themselves, as JSON knows it."""
        return {
            "split": self.split,
            "images": len(self.labels),
            "unreadable": list(self.unreadable),
            "score": {"name": self.score.name, **self.score.interval._asdict()},
            **self.numbers(),
            "loss": self.loss,
            "seconds": round(self.seconds, 3),
            "images_per_second": round(len(self.labels) / self.seconds, 1),
        }
