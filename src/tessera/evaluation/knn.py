"""Classification by the nearest training images, without any training."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch.nn import functional as F

NEIGHBOURS, TEMPERATURE = 20, 0.07
"""Published settings (Caron et al., 2021, "Emerging properties ...", appendix F.1; after Wu et al.,
2018)."""

ROWS = 1024
"""Images whose similarities to all training images are held at a time."""


def knn_scores(
    train: Float[np.ndarray, "n d"],
    labels: Int[np.ndarray, " n"],
    test: Float[np.ndarray, "m d"],
    num_classes: int,
    *,
    k: int = NEIGHBOURS,
    temperature: float = TEMPERATURE,
) -> Float[np.ndarray, "m k"]:
    """Return the share of the vote that every class gets for every test image.

    The ``k`` training images of the highest cosine similarity s vote for their class with weight
    exp(s / temperature).

    Raises:
        ValueError: There are fewer training images than ``k``, or the temperature is not positive.
    """
    if not 1 <= k <= len(train):
        raise ValueError(
            f"k={k} neighbours of {len(train)} training images\n"
            f"hint: k must be at least 1 and at most {len(train)}"
        )
    if not 0 < temperature < np.inf:
        raise ValueError(f"temperature={temperature} must be greater than 0 and finite")
    known = F.normalize(torch.from_numpy(train), dim=1)
    classes = torch.from_numpy(labels)
    parts = []
    for rows in torch.from_numpy(test).split(ROWS):
        nearest, which = (F.normalize(rows, dim=1) @ known.T).topk(k, dim=1)
        votes = ((nearest - nearest[:, :1]) / temperature).exp()  # of 1 for the nearest
        scores = torch.zeros(len(rows), num_classes, dtype=votes.dtype)
        scores.scatter_add_(1, classes[which], votes)
        parts.append(scores / scores.sum(dim=1, keepdim=True))
    return torch.cat(parts).numpy()
