"""Patches that also see half a patch around them: SPT."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tessera.nn.patch_embed import patchify


def shifted(images: Float[Tensor, "b c h w"], shift: int) -> Float[Tensor, "b c5 h w"]:
    """Put beside an image its copies moved by ``shift`` pixels along the four diagonals.

    Lee et al. (2021), "Vision Transformer for Small-Size Datasets", section 3.1. The copies go
    down right, down left, up right and up left; what enters at the edges is zero.
    """
    height, width = images.shape[-2:]
    padded = F.pad(images, [shift] * 4)
    copies = [
        padded[..., y : y + height, x : x + width] for y in (0, 2 * shift) for x in (0, 2 * shift)
    ]
    return torch.cat([images, *copies], dim=1)


class ShiftedPatchEmbed(nn.Module):
    """Concatenate an image with four shifted copies, patchify, normalise, project: SPT.

    Args:
        patch_size: Side of a patch in pixels; the copies move by half of it, rounded down.
    """

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        pixels = 5 * patch_size**2 * in_chans
        self.norm = nn.LayerNorm(pixels)
        self.proj = nn.Linear(pixels, embed_dim)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        images = shifted(images, self.patch_size // 2)
        return self.proj(self.norm(patchify(images, self.patch_size)))
