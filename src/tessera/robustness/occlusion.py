"""PatchDrop: cells of an image become black, at random or by what they mean to a model.

Naseer et al. (2021), "Intriguing Properties of Vision Transformers", section 3.1.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tessera.robustness.cells import Grid, cell_numbers

GRID: Grid = (14, 14)
"""Of the paper: the patches of 16 pixels in an image of 224."""

RATIOS = tuple(step / 10 for step in range(10))
"""Information loss: the share of cells that are dropped, 0 to 0.9."""

RUNS = 5
"""Draws of random PatchDrop that are averaged."""

MASSES = tuple(step / 10 for step in range(1, 11))
"""Share of the salience that is dropped, 0.1 to 1, from the most or from the least salient cell."""

TOGETHER = 256
"""Images that share one draw. The paper shares it within a batch; so that a result does not depend
on the batch that happens to fit into memory, this number is fixed."""


def dropped_count(ratio: float, cells: int) -> int:
    """Return how many of N cells an information loss drops: M, the nearest whole number to it."""
    return round(ratio * cells)


def draw_cells(cells: int, count: int, rng: np.random.Generator) -> Bool[Tensor, " n"]:
    """Draw which M of N cells are dropped, uniformly and without replacement."""
    dropped = torch.zeros(cells, dtype=torch.bool)
    dropped[torch.from_numpy(rng.permutation(cells)[:count])] = True
    return dropped


def drop_cells(
    pixels: Float[Tensor, "b c h w"], dropped: Bool[Tensor, "#b n"], grid: Grid
) -> Float[Tensor, "b c h w"]:
    """Make cells black: 0 before the normalisation.

    Args:
        dropped: Which cells of every image, in raster order; one row serves all images.

    Raises:
        ValueError: The grid does not fit the image.
    """
    height, width = pixels.shape[-2:]
    numbers = cell_numbers((height, width), grid).to(pixels.device)
    black = dropped.to(pixels.device)[:, numbers][:, None]  # b 1 h w
    return pixels.masked_fill(black, 0.0)


def cells_by_mass(
    mass: Float[Tensor, "b n"], share: float, *, salient: bool
) -> Bool[Tensor, "b n"]:
    """Return the cells that hold a share of an image's salience.

    Salient are the fewest cells that together hold at least the share, from the greatest down;
    non-salient are the most cells that together hold no more than it, from the least up. So the
    one is what the other leaves at the rest of the mass.

    Args:
        mass: Salience of every cell, not negative.
        share: In [0, 1].
    """
    if not salient:
        return ~cells_by_mass(mass, 1.0 - share, salient=True)
    if share >= 1 - ROUNDING:
        return torch.ones_like(mass, dtype=torch.bool)
    order = mass.argsort(dim=1, descending=True, stable=True)
    sorted_mass = mass.double().gather(1, order)
    total = sorted_mass.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    before = (sorted_mass.cumsum(dim=1) - sorted_mass) / total
    taken = before < share - ROUNDING
    return torch.zeros_like(taken).scatter(1, order, taken)


ROUNDING = 1e-6
"""Difference of two shares that is no difference."""
