"""Numbers that say how well labels were predicted, with their uncertainty."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Interval(NamedTuple):
    """A measured share and its 95 % confidence interval."""

    value: float
    low: float
    high: float


def wilson(hits: int, total: int) -> Interval:
    """Return a share of hits with its 95 % score interval (Wilson, 1927).

    Raises:
        ValueError: ``total`` is not positive.
    """
    if total < 1:
        raise ValueError("no images to measure")
    z = 1.959964
    share = hits / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    spread = share * (1 - share) / total + z**2 / (4 * total**2)
    half = z / (1 + z**2 / total) * math.sqrt(spread)
    return Interval(share, max(0.0, centre - half), min(1.0, centre + half))


def confusion_matrix(
    labels: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], num_classes: int
) -> Int[np.ndarray, "k k"]:
    """Count images by true class (row) and predicted class (column)."""
    flat = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return flat.reshape(num_classes, num_classes)


class ClassMetrics(NamedTuple):
    """How one class fared; shares are 0 where nothing was there to be shared."""

    precision: float
    recall: float
    f1: float
    support: int
    """Images of this class."""


def per_class(confusion: Int[np.ndarray, "k k"]) -> list[ClassMetrics]:
    """Return precision, recall and F1 of every class."""
    found = []
    for k in range(confusion.shape[0]):
        support, guessed = int(confusion[k].sum()), int(confusion[:, k].sum())
        found.append(f1_of(int(confusion[k, k]), support=support, guessed=guessed))
    return found


def f1_of(hits: int, *, support: int, guessed: int) -> ClassMetrics:
    """Return precision, recall and F1 from counts: of hits, of true ones, of those predicted."""
    precision = hits / guessed if guessed else 0.0
    recall = hits / support if support else 0.0
    both = precision + recall
    return ClassMetrics(precision, recall, 2 * precision * recall / both if both else 0.0, support)


def macro_f1(classes: list[ClassMetrics]) -> float:
    """Return the plain mean of F1 over the classes that have images."""
    present = [c.f1 for c in classes if c.support]
    return sum(present) / len(present)


def top_k_hits(logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], k: int) -> int:
    """Count images whose class is among the ``k`` most likely; ties and NaN count against."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    rank = (~(logits < own)).sum(axis=1)  # counts the class itself; not >=, which NaN would pass
    return int((rank <= k).sum())
