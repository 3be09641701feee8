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
        if best != numbers[i]:
            own = float(probabilities[i, numbers[i]])
            suggested = int(classes[best])
            found.append(LabelError(int(known[i]), suggested, float(probabilities[i, best]), own))
    return found


def out_of_fold(
    features: Float[np.ndarray, "n d"], labels: Int[np.ndarray, " n"], *, seed: int
) -> Float[np.ndarray, "n k"]:
    """Return class probabilities from models that did not see the image.

    Args:
        labels: From 0, each at least twice.
    """
    counts = np.bincount(labels)
    folds = StratifiedKFold(min(FOLDS, int(counts.max())), shuffle=True, random_state=seed)
    probabilities = np.zeros((len(labels), len(counts)))
    with warnings.catch_warnings():
        # Of a class with fewer images than folds, each is held out alone, and the others are known.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        parts = list(folds.split(features, labels))
    for rest, held_out in parts:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
        model.fit(features[rest], labels[rest])
        probabilities[held_out] = model.predict_proba(features[held_out])
    return probabilities
