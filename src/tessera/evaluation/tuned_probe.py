"""The linear probe with all its images: the penalty is chosen on some, then all are fitted."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression

from tessera.evaluation.linear_probe import fit_head


class TunedProbe(NamedTuple):
    """What the probe says of test images, and how it was chosen."""

    predicted: Int[np.ndarray, " m"]
    strength: float
    """The inverse penalty (sklearn's C) with the lowest loss on the tuning images."""


def tuned_probe(
    rest: tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " n"]],
    tuning: tuple[Float[np.ndarray, "t d"], Int[np.ndarray, " t"]],
    test: Float[np.ndarray, "m d"],
    num_classes: int,
) -> TunedProbe:
    """Choose the penalty by fitting ``rest`` and looking at ``tuning``, then fit both together.

    So no test image has a part in any choice, and no training image is wasted.
    """
    strength = fit_head(rest, tuning, num_classes).strength
    values = np.concatenate([rest[0], tuning[0]])
    mean, std = values.mean(axis=0), values.std(axis=0) + 1e-6
    head = LogisticRegression(C=strength, max_iter=1000)
    head.fit((values - mean) / std, np.concatenate([rest[1], tuning[1]]))
    return TunedProbe(head.predict((test - mean) / std), strength)
