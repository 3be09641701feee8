"""Where a patch sits: E_pos of equation 1, one class a scheme and one table that names them."""

import math
from abc import ABC
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tessera.nn.patch_embed import Grid


class Rotation(NamedTuple):
    """Turns the patch tokens of queries or keys; the tokens before them are left as they are."""

    sin: Float[Tensor, "n e"]
    cos: Float[Tensor, "n e"]

    def turn(self, x: Float[Tensor, "b h t e"]) -> Float[Tensor, "b h t e"]:
        """Rotate pairs of channels, i and i + e/2, of the last n tokens."""
        prefix, patches = x.split([x.shape[2] - self.sin.shape[0], self.sin.shape[0]], dim=2)
        first, second = patches.chunk(2, dim=-1)
        turned = patches * self.cos + torch.cat([-second, first], dim=-1) * self.sin
        return torch.cat([prefix, turned.to(x.dtype)], dim=2)


@dataclass(frozen=True, kw_only=True, slots=True)
class PosSpec:
    """What a position scheme may want to know about the model."""

    grid: Grid
    """Rows and columns of patches at the size the model is made for."""
    embed_dim: int
    head_dim: int
    prefix: int
    """Tokens before the patches that have a row of their own: the class token, so that a table
    has N + 1 rows as in the paper, and the distillation token."""
    theta: float = 100.0
    """Longest period of a rotary scheme."""


class PosEmbed(nn.Module, ABC):
    """Base of all schemes, which override one of its two methods."""

    def __init__(self, spec: PosSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, x: Float[Tensor, "b t d"], grid: Grid) -> Float[Tensor, "b t d"]:
        """Add positions, once, to the prefix and the patch tokens of this grid."""
        return x

    def rotation(self, grid: Grid, device: torch.device) -> Rotation | None:
        """Return the turn of queries and keys in every block, where the scheme is rotary."""
        return None


class NoPosEmbed(PosEmbed):
    """Nothing: the model sees a bag of patches."""


class Learned(PosEmbed):
    """One free vector per token, 1-D in raster order: the paper's choice (section 3.1)."""

    def __init__(self, spec: PosSpec) -> None:
        super().__init__(spec)
        rows = spec.prefix + spec.grid[0] * spec.grid[1]
        self.table = nn.Parameter(torch.zeros(1, rows, spec.embed_dim))

    def forward(self, x: Float[Tensor, "b t d"], grid: Grid) -> Float[Tensor, "b t d"]:
        return x + resample(self.table, self.spec.grid, grid, prefix=self.spec.prefix)


class SinCos1d(PosEmbed):
    """The fixed sines and cosines of Vaswani et al. (2017), section 3.5, over the raster order.

    PE(p, 2i) = sin(p / 10000^(2i/d)) and PE(p, 2i+1) = cos(the same), p from 0 at the first token.

    Raises:
        ValueError: The width is odd.
    """

    def __init__(self, spec: PosSpec) -> None:
        super().__init__(spec)
        if spec.embed_dim % 2:
            raise ValueError(f"pos_embed='sincos1d' needs an even embed_dim, not {spec.embed_dim}")

    def forward(self, x: Float[Tensor, "b t d"], grid: Grid) -> Float[Tensor, "b t d"]:
        positions = torch.arange(x.shape[1], device=x.device)
        exponents = torch.arange(0, self.spec.embed_dim, 2, device=x.device) / x.shape[-1]
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

    def __init__(self, spec: PosSpec) -> None:
        super().__init__(spec)
        if spec.embed_dim % 4 or spec.embed_dim < 8:
            raise ValueError(
                f"pos_embed='sincos2d' needs embed_dim to be a multiple of 4 and at least 8, "
                f"not {spec.embed_dim}"
            )

    def forward(self, x: Float[Tensor, "b t d"], grid: Grid) -> Float[Tensor, "b t d"]:
        quarter = self.spec.embed_dim // 4
        omega = 10_000.0 ** -(torch.arange(quarter, device=x.device) / (quarter - 1))
        rows, cols = _coordinates(grid, x.device)
        ax, ay = cols[:, None] * omega, rows[:, None] * omega  # n d/4
        table = torch.cat([ax.sin(), ax.cos(), ay.sin(), ay.cos()], dim=1)  # n d
        return x + F.pad(table, (0, 0, self.spec.prefix, 0)).to(x.dtype)


class Rope2d(PosEmbed):
    """Axial rotary positions: half of each head turns with the row, half with the column.

    Coordinates are patch centres in [-1, 1], so any grid covers the same range; periods are
    theta^(i / (e/4)). This is DINOv3's form (2025), without its jitter in training.

    Raises:
        ValueError: The head width is no multiple of 4.
    """

    def __init__(self, spec: PosSpec) -> None:
        super().__init__(spec)
        if spec.head_dim % 4:
            raise ValueError(
                f"pos_embed='rope2d' needs heads of a width that 4 divides, not {spec.head_dim}"
            )

    def rotation(self, grid: Grid, device: torch.device) -> Rotation:
        quarter = self.spec.head_dim // 4
        periods = self.spec.theta ** (torch.arange(quarter, device=device) / quarter)
        rows, cols = _coordinates(grid, device)
        centres = torch.stack([(rows + 0.5) / grid[0], (cols + 0.5) / grid[1]], dim=1)  # n 2
        angles = 2 * math.pi * (2 * centres - 1)[:, :, None] / periods  # n 2 e/4
        angles = angles.flatten(1).tile(2)  # n e
        return Rotation(sin=angles.sin(), cos=angles.cos())


POS_EMBEDS: dict[str, type[PosEmbed]] = {
    "none": NoPosEmbed,
    "learned": Learned,
    "sincos1d": SinCos1d,
    "sincos2d": SinCos2d,
    "rope2d": Rope2d,
}


def make_pos_embed(name: str, spec: PosSpec) -> PosEmbed:
    """Build a scheme by name.

    Raises:
        ValueError: No such scheme, or it does not fit the model's widths.
    """
    if name not in POS_EMBEDS:
        close = get_close_matches(name, POS_EMBEDS, n=1)
        guess = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(
            f"unknown position scheme pos_embed={name!r}\n"
            f"hint: {guess}known are {', '.join(POS_EMBEDS)}"
        )
    return POS_EMBEDS[name](spec)


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


def _coordinates(grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row and column of every patch in raster order, each ``n``."""
    rows, cols = torch.meshgrid(*(torch.arange(s, device=device) for s in grid), indexing="ij")
    return rows.flatten(), cols.flatten()
