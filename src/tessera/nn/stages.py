"""What hierarchical networks share: stages of blocks, each on half the grid of the one before."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tessera.nn.patch_embed import Grid
from tessera.nn.windows import Tiling

MLP_RATIO = 4
"""Hidden width of every MLP in widths of its stage, in Swin and Hiera."""


class Layer(NamedTuple):
    """Where a block stands, and how wide it is."""

    stage: int
    place: int
    """Which block of the stage it is, from 0."""
    dim_in: int
    """Width of the tokens that come in: half of ``dim`` where a stage begins."""
    dim: int
    num_heads: int
    drop_path: float

    @property
    def halves(self) -> bool:
        """Whether the block begins a stage on half the grid of the stage before."""
        return self.stage > 0 and self.place == 0


@dataclass(frozen=True, kw_only=True, slots=True)
class StageSpec:
    """The numbers of a hierarchical network; width and heads double from stage to stage."""

    in_chans: int
    patch_size: int
    """Side in pixels of what a token of the first stage stands for."""
    blocks: tuple[int, ...]
    """Blocks of every stage."""
    width: int
    """Width of a token in the first stage."""
    num_heads: int
    """Heads in the first stage."""
    drop_paths: tuple[float, ...]
    """Rate of stochastic depth of every block, over all stages."""
    mlp: str = "gelu"
    qkv_bias: bool = True
    norm: str = "layernorm"
    norm_eps: float = 1e-6
    drop: float = 0.0
    attn_drop: float = 0.0

    def layers(self) -> Iterator[Layer]:
        """Go through the blocks of all stages."""
        rates = iter(self.drop_paths)
        for stage, count in enumerate(self.blocks):
            dim = self.width * 2**stage
            for place in range(count):
                dim_in = dim // 2 if stage and not place else dim
                heads = self.num_heads * 2**stage
                yield Layer(stage, place, dim_in, dim, heads, next(rates))


class StageBlock(nn.Module, ABC):
    """A block that knows whether it begins a stage."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.halves = layer.halves

    @abstractmethod
    def forward(self, x: Float[Tensor, "b n d"], grid: Grid) -> Float[Tensor, "b m e"]:
        """Return the tokens of the block, on half of the grid where it begins a stage."""

    @abstractmethod
    def attention_weights(
        self, x: Float[Tensor, "b n d"], grid: Grid
    ) -> Float[Tensor, "b w heads q k"]:
        """Return the attention probabilities in every window of the same tokens."""

    @abstractmethod
    def key_tiling(self, grid: Grid) -> Tiling:
        """Return how the tokens that are looked at are cut into windows.

        Args:
            grid: Of the tokens that come in.
        """


class Looked(NamedTuple):
    """What the tokens of a block look at, inside of windows."""

    weights: Float[Tensor, "b w heads q k"]
    """Exact attention probabilities, summing to 1 over k."""
    tiling: Tiling
    """Where the keys are; queries are the same tokens, or fewer where a block pools them."""


class Stages(nn.Module, ABC):
    """A hierarchical network but its last norm, pooling and head: images in, tokens out.

    The tokens are those of the last stage, in raster order.
    """

    blocks: nn.ModuleList
    """The blocks of all stages, each a ``StageBlock``."""

    def __init__(self) -> None:
        super().__init__()
        self.grad_checkpointing = False

    @abstractmethod
    def embed(self, images: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b n d"], Grid]:
        """Return the tokens that enter the first stage, and their rows and columns."""

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        x, grid = self.embed(images)
        for block in self._blocks():
            x, grid = self._run(block, x, grid)
        return x

    def attention_weights(
        self, images: Float[Tensor, "b c h w"], blocks: Sequence[int]
    ) -> list[Float[Tensor, "b _ _ _ _"]]:
        """Return the exact attention in chosen blocks, as batch, windows, heads, queries, keys.

        Args:
            blocks: Counted through all stages from 0; negative counts from the end.

        Raises:
            ValueError: No such block.
        """
        return [looked.weights for looked in self.look(images, blocks)]

    def look(self, images: Float[Tensor, "b c h w"], blocks: Sequence[int]) -> list[Looked]:
        """Return the attention in chosen blocks, and where its windows are.

        Args:
            blocks: As for ``attention_weights``.

        Raises:
            ValueError: No such block.
        """
        count = len(self.blocks)
        for i in blocks:
            if not -count <= i < count:
                raise ValueError(f"block {i} is not in a model of {count} blocks")
        wanted = [i % count for i in blocks]
        found: dict[int, Looked] = {}
        x, grid = self.embed(images)
        for i, block in enumerate(islice(self._blocks(), max(wanted, default=-1) + 1)):
            if i in wanted:
                found[i] = Looked(block.attention_weights(x, grid), block.key_tiling(grid))
            x, grid = self._run(block, x, grid)
        return [found[i] for i in wanted]

    def tiling_of(self, number: int, last: Grid) -> Tiling:
        """Return how the tokens that a block looks at are cut into windows.

        Args:
            number: Of the block, from 0.
            last: Rows and columns of the last stage.
        """
        finer = 2 ** sum(block.halves for block in islice(self._blocks(), number, None))
        grid = (last[0] * finer, last[1] * finer)
        tiling: Tiling = list(self._blocks())[number].key_tiling(grid)
        return tiling

    def _blocks(self) -> Iterator[StageBlock]:
        return iter(cast(list[StageBlock], list(self.blocks)))

    def _run(self, block: StageBlock, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            x = checkpoint(block, x, grid, use_reentrant=False)
        else:
            x = block(x, grid)
        return x, half(grid) if block.halves else grid


def half(grid: Grid) -> Grid:
    """Return half of the rows and columns."""
    return grid[0] // 2, grid[1] // 2
