"""What the first layer looks for: principal components of its filters."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tessera.models.vit import ViT
from tessera.nn.patch_embed import LinearPatchEmbed, linear_to_conv

COMPONENTS = 28
"""Components of Figure 7, in 4 rows of 7."""


class Filters(NamedTuple):
    """Directions in the space of a patch's pixels, the most common one first."""

    components: Float[Tensor, "k c p p"]
    """Of unit length; the value of largest size is positive."""
    shares: Float[Tensor, " k"]
    """Share of the filters' variance that each explains."""
    layer: str
    """Which layer the filters are of."""


def principal_filters(model: ViT, count: int = COMPONENTS) -> Filters:
    """Return the first principal components of the filters that see pixels.

    Dosovitskiy et al. (2020), Figure 7, left: each of the D filters of the patch embedding is one
    sample of P * P * C numbers. In a hybrid or a network, the filters of its first convolution.

    Raises:
        ValueError: No layer of this model sees the pixels as they are.
    """
    weight, layer = _filters(model)
    flat = weight.detach().cpu().double().flatten(1)
    flat = flat - flat.mean(dim=0)
    _, s, vh = torch.linalg.svd(flat, full_matrices=False)
    kept = min(count, len(s))
    parts = vh[:kept]
    peaks = parts.gather(1, parts.abs().argmax(dim=1, keepdim=True))
    parts = parts * torch.where(peaks < 0, -1.0, 1.0)
    shares = s[:kept] ** 2 / (s**2).sum().clamp(min=1e-30)
    return Filters(parts.reshape(kept, *weight.shape[1:]).float(), shares.float(), layer)


def _filters(model: ViT) -> tuple[Tensor, str]:
    c, stem = model.config, model.patch_embed
    if isinstance(stem, LinearPatchEmbed):
        if c.patch_norm:
            raise ValueError("a norm stands before the filters, so they see no pixels")
        return linear_to_conv(stem.proj.weight, c.patch_size), "patch_embed.proj"
    for name, module in stem.named_modules():
        if isinstance(module, nn.Conv2d) and module.weight.shape[1] == c.in_chans:
            return module.weight, f"patch_embed.{name}"
    raise ValueError(f"patch_embed={c.patch_embed!r} has no layer that sees pixels alone")
