"""Grids of patches: their coordinates, and tables on them for other grids."""

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from tessera.nn.patch_embed import Grid


def resample(
    table: Float[Tensor, "1 t d"],
    old: Grid,
    new: Grid,
    *,
    prefix: int,
    mode: Literal["bicubic", "bilinear"] = "bicubic",
) -> Float[Tensor, "1 m d"]:
    """Resample a table of positions on its 2-D grid (paper, section 3.2).

    Args:
        prefix: Rows before the patches (class token), which are kept as they are.
        mode: ``bicubic`` is antialiased, as in timm. ``bilinear`` maps corner to corner without
            antialiasing: the paper's code, which is ``scipy.ndimage.zoom(order=1)``.
    """
    if old == new:
        return table
    kept, patches = table.split([prefix, table.shape[1] - prefix], dim=1)
    image = rearrange(patches, "1 (h w) d -> 1 d h w", h=old[0], w=old[1]).float()
    if mode == "bicubic":
        image = F.interpolate(image, size=new, mode="bicubic", antialias=True)
    else:
        image = F.interpolate(image, size=new, mode="bilinear", align_corners=True)
    resampled = rearrange(image, "1 d h w -> 1 (h w) d").to(table.dtype)
    return torch.cat([kept, resampled], dim=1)


def coordinates(grid: Grid, device: torch.device) -> tuple[Int[Tensor, " n"], Int[Tensor, " n"]]:
    """Row and column of every patch in raster order."""
    rows, cols = torch.meshgrid(*(torch.arange(s, device=device) for s in grid), indexing="ij")
    return rows.flatten(), cols.flatten()
