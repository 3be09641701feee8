"""Where a patch sits: E_pos of equation 1, one class a scheme and one table that names them."""

from abc import ABC, abstractmethod
from difflib import get_close_matches
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tessera.nn.patch_embed import Grid


class PosEmbed(nn.Module, ABC):
    """Base of all schemes.

    Args:
        grid: Rows and columns of patches at the size the model is made for.
        cls_token: Whether the first token is the class token and has a row of its own, so that a
            table has N + 1 rows as in the paper.
    """

    def __init__(self, grid: Grid, embed_dim: int, *, cls_token: bool) -> None:
        super().__init__()
        self.grid = grid
        self.embed_dim = embed_dim
        self.prefix = int(cls_token)

    @abstractmethod
    def forward(self, x: Float[Tensor, "b t d"], grid: Grid) -> Float[Tensor, "b t d"]:
        """Add positions to the class token, if any, and the patch tokens of this grid."""


class NoPosEmbed(PosEmbed):
    """Nothing: the model sees a bag of patches."""

    def forward(self, x: Float[Tensor, "b t d"], grid: Grid) -> Float[Tensor, "b t d"]:
        return x


class Learned(PosEmbed):
    """One free vector per token, 1-D in raster order: the paper's choice (section 3.1)."""

    def __init__(self, grid: Grid, embed_dim: int, *, cls_token: bool) -> None:
        super().__init__(grid, embed_dim, cls_token=cls_token)
        rows = self.prefix + grid[0] * grid[1]
        self.table = nn.Parameter(torch.zeros(1, rows, embed_dim))

    def forward(self, x: Float[Tensor, "b t d"], grid: Grid) -> Float[Tensor, "b t d"]:
        return x + resample(self.table, self.grid, grid, prefix=self.prefix)


class SinCos1d(PosEmbed):
    """The fixed sines and cosines of Vaswani et al. (2017), section 3.5, over the raster order.

    PE(p, 2i) = sin(p / 10000^(2i/d)) and PE(p, 2i+1) = cos(the same), p from 0 at the first token.

    Raises:
        ValueError: The width is odd.
    """

    def __init__(self, grid: Grid, embed_dim: int, *, cls_token: bool) -> None:
        super().__init__(grid, embed_dim, cls_token=cls_token)
        if embed_dim % 2:
            raise ValueError(f"pos_embed='sincos1d' needs an even embed_dim, not {embed_dim}")

    def forward(self, x: Float[Tensor, "b t d"], grid: Grid) -> Float[Tensor, "b t d"]:
        positions = torch.arange(x.shape[1], device=x.device)
        exponents = torch.arange(0, self.embed_dim, 2, device=x.device) / self.embed_dim
        angles = positions[:, None] * 10_000.0**-exponents  # t d/2
        table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)  # t d
        return x + table.to(x.dtype)


class SinCos2d(PosEmbed):
    """Fixed sines and cosines of column and row: MoCo v3, MAE, "Better plain ViT" (2022).

    The table is [sin xw, cos xw, sin yw, cos yw] with w = 10000^-(i / (d/4 - 1)); the class
    token's row is zero, as in MAE.

    Raises:
        ValueError: The width is no multiple of 4, or is 4.
    """

    def __init__(self, grid: Grid, embed_dim: int, *, cls_token: bool) -> None:
        super().__init__(grid, embed_dim, cls_token=cls_token)
        if embed_dim % 4 or embed_dim < 8:
            raise ValueError(
                f"pos_embed='sincos2d' needs embed_dim to be a multiple of 4 and at least 8, "
                f"not {embed_dim}"
            )

    def forward(self, x: Float[Tensor, "b t d"], grid: Grid) -> Float[Tensor, "b t d"]:
        quarter = self.embed_dim // 4
        omega = 10_000.0 ** -(torch.arange(quarter, device=x.device) / (quarter - 1))
        rows, cols = (
            axis.flatten()
            for axis in torch.meshgrid(
                *(torch.arange(side, device=x.device) for side in grid), indexing="ij"
            )
        )
        ax, ay = cols[:, None] * omega, rows[:, None] * omega  # n d/4
        table = torch.cat([ax.sin(), ax.cos(), ay.sin(), ay.cos()], dim=1)  # n d
        return x + F.pad(table, (0, 0, self.prefix, 0)).to(x.dtype)


POS_EMBEDS: dict[str, type[PosEmbed]] = {
    "none": NoPosEmbed,
    "learned": Learned,
    "sincos1d": SinCos1d,
    "sincos2d": SinCos2d,
}


def make_pos_embed(name: str, grid: Grid, embed_dim: int, *, cls_token: bool) -> PosEmbed:
    """Build a scheme by name.

    Raises:
        ValueError: No such scheme.
    """
    if name not in POS_EMBEDS:
        close = get_close_matches(name, POS_EMBEDS, n=1)
        guess = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(
            f"unknown position scheme pos_embed={name!r}\n"
            f"hint: {guess}known are {', '.join(POS_EMBEDS)}"
        )
    return POS_EMBEDS[name](grid, embed_dim, cls_token=cls_token)


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
