"""Tokens that are much larger than the others: where a model keeps what belongs to no place."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tessera.models.vit import ViT

OUTLIER = 3.0
"""A patch token is an outlier when its norm is this many times the median of its image."""


class TokenNorms(NamedTuple):
    """Euclidean norms of tokens after every block, over all images."""

    quantiles: Float[Tensor, "depth 5"]
    """0, 25, 50, 75 and 100 % of the patch tokens."""
    specials: dict[str, list[float]]
    """Means of the class, distillation and register tokens by block, for the kinds that exist."""
    last: Float[Tensor, " n"]
    """All patch tokens after the last block."""
    outliers: float
    """Share of these that are outliers."""
    images: int

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON keeps."""
        return {
            "quantiles_by_block": self.quantiles.tolist(),
            "special_tokens": self.specials,
            "outlier_factor": OUTLIER,
            "outlier_share": self.outliers,
            "images": self.images,
        }


@torch.no_grad()
def token_norms(model: ViT, images: Sequence[Float[Tensor, "1 c h w"]]) -> TokenNorms:
    """Return norms of tokens after each block, before the final norm.

    After Darcet et al. (2023), "Vision transformers need registers", section 2, who cut the two
    heaps of DINOv2's norms at 150; here an outlier is three times the median, so that models of
    any scale compare. In a network without an encoder, the last features count as one block.

    Raises:
        ValueError: No images.
    """
    if not images:
        raise ValueError("token norms are measured on images, and none were given")
    depth = model.config.depth
    patches: list[list[Tensor]] = [[] for _ in range(max(depth, 1))]
    specials: dict[str, list[list[float]]] = {}
    outliers: list[Tensor] = []
    for image in images:
        after = model.forward_intermediates(image, range(depth)) if depth else ()
        for block, tokens in enumerate(after or [model.forward_features(image)]):
            patches[block].append(tokens.patches[0].float().norm(dim=-1).cpu())
            for kind in ("cls", "dist", "registers"):
                own: Tensor = getattr(tokens, kind)[0]
                if len(own):
                    rows = specials.setdefault(kind, [[] for _ in patches])
                    rows[block].append(float(own.float().norm(dim=-1).mean()))
        newest = patches[-1][-1]
        outliers.append(newest > OUTLIER * newest.median())
    shares = torch.tensor([0, 0.25, 0.5, 0.75, 1.0])
    return TokenNorms(
        torch.stack([torch.cat(own).quantile(shares) for own in patches]),
        {kind: [sum(r) / len(r) for r in rows] for kind, rows in specials.items()},
        torch.cat(patches[-1]),
        float(torch.cat(outliers).float().mean()),
        len(images),
    )
