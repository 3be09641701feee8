"""Schemes that add a vector to each token: tables and waves."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tessera.nn.patch_embed import Grid
from tessera.nn.positions.base import PosEmbed, PosSpec
from tessera.nn.positions.grids import coordinates, resample


class Learned(PosEmbed):
    """One free vector per token, 1-D in raster order: the paper's choice (section 3.1)."""

    def __init__(self, spec: PosSpec) -> None:
        super().__init__(spec)
        rows = spec.prefix + spec.grid[0] * spec.grid[1]
        self.table = nn.Parameter(torch.zeros(1, rows, spec.embed_dim))

    def forward(self, x: Float[Tensor, "b t d"], grid: Grid) -> Float[Tensor, "b t d"]:
        return x + self.rows(grid, x.device)

    def rows(self, grid: Grid, device: torch.device) -> Float[Tensor, "m d"]:
        return resample(self.table, self.spec.grid, grid, prefix=self.spec.prefix)[0]

    def resampled(self, grid: Grid) -> dict[str, Tensor]:
        return {"table": self.rows(grid, self.table.device).detach()[None]}


class Learned2d(PosEmbed):
    """A free vector of D/2 for each column, X, and for each row, Y, concatenated (paper, D.4).

    The prefix tokens, which stand in no column, have a vector of D each.

    Raises:
        ValueError: The width is odd.
    """

    def __init__(self, spec: PosSpec) -> None:
        super().__init__(spec)
        if spec.embed_dim % 2:
            raise ValueError(f"pos_embed='learned2d' needs an even embed_dim, not {spec.embed_dim}")
        half = spec.embed_dim // 2
        self.table_x = nn.Parameter(torch.zeros(spec.grid[1], half))
        self.table_y = nn.Parameter(torch.zeros(spec.grid[0], half))
        self.table_prefix = None
        if spec.prefix:
            self.table_prefix = nn.Parameter(torch.zeros(spec.prefix, spec.embed_dim))

    def rows(self, grid: Grid, device: torch.device) -> Float[Tensor, "m d"]:
        rows, cols = coordinates(grid, device)
        x, y = _resample_axis(self.table_x, grid[1]), _resample_axis(self.table_y, grid[0])
        patches = torch.cat([x[cols], y[rows]], dim=1)
        return patches if self.table_prefix is None else torch.cat([self.table_prefix, patches])

    def resampled(self, grid: Grid) -> dict[str, Tensor]:
        return {
            **{name: parameter.detach() for name, parameter in self.named_parameters()},
            "table_x": _resample_axis(self.table_x, grid[1]).detach(),
            "table_y": _resample_axis(self.table_y, grid[0]).detach(),
        }


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

    def rows(self, grid: Grid, device: torch.device) -> Float[Tensor, "m d"]:
        dim = self.spec.embed_dim
        positions = torch.arange(self.spec.prefix + grid[0] * grid[1], device=device)
        exponents = torch.arange(0, dim, 2, device=device) / dim
        angles = positions[:, None] * 10_000.0**-exponents  # m d/2
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


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

    def rows(self, grid: Grid, device: torch.device) -> Float[Tensor, "m d"]:
        quarter = self.spec.embed_dim // 4
        omega = 10_000.0 ** -(torch.arange(quarter, device=device) / (quarter - 1))
        rows, cols = coordinates(grid, device)
        ax, ay = cols[:, None] * omega, rows[:, None] * omega  # n d/4
        table = torch.cat([ax.sin(), ax.cos(), ay.sin(), ay.cos()], dim=1)  # n d
        return F.pad(table, (0, 0, self.spec.prefix, 0))


def _resample_axis(table: Tensor, length: int) -> Tensor:
    """A table of one axis, as a grid of one row."""
    return resample(table[None], (1, table.shape[0]), (1, length), prefix=0)[0]
