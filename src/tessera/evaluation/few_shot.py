"""Few-shot linear accuracy: ridge regression in closed form on features of a frozen model.

The protocol of the paper's few-shot figures (Dosovitskiy et al., 2020, section 4.1), step by step
as in its authors' code, ``fewshot_lsr`` of big_vision.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

BIAS = 100.0
"""The constant feature, so large that the penalty hardly touches its weight."""

FLOOR = 1e-5
"""Added to every standard deviation before it divides."""

PENALTY = 2.0**10
"""The published lambda."""

SHOTS = (1, 5, 10, 25)
"""Training images a class, as published."""

SEEDS = (0, 1, 2)
"""Of the draws, as published."""


class LinearMap(NamedTuple):
    """Scores of features as they are, with whitening and bias folded in."""

    weight: Float[np.ndarray, "d k"]
    bias: Float[np.ndarray, " k"]

    def predict(self, features: Float[np.ndarray, "n d"]) -> Int[np.ndarray, " n"]:
        """Return the class with the highest score of every row."""
        return (features @ self.weight + self.bias).argmax(axis=1)


@dataclass(frozen=True, kw_only=True)
class RidgePath:
    """Solutions of W = (X^T X + lambda I)^-1 X^T Y for every lambda from one decomposition.

    Where there are at least as many rows as columns it is that of X^T X = Q E Q^T, and
    W = Q (E + lambda)^-1 Q^T X^T Y; else that of X X^T, and W = X^T Q (E + lambda)^-1 Q^T Y.
    """

    left: Float[np.ndarray, "d m"]
    eigenvalues: Float[np.ndarray, " m"]
    right: Float[np.ndarray, "m k"]

    def weights(self, penalty: float) -> Float[np.ndarray, "d k"]:
        """Return W for one lambda, which must be positive."""
        return (self.left / (self.eigenvalues + penalty)) @ self.right


def ridge_path(x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n k"]) -> RidgePath:
    """Decompose once what every penalty needs."""
    if x.shape[0] >= x.shape[1]:
        eigenvalues, q = np.linalg.eigh(x.T @ x)
        return RidgePath(left=q, eigenvalues=eigenvalues, right=q.T @ (x.T @ y))
    eigenvalues, q = np.linalg.eigh(x @ x.T)
    return RidgePath(left=x.T @ q, eigenvalues=eigenvalues, right=q.T @ y)


def fit_few_shot(
    features: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    num_classes: int,
    penalties: Sequence[float] = (PENALTY,),
) -> list[LinearMap]:
    """Fit one linear map a penalty, in double precision.

    Features are whitened by the mean and standard deviation of these very rows, and joined by the
    constant ``BIAS``; the targets are 1 for the own class and -1 for every other.

    Raises:
        ValueError: A penalty is not positive.
    """
    if not penalties or not all(0 < penalty < np.inf for penalty in penalties):
        raise ValueError(f"penalties={tuple(penalties)} must be positive and finite, at least one")
    values = features.astype(np.float64)
    mean, std = values.mean(axis=0), values.std(axis=0) + FLOOR
    x = np.pad((values - mean) / std, ((0, 0), (0, 1)), constant_values=BIAS)
    y = 2.0 * np.eye(num_classes)[labels] - 1.0
    path = ridge_path(x, y)
    found = []
    for penalty in penalties:
        weights = path.weights(penalty)
        weight = weights[:-1] / std[:, None]
        found.append(LinearMap(weight, BIAS * weights[-1] - mean @ weight))
    return found


def draw_shots(
    labels: Int[np.ndarray, " n"], num_classes: int, shots: int, seed: int
) -> Int[np.ndarray, " m"]:
    """Draw so many images of every class, the same for the same seed.

    Fewer shots of one seed are the first of its more shots.

    Raises:
        ValueError: A class has fewer images.
    """
    rng = np.random.default_rng(seed)
    counts = np.bincount(labels, minlength=num_classes)
    if counts.min() < shots:
        raise ValueError(f"{shots} shots: class {counts.argmin()} has only {counts.min()} images")
    each = [rng.permutation(np.flatnonzero(labels == k))[:shots] for k in range(num_classes)]
    return np.concatenate(each)


class FewShotResult(NamedTuple):
    """How many test images one draw with one penalty got right."""

    shots: int
    penalty: float
    seed: int
    hits: int


def few_shot(
    train: tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " n"]],
    test: tuple[Float[np.ndarray, "m d"], Int[np.ndarray, " m"]],
    num_classes: int,
    *,
    shots: Sequence[int] = SHOTS,
    seeds: Sequence[int] = SEEDS,
    penalties: Sequence[float] = (PENALTY,),
) -> list[FewShotResult]:
    """Measure every number of shots with every penalty and seed.

    Raises:
        ValueError: A class has fewer training images than shots, or a penalty is not positive.
    """
    found = []
    for count in shots:
        for seed in seeds:
            rows = draw_shots(train[1], num_classes, count, seed)
            maps = fit_few_shot(train[0][rows], train[1][rows], num_classes, penalties)
            for penalty, linear in zip(penalties, maps, strict=True):
                hits = int((linear.predict(test[0]) == test[1]).sum())
                found.append(FewShotResult(count, penalty, seed, hits))
    return found
