"""Images whose label is probably wrong: confident learning on out-of-fold answers."""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tessera.errors import RunError

FOLDS = 5

STRENGTHS = (0.01, 0.1, 1.0)
"""Inverse penalties that are tried: sklearn's C."""

CERTAIN = 0.5
"""Probability that another class must have: more than all the rest together. Without it, features
that know little make confident learning suspect a third of all labels."""


class LabelError(NamedTuple):
    """An image that the others contradict."""

    image: int
    suggested: int
    """The class that a model which never saw this image gives it."""
    confidence: float
    """Probability of that class."""
    own: float
    """Probability of the class that the label says."""


def require_cleanlab() -> Callable[..., Any]:
    """Return cleanlab's search for wrong labels.

    Raises:
        RunError: It is not installed.
    """
    try:
        from cleanlab.filter import find_label_issues
    except ImportError as error:
        raise RunError(
            "finding label errors needs cleanlab\nhint: pip install 'tessera-vit[doctor]'"
        ) from error
    return find_label_issues


def label_errors(
    features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], *, seed: int = 0
) -> list[LabelError]:
    """Find labels that a linear classifier trained on the other images contradicts.

    Every image is answered for by a logistic regression that did not see it; confident learning
    (Northcutt et al., 2021, as cleanlab implements it) then estimates which labels are wrong.
    Classes with fewer than two images are left out, as nothing can be said of them.

    Returns:
        The most suspicious first.

    Raises:
        RunError: cleanlab is not installed.
    """
    find_label_issues = require_cleanlab()
    counts = np.bincount(labels)
    known = np.flatnonzero(counts[labels] >= 2)
    classes, numbers = np.unique(labels[known], return_inverse=True)
    if len(classes) < 2:
        return []
    probabilities = out_of_fold(features[known], numbers, seed=seed)
    ranked = find_label_issues(
        numbers, probabilities, return_indices_ranked_by="self_confidence", n_jobs=1
    )
    found = []
    for i in ranked:
        best = int(probabilities[i].argmax())
        confidence = float(probabilities[i, best])
        if best != numbers[i] and confidence > CERTAIN:
            own = float(probabilities[i, numbers[i]])
            found.append(LabelError(int(known[i]), int(classes[best]), confidence, own))
    return found


def out_of_fold(
    features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], *, seed: int
) -> Float[np.ndarray, "n k"]:
    """Return class probabilities from models that did not see the image.

    The penalty is the one with which the first fold says most about its labels.

    Args:
        labels: From 0, each at least twice.
    """
    features = features.astype(np.float64)  # else probabilities of many classes do not sum to 1
    counts = np.bincount(labels)
    folds = StratifiedKFold(min(FOLDS, int(counts.max())), shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        # Of a class with fewer images than folds, each is held out alone, and the others are known.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        parts = list(folds.split(features, labels))

    def ask(strength: float, part: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        rest, held_out = part
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
        return model.fit(features[rest], labels[rest]).predict_proba(features[held_out])

    def loss(strength: float) -> float:
        own = np.take_along_axis(ask(strength, parts[0]), labels[parts[0][1], None], axis=1)
        return float(-np.log(np.maximum(own, 1e-12)).mean())

    strength = min(STRENGTHS, key=loss)
    probabilities = np.zeros((len(labels), len(counts)))
    for part in parts:
        probabilities[part[1]] = ask(strength, part)
    return probabilities
