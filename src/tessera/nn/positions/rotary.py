"""Schemes that turn queries and keys by their positions."""

import math

import torch
from torch import nn

from tessera.nn.patch_embed import Grid
from tessera.nn.positions.base import PosEmbed, PosSpec, Rotation
from tessera.nn.positions.grids import coordinates


class Rope2d(PosEmbed):
    """Axial rotary positions: half of each head turns with the row, half with the column.

    Coordinates are patch centres in [-1, 1], so any grid covers the same range; periods are
    theta^(i / (e/4)). This is DINOv3's form (2025), without its jitter in training.

    Raises:
        ValueError: The head width is no multiple of 4.
    """

    def __init__(self, spec: PosSpec) -> None:
        super().__init__(spec)
        _check_width("rope2d", spec)

    def rotation(self, grid: Grid, device: torch.device) -> Rotation:
        quarter, theta = self.spec.head_dim // 4, self.spec.theta or 100.0
        periods = theta ** (torch.arange(quarter, device=device) / quarter)
        rows, cols = coordinates(grid, device)
        centres = torch.stack([(rows + 0.5) / grid[0], (cols + 0.5) / grid[1]], dim=1)  # n 2
        angles = 2 * math.pi * (2 * centres - 1)[:, :, None] / periods  # n 2 e/4
        angles = angles.flatten(1).tile(2)  # n e
        return Rotation(sin=angles.sin(), cos=angles.cos())


class Rope2dMixed(PosEmbed):
    """Rotary positions with learned frequencies of both axes: Heo et al. (2024), RoPE-Mixed.

    Pair i of head h at row y and column x turns by f_x x + f_y y, both frequencies learned. They
    start as theta^(-i / (e/4)), in two directions at right angles that are drawn for each head.
    Coordinates count patches, so another grid needs nothing. Pairs of channels are i and i + e/2,
    as everywhere here: their code's neighbours, but for the order of channels.

    Raises:
        ValueError: The head width is no multiple of 4.
    """

    def __init__(self, spec: PosSpec) -> None:
        super().__init__(spec)
        _check_width("rope2d_mixed", spec)
        self.freqs = nn.Parameter(torch.empty(2, spec.num_heads, spec.head_dim // 2))
        self.reset_parameters()

    def rotation(self, grid: Grid, device: torch.device) -> Rotation:
        rows, cols = coordinates(grid, device)
        fx, fy = self.freqs.float()[:, :, None]  # h 1 e/2
        angles = (fx * cols[:, None] + fy * rows[:, None]).tile(2)  # h n e
        return Rotation(sin=angles.sin(), cos=angles.cos())

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw a direction for each head."""
        quarter, theta = self.spec.head_dim // 4, self.spec.theta or 10.0
        lengths = theta ** -(torch.arange(quarter, device=self.freqs.device) / quarter)  # e/4
        turns = torch.rand(self.spec.num_heads, 1, device=self.freqs.device) * 2 * math.pi
        turns = torch.cat([turns.expand(-1, quarter), turns.expand(-1, quarter) + math.pi / 2], 1)
        self.freqs.copy_(torch.stack([turns.cos(), turns.sin()]) * lengths.tile(2))


def _check_width(name: str, spec: PosSpec) -> None:
    if spec.head_dim % 4:
        raise ValueError(
            f"pos_embed={name!r} needs heads of a width that 4 divides, not {spec.head_dim}"
        )
