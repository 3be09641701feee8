"""Measurement of a model that says of every label whether it holds."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from sklearn.metrics import average_precision_score

from tessera.evaluation.base import Measured, Score
from tessera.evaluation.metrics import ClassMetrics, Interval, bootstrap_interval, f1_of

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

    @cached_property
    def macro_f1(self) -> Interval:
        """Mean F1 over the labels that some image has, with a bootstrap interval over images.

        As for one class an image, two images in n + 2 are taken to be mistakes: they are answered
        with other labels, each the next in the list.
        """
        count = len(self.labels)
        labels = np.concatenate([self.labels, self.labels])
        predicted = np.concatenate([self.predicted, np.roll(self.labels, 1, axis=1)])
        shares = np.repeat([1 / (count + 2), 2 / count / (count + 2)], count)
        draws = np.random.default_rng(0).multinomial(count, shares, size=RESAMPLES)
        tables = [table.astype(np.float32) for table in (labels & predicted, labels, predicted)]

        def of(weights: np.ndarray) -> np.ndarray:
            hits, support, guessed = (weights.astype(np.float32) @ table for table in tables)
            f1 = np.where(support > 0, 2 * hits / np.maximum(support + guessed, 1e-9), 0)
            return f1.sum(axis=1) / np.maximum((support > 0).sum(axis=1), 1)

        present = [c.f1 for c in self.classes if c.support]
        value = sum(present) / len(present) if present else 0.0
        return bootstrap_interval(value, float(of(count * shares[None])[0]), of(draws))

    def numbers(self) -> dict[str, Any]:
        hits = int((self.predicted & self.labels).sum())
        pooled = f1_of(hits, support=int(self.labels.sum()), guessed=int(self.predicted.sum()))
        precisions = label_precisions(self.logits, self.labels)
        rows = zip(self.class_names, self.classes, precisions, strict=True)
        return {
            "mean_average_precision": self.score.interval._asdict(),
            "macro_f1": self.macro_f1._asdict(),
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
