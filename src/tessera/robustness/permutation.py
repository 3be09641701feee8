"""The cells of an image in another order, and a model that does not know where its patches are.

Naseer et al. (2021), "Intriguing Properties of Vision Transformers", section 3.3.
"""

import copy

from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from tessera.config import HIERARCHICAL
from tessera.models.vit import ViT
from tessera.nn.block import Block
from tessera.nn.positions.base import NoPosEmbed
from tessera.robustness.cells import Grid

GRIDS: tuple[Grid, ...] = ((2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (14, 14), (16, 16))
"""Rows and columns of the paper."""


def divides(size: tuple[int, int], grid: Grid) -> bool:
    """Whether all cells are equal, so that each can take the place of any other."""
    return not (size[0] % grid[0] or size[1] % grid[1])


def permute_cells(
    pixels: Float[Tensor, "b c h w"], order: Int[Tensor, "b n"], grid: Grid
) -> Float[Tensor, "b c h w"]:
    """Put cell ``order[i]`` of an image in place i; no pixel is lost or changed.

    Raises:
        ValueError: The cells do not divide the image.
    """
    height, width = pixels.shape[-2:]
    rows, cols = grid
    if not divides((height, width), grid):
        raise ValueError(
            f"{height}x{width} pixels do not fall into {rows}x{cols} equal cells, which could "
            "change places"
        )
    cells = rearrange(pixels, "b c (r y) (s x) -> b (r s) c y x", r=rows, s=cols)
    index = order.to(pixels.device)[:, :, None, None, None].expand_as(cells)
    return rearrange(cells.gather(1, index), "b (r s) c y x -> b c (r y) (s x)", r=rows, s=cols)


def without_positions(model: ViT) -> ViT:
    """Return a copy of a model whose position scheme says nothing, the class token's row included.

    Raises:
        ValueError: The model has no position scheme.
    """
    if model.config.pos_embed == "none":
        kind = model.config.patch_embed
        inside = f"positions inside of the stages of {kind} cannot be left out"
        none = "the model has no position embeddings to leave out"
        raise ValueError(inside if kind in HIERARCHICAL else none)
    bare = copy.deepcopy(model)
    bare.pos_embed = NoPosEmbed(model.pos_embed.spec)
    for block in bare.blocks:
        assert isinstance(block, Block)
        if block.pos_embed is not None:
            block.pos_embed = NoPosEmbed(block.pos_embed.spec)
    return bare
