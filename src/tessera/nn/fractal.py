"""FractalNet and its drop-path, as published; and what of it a residual network can have.

Larsson et al. (2017), "FractalNet: Ultra-Deep Neural Networks without Residuals", section 3.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count as count_up

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tessera.nn.noise import Dropout, Noisy, hashed

WHOLE_BATCH = -1
"""A row that no image has: numbers that all images share."""


def survivors(
    numbers: Float[Tensor, " p"], restored: Float[Tensor, ""], rate: float
) -> Bool[Tensor, " p"]:
    """Say which inputs of a join survive local drop: each with 1 - rate, never none.

    Where all would be dropped, one is restored at random.

    Args:
        numbers: One in [0, 1) for every input.
        restored: One in [0, 1), for which input that is.
    """
    alive = numbers >= rate
    one = torch.arange(len(numbers), device=numbers.device) == (restored * len(numbers)).long()
    return alive | (one & ~alive.any())


def join(
    paths: Sequence[Float[Tensor, "b c h w"]], alive: Bool[Tensor, "p b"]
) -> Float[Tensor, "b c h w"]:
    """Return the mean of the paths that are alive, for each image on its own."""
    weights = (alive / alive.sum(dim=0)).to(paths[0].dtype)[..., None, None, None]  # p b 1 1 1
    total = paths[0] * weights[0]
    for path, weight in zip(paths[1:], weights[1:], strict=True):
        total = total + path * weight
    return total


@dataclass(frozen=True, kw_only=True)
class PathDraw:
    """What one mini-batch of training drops: half of the images locally, the others globally."""

    rate: float
    column: Int[Tensor, ""]
    """The one column of the whole network that the global half goes through."""
    is_global: Bool[Tensor, " b"]
    key: Int[Tensor, " two"]
    """From which the joins get their random numbers, the first ones the first."""
    joins: Iterator[int] = field(default_factory=count_up)

    def alive(self, columns: Sequence[int]) -> Bool[Tensor, "p b"]:
        """Return which inputs of the next join are alive, given the columns that they come from.

        A join inside of deeper columns than the one chosen cannot pass it, and passes all: what
        it makes is dropped by the next join that can.
        """
        device = self.key.device
        row = torch.tensor([WHOLE_BATCH - 1 - next(self.joins)], dtype=torch.int32, device=device)
        numbers = hashed(self.key, row, len(columns) + 1)[0]
        local = survivors(numbers[:-1], numbers[-1], self.rate)
        chosen = torch.tensor(columns, device=device) == self.column
        chosen = chosen | ~chosen.any()
        return torch.where(self.is_global, chosen[:, None], local[:, None])


def draw_paths(
    source: Noisy, x: Float[Tensor, "b *d"], columns: int, rate: float = 0.0
) -> PathDraw:
    """Draw anew for a mini-batch; of an odd one, either half may have the image more.

    With a key, all parts of a batch draw the same, wherever they are; see ``tessera.nn.noise``.
    """
    if source.is_keyed:
        key, rows = source.key, source.rows
    else:
        key = torch.randint(-(2**31), 2**31, (2,)).to(torch.int32).to(x.device)
        rows = torch.arange(x.shape[0], device=x.device, dtype=torch.int32)
    common = hashed(key, torch.tensor([WHOLE_BATCH], dtype=torch.int32, device=x.device), 2)[0]
    return PathDraw(
        rate=rate,
        column=(common[0] * columns).long(),
        is_global=(rows + (common[1] < 0.5)) % 2 == 1,
        key=key,
    )


class ConvUnit(nn.Module):
    """3x3 convolution, batch norm, ReLU."""

    def __init__(self, in_chans: int, out_chans: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_chans, out_chans, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(out_chans)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h w"]:
        return F.relu(self.norm(self.conv(x)))


class FractalBlock(nn.Module):
    """f_C of f_1(z) = conv(z), f_{c+1}(z) = (f_c o f_c)(z) joined with conv(z).

    Column c, counted from 0, is a chain of 2^c convolutions beside the others; wherever several
    columns end at the same depth they are joined, and all go on from there.
    """

    def __init__(self, in_chans: int, out_chans: int, columns: int) -> None:
        super().__init__()
        self.columns = nn.ModuleList(
            nn.ModuleList(ConvUnit(out_chans if i else in_chans, out_chans) for i in range(2**c))
            for c in range(columns)
        )

    def forward(
        self, x: Float[Tensor, "b i h w"], draw: PathDraw | None = None
    ) -> Float[Tensor, "b o h w"]:
        count = len(self.columns)
        steps = 2 ** (count - 1)
        ends: dict[int, Tensor] = {}
        for step in range(steps):
            for c, units in enumerate(self.columns):
                reach = steps // 2**c  # of one of its convolutions, in steps of the deepest column
                if step % reach == 0:
                    ends[c] = units[step // reach](x)  # type: ignore[index]
            done = [c for c in range(count) if (step + 1) % (steps // 2**c) == 0]
            paths = [ends[c] for c in done]
            everyone = torch.ones(len(done), x.shape[0], dtype=torch.bool, device=x.device)
            x = join(paths, everyone if draw is None else draw.alive(done))
        return x


class FractalNet(Noisy):
    """Fractal blocks, each followed by a 2x2 max-pooling and dropout; its tokens are what is left.

    With ``only_column`` set, every join passes that column alone, when training and when not: the
    plain chain that the column is, as a network of its own.

    Args:
        blocks: How many; block i has width * min(2^i, 8) channels.
        columns: Columns of every block: its depth is 2^(columns - 1).
        path_rate: Probability that local drop-path takes an input of a join away.
        drop_rate: Dropout after the last block, growing from 0 at the first in equal steps.
    """

    def __init__(
        self,
        in_chans: int,
        *,
        blocks: int,
        width: int,
        columns: int,
        path_rate: float,
        drop_rate: float,
    ) -> None:
        super().__init__()
        chans = [in_chans, *fractal_channels(blocks, width)]
        self.num_columns, self.path_rate = columns, path_rate
        self.only_column: int | None = None
        self.stages = nn.ModuleList(
            FractalBlock(chans[i], chans[i + 1], columns) for i in range(blocks)
        )
        self.drops = nn.ModuleList(
            Dropout(drop_rate * i / max(blocks - 1, 1)) for i in range(blocks)
        )

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        draw, x = None, images
        if self.only_column is not None:
            draw = _chain(self.only_column, x)
        elif self.training and self.path_rate > 0:
            draw = draw_paths(self, x, self.num_columns, self.path_rate)
        for block, drop in zip(self.stages, self.drops, strict=True):
            x = drop(F.max_pool2d(block(x, draw), kernel_size=2))
        return x.flatten(2).mT


def fractal_channels(blocks: int, width: int) -> list[int]:
    """Return the channels of every block: 64, 128, 256, 512, 512 for the published five."""
    return [width * min(2**i, 8) for i in range(blocks)]


def _chain(column: int, x: Tensor) -> PathDraw:
    """What leaves one column of the network and nothing else."""
    return PathDraw(
        rate=0.0,
        column=torch.tensor(column, device=x.device),
        is_global=torch.ones(x.shape[0], dtype=torch.bool, device=x.device),
        key=torch.zeros(2, dtype=torch.int32, device=x.device),
    )


class ResidualPaths(Noisy):
    """Which residual blocks each image goes through: ours, after FractalNet's two ways of drop.

    A sum with the identity has no columns and needs no survivor, so nothing here is published.
    Half of a mini-batch drops locally: every branch on its own, with its block's rate. The other
    half goes through one column: column j keeps every 2^j-th block, so that networks of depth
    L, L/2, L/4, ... learn to answer alone. As in FractalNet, nothing is rescaled, and nothing is
    dropped when not training.
    """

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.drawn: PathDraw | None = None

    def draw(self, x: Float[Tensor, "b t d"]) -> None:
        """Choose for a mini-batch, before it enters the first block."""
        self.drawn = draw_paths(self, x, self.depth.bit_length())


class ResidualDrop(Noisy):
    """Drop a residual branch as ``ResidualPaths`` has drawn; stands in the place of DropPath."""

    def __init__(self, rate: float, block: int, paths: ResidualPaths) -> None:
        super().__init__()
        self.rate, self.block, self.paths = rate, block, paths

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        drawn = self.paths.drawn
        if not self.training or drawn is None:
            return x
        passes = (self.block + 1) % 2**drawn.column == 0
        kept = torch.where(drawn.is_global, passes, self.uniform(x, 1)[:, 0] >= self.rate)
        return x * kept[:, None, None]
