"""Paired comparison of two classifiers on the same images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool
from scipy.special import bdtr

from tessera.evaluation.metrics import Interval

FEW = 25
"""Below so many images that only one of the two gets right, the test is the exact one."""

RESAMPLES = 4000
"""Bootstrap samples behind an interval."""

SIGNIFICANT = 0.05
"""p-value below which a difference is more than chance."""


@dataclass(frozen=True, kw_only=True)
class Paired:
    """What tells two classifiers apart on images that both answered."""

    images: int
    both: int
    """Images that both get right."""
    only_first: int
    only_second: int
    difference: Interval
    """Accuracy of the second less that of the first."""
    p_value: float
    """How often chance alone gives a difference as large, were the two equally good."""
    test: Literal["exact", "mid-p"]

    @property
    def neither(self) -> int:
        """Images that both get wrong."""
        return self.images - self.both - self.only_first - self.only_second

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON knows them; shares are in [0, 1]."""
        return {
            "images": self.images,
            "accuracy": [
                (self.both + self.only_first) / self.images,
                (self.both + self.only_second) / self.images,
            ],
            "both_right": self.both,
            "only_first_right": self.only_first,
            "only_second_right": self.only_second,
            "neither_right": self.neither,
            "difference": self.difference._asdict(),
            "test": f"McNemar, {self.test}",
            "p_value": self.p_value,
        }


def paired(first: Bool[np.ndarray, " n"], second: Bool[np.ndarray, " n"]) -> Paired:
    """Compare which images two classifiers get right, image by image.

    Raises:
        ValueError: There are no images.
    """
    if not len(first):
        raise ValueError("no images to compare on")
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    few = only_first + only_second < FEW
    return Paired(
        images=len(first),
        both=int((first & second).sum()),
        only_first=only_first,
        only_second=only_second,
        difference=difference_interval(only_first, only_second, len(first)),
        p_value=mcnemar(only_first, only_second, mid=not few),
        test="exact" if few else "mid-p",
    )


def mcnemar(only_first: int, only_second: int, *, mid: bool = False) -> float:
    """Return the two-sided p-value of McNemar's test (1947).

    If the two are equally good, an image that only one of them gets right is as likely the
    first's as the second's: a fair coin. The exact p-value is the binomial one, which is too large
    rather than too small; ``mid`` counts half of what is as likely as what was seen, which holds
    its level more closely (Fagerland, Lydersen and Laake, 2013).

    Args:
        only_first: Images that only the first gets right.
        only_second: Images that only the second gets right.
    """
    total, smaller = only_first + only_second, min(only_first, only_second)
    if not total:
        return 1.0
    tail = float(bdtr(smaller, total, 0.5))
    if not mid:
        return min(1.0, 2 * tail)
    log_choices = math.lgamma(total + 1) - math.lgamma(smaller + 1)
    log_choices -= math.lgamma(total - smaller + 1)
    return min(1.0, 2 * tail - math.exp(log_choices - total * math.log(2)))


def difference_interval(only_first: int, only_second: int, images: int) -> Interval:
    """Return the difference in accuracy, second less first, with a 95 % bootstrap interval.

    To draw images with replacement, in pairs, is to draw how many of them only the first and only
    the second gets right; 4,000 seeded draws. To each of the two kinds one image is added, as
    Bonett and Price (2012) do: draws from few images would claim too much, and from none would
    claim that the two are equal to the last digit.
    """
    total = images + 2
    shares = np.array([only_first + 1, only_second + 1, images - only_first - only_second])
    draws = np.random.default_rng(0).multinomial(total, shares / total, size=RESAMPLES)
    differences = (draws[:, 1] - draws[:, 0]) / total
    low, high = np.percentile(differences, [2.5, 97.5])
    value = (only_second - only_first) / images
    return Interval(value, min(value, float(low)), max(value, float(high)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number, in the order given (Holm, 1979)."""
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, largest)
    return adjusted.tolist()
