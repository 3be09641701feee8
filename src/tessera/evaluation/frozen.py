"""Features of a frozen model: what few-shot, k-NN and linear evaluation all begin with."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from tessera.data.dataset import Dataset
from tessera.data.loader import Unreadable, eval_batches
from tessera.data.preprocessing import HALF, Preprocessing
from tessera.models.vit import ViT


class Features(NamedTuple):
    """What a model makes of images, and what these are."""

    values: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"]
    rows: Int[np.ndarray, " n"]
    """Which images of the data; those that could not be read are not among them."""
    unreadable: tuple[str, ...] = ()
    """Why others are not here, a message each."""


def published_preprocessing(channels: int) -> Preprocessing:
    """Return how the paper's few-shot evaluation prepares images: resize 256, crop 224, [-1, 1].

    Its code presses the whole image into 256 x 256; here the short side becomes 256, and nothing
    is distorted.
    """
    half = HALF[:channels]
    return Preprocessing(
        size=(224, 224),
        channels=channels,
        crop_pct=0.875,
        interpolation="bilinear",
        mean=half,
        std=half,
    )


def represent(model: ViT, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
    """Return what the last dense layer sees: the paper's ``pre_logits``.

    That is the pooled tokens, through the hidden layer of the pre-training head where there is one.
    """
    pooled = model.pool(model.forward_features(images))
    return pooled if model.config.representation_dim is None else model.pre_logits(pooled).tanh()


@torch.inference_mode()
def frozen_features(
    model: ViT,
    data: Dataset,
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    batch_size: int = 256,
    workers: int | None = None,
    bad_share: float = 0.0,
    on_batch: Callable[[int], None] = lambda images: None,
) -> Features:
    """Run every image through the model once, prepared as told, in evaluation mode and float32.

    Args:
        bad_share: Share of the images that may be unreadable; they are left out, and named.
        on_batch: Called with the number of images done since the last call.

    Raises:
        ImageError: More images cannot be read than that.
        ValueError: None is left.
    """
    model.eval()
    unreadable = Unreadable(data, bad_share)
    batches = eval_batches(
        data,
        preprocessing,
        batch_size=batch_size,
        workers=workers,
        device=device,
        unreadable=unreadable,
    )
    parts, places = [], []
    for batch in batches:
        parts.append(represent(model, batch["image"]).float().cpu().numpy())
        places.append(batch["index"].numpy())
        on_batch(len(places[-1]))
    if not parts:
        raise ValueError("no image can be read, so there are no features")
    rows = np.concatenate(places)
    order = np.argsort(rows)
    return Features(
        np.concatenate(parts)[order],
        data.labels[rows[order]],
        rows[order],
        tuple(unreadable.found.values()),
    )
