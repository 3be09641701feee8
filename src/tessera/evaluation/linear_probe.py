"""A linear classifier on frozen features: what a representation is worth as it is."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression

from tessera.data.dataset import Dataset
from tessera.data.loader import Unreadable, eval_batches
from tessera.data.preprocessing import Preprocessing
from tessera.models.vit import ViT

STRENGTHS = tuple(10.0**k for k in range(-4, 3))
"""Inverse penalties that are tried: sklearn's C."""


class LinearHead(NamedTuple):
    """A head for features as they are, and how it was chosen."""

    weight: Float[np.ndarray, "k d"]
    bias: Float[np.ndarray, " k"]
    strength: float
    """The inverse penalty with the lowest validation loss."""


@torch.inference_mode()
def features(
    model: ViT,
    data: Dataset,
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    batch_size: int = 256,
    workers: int | None = None,
    unreadable: Unreadable | None = None,
) -> tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " n"]]:
    """Return the pooled tokens of every image, prepared as for prediction, and which these are.

    Args:
        unreadable: Where images are noted that cannot be read, which are then left out; None
            allows no such image.

    Raises:
        ImageError: More images cannot be read than are allowed.
    """
    model.eval()
    batches = eval_batches(
        data,
        preprocessing,
        batch_size=batch_size,
        workers=workers,
        device=device,
        unreadable=unreadable,
    )
    parts, rows = [], []
    for batch in batches:
        parts.append(model.pool(model.forward_features(batch["image"])).float().cpu())
        rows.append(batch["index"])
    places = torch.cat(rows)
    order = torch.argsort(places)
    return torch.cat(parts)[order].numpy(), places[order].numpy()


def fit_head(
    train: tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " n"]],
    val: tuple[Float[np.ndarray, "m d"], Int[np.ndarray, " m"]],
    num_classes: int,
) -> LinearHead:
    """Fit multinomial logistic regression by L-BFGS, with the penalty that suits ``val`` best.

    Features are standardised for the fit; the head that is returned has that folded in.
    """
    mean, std = train[0].mean(axis=0), train[0].std(axis=0) + 1e-6
    whitened, held_out = (train[0] - mean) / std, (val[0] - mean) / std
    best: tuple[float, LinearHead] | None = None
    for strength in STRENGTHS:
        model = LogisticRegression(C=strength, max_iter=1000).fit(whitened, train[1])
        weight, bias = _all_classes(model, num_classes)
        loss = _loss(held_out @ weight.T + bias, val[1])
        if best is None or loss < best[0]:
            weight = weight / std
            best = loss, LinearHead(weight, bias - weight @ mean, strength)
    assert best is not None
    return best[1]


def _all_classes(
    model: LogisticRegression, num_classes: int
) -> tuple[Float[np.ndarray, "k d"], Float[np.ndarray, " k"]]:
    """Give every class a row: sklearn has one row for two classes, and none for absent ones."""
    weight = np.zeros((num_classes, model.coef_.shape[1]))
    bias = np.full(num_classes, -30.0)  # a class that was never seen is never predicted
    if len(model.classes_) == 2:
        weight[model.classes_] = np.stack([-model.coef_[0], model.coef_[0]]) / 2
        bias[model.classes_] = np.stack([-model.intercept_[0], model.intercept_[0]]) / 2
    else:
        weight[model.classes_], bias[model.classes_] = model.coef_, model.intercept_
    return weight, bias


def _loss(logits: Float[np.ndarray, "m k"], labels: Int[np.ndarray, " m"]) -> float:
    """Mean cross-entropy in nats."""
    scores = torch.from_numpy(logits)
    return float(torch.nn.functional.cross_entropy(scores, torch.from_numpy(labels)))
