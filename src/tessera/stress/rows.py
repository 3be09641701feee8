"""One model at one level of one test, as a row of the table."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tessera.evaluation.means import over_seeds
from tessera.evaluation.metrics import Interval, wilson


@dataclass(frozen=True, kw_only=True)
class Row:
    """One model at one level of one test."""

    model: str
    test: str
    series: str
    value: float
    text: str
    accuracy: Interval
    clean: float
    """Accuracy on the same images as they are."""
    ece: float
    images: int
    hits: list[int]
    """Of every run."""
    extra: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        return {**self.__dict__, "accuracy": self.accuracy._asdict()}


def make_row(model: str, test: str, level: dict[str, Any], found: dict[str, Any]) -> Row:
    """Turn what a journal keeps of a level into a row.

    The interval of several runs answers for the images and for the draws.
    """
    return Row(
        model=model,
        test=test,
        **level,
        accuracy=over_seeds(found["hits"], found["images"]),
        clean=found["clean"],
        ece=found["ece"],
        images=found["images"],
        hits=found["hits"],
        extra=found["extra"],
    )


def mean_of(rows: Sequence[Row]) -> Interval:
    """Return the plain mean of accuracies on the same images, with its 95 % interval.

    Wilson's at the mean, or the mean of the levels' own intervals where draws make these wider:
    from image to image, and from draw to draw, a mean varies at most as much as what it is of.
    """
    images = min(row.images for row in rows)
    value = statistics.fmean(row.accuracy.value for row in rows)
    around = wilson(round(value * images), images)
    below = statistics.fmean(row.accuracy.value - row.accuracy.low for row in rows)
    above = statistics.fmean(row.accuracy.high - row.accuracy.value for row in rows)
    low = value - max(below, around.value - around.low)
    high = value + max(above, around.high - around.value)
    return Interval(value, max(0.0, low), min(1.0, high))
