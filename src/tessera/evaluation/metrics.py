"""Numbers that say how well labels were predicted, with their uncertainty."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 400
"""Bootstrap samples behind an interval."""

DRAWN_AT_ONCE = 2**20
"""Cells of confusion matrices that are held at a time."""


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


def macro_f1_interval(
    labels: Int[np.ndarray, " n"], predicted: Int[np.ndarray, " n"], num_classes: int
) -> Interval:
    """Return macro-F1 with a 95 % interval from a seeded bootstrap over images (Efron, 1979).

    To draw n images with replacement is to draw how many of them fall into each cell of the
    confusion matrix that is not empty; so a draw costs no more than there are such cells. The
    interval is normal, from the deviation of the draws, for two reasons their percentiles are not
    used: F1 of a class with few images is biased downwards, and draws from a sample are so twice
    over (with 20 images a class the percentiles cover the truth 77 % of the time, measured); that
    bias is estimated from the draws and shifts the interval. And where no image is wrong, no draw
    is; so two images in n + 2 are taken to be mistakes, as Agresti and Coull (1998) add two.
    """
    cells, counts = np.unique(labels * num_classes + predicted, return_counts=True)
    true, guess = np.divmod(cells, num_classes)
    value = _macro_f1_of_cells(true, guess, counts[None], num_classes)
    total = len(labels)
    present, support = np.unique(labels, return_counts=True)
    true = np.concatenate([true, present])
    guess = np.concatenate([guess, (present + 1) % num_classes])
    shares = np.concatenate([counts, support * (2 / total)]) / (total + 2)
    centre = _macro_f1_of_cells(true, guess, shares[None], num_classes)
    rng = np.random.default_rng(0)
    size = max(1, DRAWN_AT_ONCE // len(shares))
    drawn = [
        _macro_f1_of_cells(true, guess, rng.multinomial(total, shares, size=rows), num_classes)
        for rows in (min(size, RESAMPLES - done) for done in range(0, RESAMPLES, size))
    ]
    return bootstrap_interval(float(value[0]), float(centre[0]), np.concatenate(drawn))


def bootstrap_interval(value: float, centre: float, drawn: Float[np.ndarray, " b"]) -> Interval:
    """Return a share with its normal 95 % interval, shifted by a downward bias of the draws.

    Args:
        value: What was measured; always within the interval.
        centre: The share in what was drawn from.
        drawn: The share in each draw.
    """
    middle = value + max(0.0, centre - float(drawn.mean()))
    half = 1.959964 * float(drawn.std())
    low, high = min(value, max(0.0, middle - half)), max(value, min(1.0, middle + half))
    return Interval(value, low, high)


def _macro_f1_of_cells(
    true: np.ndarray, guess: np.ndarray, counts: np.ndarray, num_classes: int
) -> np.ndarray:
    """Return the mean of F1, 2 hits / (true ones + predicted ones), of classes with images.

    Args:
        counts: Images in each cell, ``b cells``.
    """
    starts = num_classes * np.arange(len(counts))[:, None]

    def by_class(classes: np.ndarray, weights: np.ndarray) -> np.ndarray:
        size = num_classes * len(counts)
        flat = np.bincount((starts + classes).ravel(), weights.ravel(), size)
        return flat.reshape(len(counts), num_classes)

    support, guessed = by_class(true, counts), by_class(guess, counts)
    hits = by_class(true, counts * (true == guess))
    f1 = np.where(support > 0, 2 * hits / np.maximum(support + guessed, 1e-300), 0)
    return f1.sum(axis=1) / (support > 0).sum(axis=1)


def top_k_hits(logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], k: int) -> int:
    """Count images whose class is among the ``k`` most likely; ties and NaN count against."""
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    rank = (~(logits < own)).sum(axis=1)  # counts the class itself; not >=, which NaN would pass
    return int((rank <= k).sum())
