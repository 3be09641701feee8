"""Measurement of a classifier: one class an image."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from tessera.evaluation.base import Measured, Score
from tessera.evaluation.calibration import (
    Reliability,
    negative_log_likelihood,
    reliability,
    softmax,
)
from tessera.evaluation.metrics import (
    ClassMetrics,
    Interval,
    confusion_matrix,
    macro_f1_interval,
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
    def correct(self) -> Bool[np.ndarray, " n"]:
        return self.predicted == self.labels

    @property
    def probabilities(self) -> Float[np.ndarray, "n k"]:
        """As ``predict`` gives them: with the model's temperature, if it has one."""
        return softmax(self.logits, self.temperature or 1.0)

    def reliability(self, temperature: float = 1.0) -> Reliability:
        """Return how often answers are right, by the confidence that a temperature gives them."""
        confidence = softmax(self.logits, temperature).max(axis=1)
        return reliability(confidence, self.correct)

    @property
    def confusion(self) -> Int[np.ndarray, "k k"]:
        return confusion_matrix(self.labels, self.predicted, len(self.class_names))

    @property
    def accuracy(self) -> Interval:
        return wilson(int(self.correct.sum()), len(self.labels))

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

    @cached_property
    def macro_f1(self) -> Interval:
        return macro_f1_interval(self.labels, self.predicted, len(self.class_names))

    @property
    def loss(self) -> float:
        """Mean cross-entropy of the true classes, in nats; without the temperature."""
        return negative_log_likelihood(self.logits, self.labels)

    @property
    def calibration(self) -> dict[str, Any]:
        """How far confidence is accuracy, as JSON knows it: before and after the temperature.

        ``ece`` is the expected calibration error, ``nll`` the mean cross-entropy in nats.
        """
        return {
            "temperature": self.temperature,
            "before": self.calibration_at(1.0),
            "after": None if self.temperature is None else self.calibration_at(self.temperature),
        }

    def calibration_at(self, temperature: float) -> dict[str, Any]:
        """Return the errors and the bins that some temperature gives."""
        found = self.reliability(temperature)
        nll = negative_log_likelihood(self.logits, self.labels, temperature)
        return {"ece": found.ece, "nll": nll, "bins": found.as_dict()}

    def numbers(self) -> dict[str, Any]:
        classes = zip(self.class_names, self.classes, strict=True)
        return {
            "accuracy": self.accuracy._asdict(),
            "top5_accuracy": self.top5._asdict() if self.top5 else None,
            "macro_f1": self.macro_f1._asdict(),
            "classes": {name: metrics._asdict() for name, metrics in classes},
            "confusion": self.confusion.tolist(),
            "calibration": self.calibration,
        }
