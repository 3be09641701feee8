"""Schemes that tell attention how one token lies to another.

The 1-D schemes count the tokens of the sequence, as the 1-D table does: class and distillation
token first, then the patches in raster order. Registers have no position: their pairs get no term.
"""

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn import functional as F

from tessera.nn.patch_embed import Grid
from tessera.nn.positions.base import PosEmbed, PosSpec, Relative
from tessera.nn.positions.grids import coordinates, resample
from tessera.nn.remember import remembered


class Shaw(PosEmbed):
    """A key vector for each clipped offset: Shaw et al. (2018), equations 4 and 5.

    e_ij = q_i (k_j + w_clip(j - i, -k, k))^T / sqrt(e), with 2k + 1 vectors for all heads. Any
    grid runs.
    """

    def __init__(self, spec: PosSpec) -> None:
        super().__init__(spec)
        self.keys = _table(2 * spec.clip + 1, spec.head_dim)
        self.reset_parameters()

    def relative(self, grid: Grid, device: torch.device) -> Relative:
        index = clipped_offsets(grid, self.spec, device)
        return Relative(index, keys=_with_nothing(self.keys, self.spec)[None])

    def reset_parameters(self) -> None:
        """Draw the vectors."""
        nn.init.trunc_normal_(self.keys, std=0.02)


class ShawValues(PosEmbed):
    """``Shaw``, and vectors for the values too: Shaw et al. (2018), equation 3.

    z_i = sum_j A_ij (v_j + w'_clip(j - i, -k, k)). It needs A, which the fused kernel never forms.
    """

    has_values = True

    def __init__(self, spec: PosSpec) -> None:
        super().__init__(spec)
        self.keys = _table(2 * spec.clip + 1, spec.head_dim)
        self.values = _table(2 * spec.clip + 1, spec.head_dim)
        self.reset_parameters()

    def relative(self, grid: Grid, device: torch.device) -> Relative:
        index = clipped_offsets(grid, self.spec, device)
        keys, values = (_with_nothing(table, self.spec) for table in (self.keys, self.values))
        return Relative(index, keys=keys[None], values=values)

    def reset_parameters(self) -> None:
        """Draw the vectors."""
        nn.init.trunc_normal_(self.keys, std=0.02)
        nn.init.trunc_normal_(self.values, std=0.02)


class ShawBias(PosEmbed):
    """A number for each head and clipped offset, added to the logit: the scalar form of ``Shaw``.

    As in T5 (Raffel et al., 2020, section 2.1), with clipping in place of its growing bins.
    """

    def __init__(self, spec: PosSpec) -> None:
        super().__init__(spec)
        self.table = _table(2 * spec.clip + 1, spec.num_heads)

    def relative(self, grid: Grid, device: torch.device) -> Relative:
        table = _with_nothing(self.table, self.spec)
        return Relative(clipped_offsets(grid, self.spec, device), bias=table.T)

    def reset_parameters(self) -> None:
        """Start from no bias."""
        nn.init.zeros_(self.table)


class RelativeRaster(PosEmbed):
    """The paper's relative scheme (D.4): a second attention, whose keys are offsets.

    q_i r_{j - i}^T / sqrt(e) is added to the logit; each head has a vector for every offset in
    raster order. An offset is another step on a grid of another width, so a table serves its own
    grid and those of fewer rows.
    """

    def __init__(self, spec: PosSpec) -> None:
        super().__init__(spec)
        count = 2 * (spec.prefix + spec.grid[0] * spec.grid[1]) - 1
        self.table = nn.Parameter(torch.zeros(spec.num_heads, count, spec.head_dim))
        self.reset_parameters()

    def relative(self, grid: Grid, device: torch.device) -> Relative:
        table = self.resampled_table(grid)
        last = table.shape[1] // 2  # the largest offset
        index = sequence_offsets(grid, self.spec.prefix, self.spec.registers, last, device)
        return Relative(index, keys=_with_nothing(table, self.spec))

    def reset_parameters(self) -> None:
        """Draw the vectors."""
        nn.init.trunc_normal_(self.table, std=0.02)

    def resampled_table(self, grid: Grid) -> Tensor:
        """Cut out the offsets of a grid of fewer rows.

        Raises:
            ValueError: The grid has another width, or more rows.
        """
        rows, cols = self.spec.grid
        if grid[0] > rows or grid[1] > cols or (grid[1] < cols and grid[0] > 1):
            raise ValueError(
                f"pos_embed='relative' has vectors for the raster offsets of {rows}x{cols} "
                f"patches, and a grid of {grid[0]}x{grid[1]} has others\n"
                "hint: keep the image size, or train with pos_embed='bias2d', which resamples"
            )
        fewer = rows * cols - grid[0] * grid[1]
        return self.table[:, fewer : self.table.shape[1] - fewer]

    def resampled(self, grid: Grid) -> dict[str, Tensor]:
        return {"table": self.resampled_table(grid).detach().contiguous()}


class Bias2d(PosEmbed):
    """A number for each head and 2-D offset, added to the logit: Swin (Liu et al., 2021).

    The table has (2H - 1)(2W - 1) rows, of which the pair (i, j) has row
    (dy + H - 1)(2W - 1) + (dx + W - 1), with d = position i - position j. Where there are tokens
    before the patches it has BEiT's three rows more (Bao et al., 2022): such a token looks at a
    patch, a patch looks at such a token, such a token looks at such a token. All of them, class,
    distillation and registers, share the three.
    """

    def __init__(self, spec: PosSpec) -> None:
        super().__init__(spec)
        rows, cols = _spans(spec.grid)
        self.table = _table(rows * cols + (3 if spec.specials else 0), spec.num_heads)
        self.reset_parameters()

    def relative(self, grid: Grid, device: torch.device) -> Relative:
        index = grid_offsets(grid, self.spec.specials, device)
        return Relative(index, bias=self.resampled_table(grid).T)

    def reset_parameters(self) -> None:
        """Draw the numbers."""
        nn.init.trunc_normal_(self.table, std=0.02)

    def resampled_table(self, grid: Grid) -> Tensor:
        """Resample the offsets as an image, bicubic, and keep the rows of other tokens."""
        old, new = _spans(self.spec.grid), _spans(grid)
        offsets, extra = self.table[: old[0] * old[1]], self.table[old[0] * old[1] :]
        return torch.cat([resample(offsets[None], old, new, prefix=0)[0], extra])

    def resampled(self, grid: Grid) -> dict[str, Tensor]:
        return {"table": self.resampled_table(grid).detach()}


@remembered
def sequence_offsets(
    grid: Grid, prefix: int, registers: int, clip: int, device: torch.device
) -> Int[Tensor, "t t"]:
    """Row clip(j - i, -clip, clip) + clip of every pair, and 2 clip + 1 where one is a register."""
    numbers = torch.arange(prefix + grid[0] * grid[1], device=device)
    offsets = (numbers - numbers[:, None]).clamp(-clip, clip) + clip
    if registers:
        kept = numbers + (numbers >= prefix) * registers
        whole = offsets.new_full((len(numbers) + registers,) * 2, 2 * clip + 1)
        whole[kept[:, None], kept] = offsets
        return whole
    return offsets


def clipped_offsets(grid: Grid, spec: PosSpec, device: torch.device) -> Int[Tensor, "t t"]:
    """Number the rows of a table of 2k + 1 offsets for every pair of tokens."""
    return sequence_offsets(grid, spec.prefix, spec.registers, spec.clip, device)


@remembered
def grid_offsets(grid: Grid, specials: int, device: torch.device) -> Int[Tensor, "t t"]:
    """Number the rows of Swin's and BEiT's table for every pair of tokens."""
    (rows, cols), (height, width) = coordinates(grid, device), _spans(grid)
    dy, dx = rows[:, None] - rows, cols[:, None] - cols
    index = (dy + grid[0] - 1) * width + dx + grid[1] - 1
    if not specials:
        return index
    whole = F.pad(index, (specials, 0, specials, 0))
    whole[:specials, specials:] = height * width
    whole[specials:, :specials] = height * width + 1
    whole[:specials, :specials] = height * width + 2
    return whole


def _spans(grid: Grid) -> Grid:
    """How many offsets there are along each side."""
    return 2 * grid[0] - 1, 2 * grid[1] - 1


def _table(count: int, width: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(count, width))


def _with_nothing(table: Tensor, spec: PosSpec) -> Tensor:
    """A row of zeros at the end, for pairs with a register, where there are registers."""
    return F.pad(table, (0, 0, 0, 1)) if spec.registers else table
