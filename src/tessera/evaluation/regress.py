"""Measurement of a model that answers with a number."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from tessera.evaluation.base import Measured, Score
from tessera.evaluation.metrics import Interval


@dataclass(frozen=True, kw_only=True)
class RegressionResult(Measured):
    """The numbers that were answered, in the unit of the labels."""

    @property
    def predicted(self) -> Float[np.ndarray, " n"]:
        return self.logits[:, 0].astype(np.float64)

    @property
    def errors(self) -> Float[np.ndarray, " n"]:
        return self.predicted - self.labels

    @property
    def loss(self) -> float:
        """Mean squared error."""
        return float((self.errors**2).mean())

    @property
    def score(self) -> Score:
        """Mean absolute error, with the interval of a mean of many numbers."""
        sizes = np.abs(self.errors)
        mean = float(sizes.mean())
        half = 1.959964 * float(sizes.std(ddof=1)) / math.sqrt(len(sizes)) if len(sizes) > 1 else 0
        return Score("MAE", Interval(mean, max(0.0, mean - half), mean + half), percent=False)

    def numbers(self) -> dict[str, Any]:
        spread = float(((self.labels - self.labels.mean()) ** 2).mean())
        return {
            "mean_absolute_error": self.score.interval._asdict(),
            "root_mean_squared_error": math.sqrt(self.loss),
            "r2": 1 - self.loss / spread if spread else None,
            "bias": float(self.errors.mean()),
        }
