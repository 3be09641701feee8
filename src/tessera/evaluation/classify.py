"""Measurement of a classifier: one class an image."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from tessera.evaluation.base import Measured, Score
from tessera.evaluation.metrics import (
    ClassMetrics,
    Interval,
    confusion_matrix,
    macro_f1,
    per_class,
    top_k_hits,
    wilson,
)


@dataclass(frozen=True, kw_only=True)
class Result(Measured):
    """What a classifier answered."""

    @property
    def predicted(self) -> Int[np.ndarray, " n"]:
        return self.logits.argmax(axis=1)

    @property
    def probabilities(self) -> Float[np.ndarray, "n k"]:
        shifted = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)

    @property
    def confusion(self) -> Int[np.ndarray, "k k"]:
        return confusion_matrix(self.labels, self.predicted, len(self.class_names))

    @property
    def accuracy(self) -> Interval:
        return wilson(int((self.predicted == self.labels).sum()), len(self.labels))

    @property
    def score(self) -> Score:
        return Score("accuracy", self.accuracy)

    @property
    def top5(self) -> Interval | None:
        """Top-5 accuracy; None where there are no more than 5 classes."""
        if len(self.class_names) <= 5:
            return None
        return wilson(top_k_hits(self.logits, self.labels, 5), len(self.labels))

    @property
    def classes(self) -> list[ClassMetrics]:
        return per_class(self.confusion)

    @property
    def macro_f1(self) -> float:
        return macro_f1(self.classes)

    @property
    def loss(self) -> float:
        """Mean cross-entropy of the true classes, in nats."""
        # From logits, since the probability of a class that is far behind rounds to 0.
        shifted = self.logits - self.logits.max(axis=1, keepdims=True)
        own = np.take_along_axis(shifted, self.labels[:, None], axis=1)[:, 0]
        return float((np.log(np.exp(shifted).sum(axis=1)) - own).mean())

    def numbers(self) -> dict[str, Any]:
        classes = zip(self.class_names, self.classes, strict=True)
        return {
            "accuracy": self.accuracy._asdict(),
            "top5_accuracy": self.top5._asdict() if self.top5 else None,
            "macro_f1": self.macro_f1,
            "classes": {name: metrics._asdict() for name, metrics in classes},
            "confusion": self.confusion.tolist(),
        }
