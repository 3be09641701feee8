"""Calibration: whether confidence is accuracy, and the temperature that makes it so."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import brentq

BINS = 15
"""Bins of equal width over the confidence (Guo et al., 2017, section 2)."""

LOWEST, HIGHEST = 0.05, 20.0
"""Bounds of a temperature: beyond them the answers say nothing about where it should be."""

CHUNK = 2**22
"""Numbers of an ``n k`` table that are held as float64 at a time."""


@dataclass(frozen=True, kw_only=True)
class Reliability:
    """How often answers of about the same confidence are right, by bins of that confidence."""

    counts: Int[np.ndarray, " bins"]
    accuracy: Float[np.ndarray, " bins"]
    """Share of right answers in each bin; 0 in an empty one."""
    confidence: Float[np.ndarray, " bins"]
    """Mean confidence in each bin; 0 in an empty one."""

    @property
    def ece(self) -> float:
        """The expected calibration error: the mean gap between the two, weighted by counts."""
        gaps = np.abs(self.accuracy - self.confidence)
        return float((self.counts * gaps).sum() / self.counts.sum())

    def as_dict(self) -> dict[str, Any]:
        """Return the bins as JSON knows them."""
        return {
            "counts": self.counts.tolist(),
            "accuracy": self.accuracy.tolist(),
            "confidence": self.confidence.tolist(),
        }


def reliability(
    confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], bins: int = BINS
) -> Reliability:
    """Sort answers into bins of equal width: bin m holds confidences in ((m-1)/bins, m/bins].

    Args:
        confidence: Probability of the class that was answered.
        correct: Whether it was the true one.

    Raises:
        ValueError: There are no answers.
    """
    if not len(confidence):
        raise ValueError("no answers to judge the calibration of")
    edges = np.arange(1, bins) / bins
    place = np.searchsorted(edges, confidence, side="left")
    counts = np.bincount(place, minlength=bins)
    filled = np.maximum(counts, 1)
    return Reliability(
        counts=counts,
        accuracy=np.bincount(place, weights=correct, minlength=bins) / filled,
        confidence=np.bincount(place, weights=confidence, minlength=bins) / filled,
    )


def softmax(logits: Float[np.ndarray, "n k"], temperature: float = 1.0) -> Float[np.ndarray, "n k"]:
    """Return probabilities of logits that are divided by a temperature, in the logits' type."""
    shifted = np.exp((logits - logits.max(axis=1, keepdims=True)) / temperature)
    return shifted / shifted.sum(axis=1, keepdims=True)


def negative_log_likelihood(
    logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"], temperature: float = 1.0
) -> float:
    """Return the mean cross-entropy of the true classes, in nats."""
    # From logits, since the probability of a class that is far behind rounds to 0.
    shifted = (logits - logits.max(axis=1, keepdims=True)) / temperature
    own = np.take_along_axis(shifted, labels[:, None], axis=1)[:, 0]
    return float((np.log(np.exp(shifted).sum(axis=1)) - own).mean())


def fit_temperature(logits: Float[np.ndarray, "n k"], labels: Int[np.ndarray, " n"]) -> float:
    """Return the temperature that minimises the cross-entropy (Guo et al., 2017, section 4.2).

    The n labels are smoothed by 1 / (n + 1), as Platt (1999) smooths the targets of his scaling.
    So a few images that are all answered rightly do not make the model certain, as they would
    otherwise (the minimum lies at 0 then): of n right answers the mean confidence becomes about
    n / (n + 1). With many images the effect is far below that of chance.

    The temperature is kept within ``LOWEST`` and ``HIGHEST``. It is 1 where it changes nothing:
    of one class, or of logits that are all equal.

    Raises:
        ValueError: There are no images, or logits that are not finite.
    """
    if not len(logits):
        raise ValueError("no images to fit a temperature to")
    if not np.isfinite(logits).all():
        raise ValueError("logits that are not finite have no temperature")
    rows = max(1, CHUNK // logits.shape[1])
    parts = [_centred(logits[i : i + rows]) for i in range(0, len(logits), rows)]
    own = sum(
        float(np.take_along_axis(part, labels[i : i + rows, None], axis=1).sum())
        for i, part in zip(range(0, len(logits), rows), parts, strict=True)
    )
    # Centred logits have the mean 0, so the uniform part of a smoothed label adds nothing.
    wanted = own * len(logits) / (len(logits) + 1)

    def slope(log_beta: float) -> float:
        """The derivative of the cross-entropy by the inverse temperature, which only rises."""
        beta = np.exp(log_beta)
        return sum(_expected(part, beta) for part in parts) - wanted

    if not any(part.any() for part in parts):
        return 1.0
    low, high = np.log(1 / HIGHEST), np.log(1 / LOWEST)
    if slope(low) >= 0:
        return HIGHEST
    if slope(high) <= 0:
        return LOWEST
    return float(np.exp(-brentq(slope, low, high, xtol=1e-6)))


def _centred(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    logits = logits - logits.max(axis=1, keepdims=True)  # first, so that equal ones become 0
    return logits - logits.mean(axis=1, keepdims=True)


def _expected(logits: Float[np.ndarray, "n k"], beta: float) -> float:
    """Return the sum over images of the logit that is expected under the model's own answer."""
    weights = np.exp((logits - logits.max(axis=1, keepdims=True)) * np.float32(beta))
    return float((np.einsum("nk,nk->n", weights, logits) / weights.sum(axis=1)).sum())
