"""Measurement of a model that says of every label whether it holds."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from sklearn.metrics import average_precision_score

from tessera.evaluation.base import Measured, Score
from tessera.evaluation.metrics import ClassMetrics, Interval, f1_of

RESAMPLES = 200
"""Bootstrap samples behind an interval."""


@dataclass(frozen=True, kw_only=True)
class MultiLabelResult(Measured):
    """What was answered for every label of every image; a label holds from probability 0.5."""

    @property
    def probabilities(self) -> Float[np.ndarray, "n k"]:
        return 1 / (1 + np.exp(-self.logits.astype(np.float64)))

    @property
    def predicted(self) -> Bool[np.ndarray, "n k"]:
        return self.logits > 0

    @property
    def loss(self) -> float:
        """Mean binary cross-entropy over images and labels, in nats."""
        x = self.logits.astype(np.float64)
        each = np.maximum(x, 0) - x * self.labels + np.log1p(np.exp(-np.abs(x)))
        return float(each.mean())

    @cached_property
    def score(self) -> Score:
        """Mean average precision over the labels, with a bootstrap interval over images."""
        rng = np.random.default_rng(0)
        count = len(self.labels)
        draws = (rng.integers(count, size=count) for _ in range(RESAMPLES))
        means = [mean_average_precision(self.logits[d], self.labels[d]) for d in draws]
        low, high = np.nanpercentile(means, [2.5, 97.5])
        value = mean_average_precision(self.logits, self.labels)
        return Score("mAP", Interval(value, float(low), float(high)))

    @property
    def classes(self) -> list[ClassMetrics]:
        predicted, labels = self.predicted, self.labels
        hits = (predicted & labels).sum(axis=0)
        triples = zip(hits, labels.sum(axis=0), predicted.sum(axis=0), strict=True)
        return [f1_of(int(h), support=int(s), guessed=int(g)) for h, s, g in triples]

    def numbers(self) -> dict[str, Any]:
        hits = int((self.predicted & self.labels).sum())
        pooled = f1_of(hits, support=int(self.labels.sum()), guessed=int(self.predicted.sum()))
        present = [c.f1 for c in self.classes if c.support]
        precisions = label_precisions(self.logits, self.labels)
        rows = zip(self.class_names, self.classes, precisions, strict=True)
        return {
            "mean_average_precision": self.score.interval._asdict(),
            "macro_f1": sum(present) / len(present) if present else 0.0,
            "micro_f1": pooled.f1,
            "exact_match": float((self.predicted == self.labels).all(axis=1).mean()),
            "classes": {
                name: {**c._asdict(), "average_precision": None if np.isnan(p) else float(p)}
                for name, c, p in rows
            },
        }


def mean_average_precision(
    logits: Float[np.ndarray, "n k"], labels: Bool[np.ndarray, "n k"]
) -> float:
    """Return the mean over the labels that some image has; NaN where there is none."""
    found = label_precisions(logits, labels)
    return float(np.nanmean(found)) if not np.isnan(found).all() else float("nan")


def label_precisions(
    logits: Float[np.ndarray, "n k"], labels: Bool[np.ndarray, "n k"]
) -> Float[np.ndarray, " k"]:
    """Return the average precision of every label; NaN for one that no image has."""
    columns = zip(labels.T, logits.T, strict=True)
    return np.array([average_precision_score(y, x) if y.any() else np.nan for y, x in columns])
