"""Swin: windows that shift from block to block, on grids that shrink from stage to stage.

Liu et al. (2021), "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows".
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tessera.nn.block import DropPath, make_mlp
from tessera.nn.noise import Dropout
from tessera.nn.norm import make_norm
from tessera.nn.patch_embed import Grid
from tessera.nn.positions.grids import coordinates, resample
from tessera.nn.remember import remembered
from tessera.nn.stages import MLP_RATIO, Layer, StageBlock, Stages, StageSpec, half
from tessera.nn.windows import Tiling, attend, join_heads, probabilities, split_heads


def tile(grid: Grid, window: int, *, shifted: bool) -> Tiling:
    """Choose windows for a grid, as the authors' code does.

    Where a side is no longer than the window, the window is that side, and nothing shifts.
    """
    side = min(window, *grid)
    shift = window // 2 if shifted and min(grid) > window else 0
    return Tiling(grid, (side, side), shift)


@remembered
def may_look(tiling: Tiling, device: torch.device) -> Bool[Tensor, "w t t"]:
    """Say which tokens of a window were neighbours before the cyclic shift (section 3.2).

    What the shift moves over an edge comes from the other side of the image, and looks only at
    its like.
    """
    height, width = tiling.padded
    below = torch.arange(height, device=device) >= height - tiling.shift
    right = torch.arange(width, device=device) >= width - tiling.shift
    regions = 2.0 * below[:, None] + right  # the map after the shift, of four regions
    unshifted = Tiling(tiling.padded, tiling.window)
    tokens = unshifted.cut(regions.reshape(1, -1, 1))[0, :, :, 0]  # w t
    return tokens[:, :, None] == tokens[:, None, :]


@remembered
def window_offsets(side: int, window: int, device: torch.device) -> Int[Tensor, "t t"]:
    """Number the rows of a window's table for every pair of tokens in a window of this side."""
    rows, cols = coordinates((side, side), device)
    dy, dx = rows[:, None] - rows, cols[:, None] - cols
    return (dy + window - 1) * (2 * window - 1) + dx + window - 1


class WindowBias(nn.Module):
    """A number for each head and 2-D offset in a window, added to the logit (equation 4).

    The table has (2w - 1)^2 rows. A smaller window, of a small image, has the same offsets and so
    the same numbers.
    """

    def __init__(self, window: int, num_heads: int) -> None:
        super().__init__()
        self.window = window
        self.table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))

    def forward(self, side: int) -> Float[Tensor, "h t t"]:
        pairs = window_offsets(side, self.window, self.table.device)
        return self.table.T[:, pairs]

    def resampled(self, window: int) -> Float[Tensor, "r h"]:
        """Return the table for another window, resampled as an image of offsets, bicubic."""
        old, new = 2 * self.window - 1, 2 * window - 1
        return resample(self.table[None], (old, old), (new, new), prefix=0)[0].detach()


class WindowAttention(nn.Module):
    """Multi-head attention inside of windows, shifted or not: W-MSA and SW-MSA.

    A grid that windows do not fill is padded with zeros below and on the right, which are looked
    at like tokens, as in the authors' code.
    """

    def __init__(self, layer: Layer, spec: StageSpec, *, window: int, shifted: bool) -> None:
        super().__init__()
        self.num_heads, self.window, self.shifted = layer.num_heads, window, shifted
        self.qkv = nn.Linear(layer.dim, 3 * layer.dim, bias=spec.qkv_bias)
        self.bias = WindowBias(window, layer.num_heads)
        self.attn_drop = Dropout(spec.attn_drop)
        self.proj = nn.Linear(layer.dim, layer.dim)
        self.proj_drop = Dropout(spec.drop)

    def forward(self, x: Float[Tensor, "b n d"], grid: Grid) -> Float[Tensor, "b n d"]:
        tiling = self.tiling(grid)
        q, k, v = split_heads(self.qkv(tiling.cut(x)), self.num_heads)
        x = tiling.glue(join_heads(attend(q, k, v, self._terms(tiling, q), self.attn_drop)))
        return self.proj_drop(self.proj(x))

    def weights(self, x: Float[Tensor, "b n d"], grid: Grid) -> Float[Tensor, "b w h t t"]:
        """Return the probabilities that ``forward`` uses, without dropout; rows sum to 1."""
        tiling = self.tiling(grid)
        q, k, _ = split_heads(self.qkv(tiling.cut(x)), self.num_heads)
        return probabilities(q, k, self._terms(tiling, q))

    def tiling(self, grid: Grid) -> Tiling:
        """Return the windows of a grid."""
        return tile(grid, self.window, shifted=self.shifted)

    def _terms(self, tiling: Tiling, q: Tensor) -> Tensor:
        """The bias, and minus infinity between what the shift brought together; ``#w h t t``."""
        bias = self.bias(tiling.window[0]).to(q.dtype)[None]
        if not tiling.shift:
            return bias
        return bias.masked_fill(~may_look(tiling, q.device)[:, None], -torch.inf)


class PatchMerging(nn.Module):
    """Lay 2x2 tokens side by side, normalise, and project to twice the width (section 3.1)."""

    def __init__(self, dim_in: int, *, norm: str, norm_eps: float) -> None:
        super().__init__()
        self.norm = make_norm(norm, 4 * dim_in, norm_eps)
        self.reduction = nn.Linear(4 * dim_in, 2 * dim_in, bias=False)

    def forward(self, x: Float[Tensor, "b n d"], grid: Grid) -> Float[Tensor, "b m e"]:
        # The authors lay them column by column: upper left, lower left, upper right, lower right.
        x = rearrange(
            x, "b (h p w q) d -> b (h w) (q p d)", h=grid[0] // 2, p=2, w=grid[1] // 2, q=2
        )
        return self.reduction(self.norm(x))


class SwinBlock(StageBlock):
    """Attention in windows, then MLP, pre-norm; merges patches before, where a stage begins."""

    def __init__(self, layer: Layer, spec: StageSpec, *, window: int) -> None:
        super().__init__(layer)
        norm, eps = spec.norm, spec.norm_eps
        self.merge = PatchMerging(layer.dim_in, norm=norm, norm_eps=eps) if layer.halves else None
        self.norm1 = make_norm(norm, layer.dim, eps)
        shifted = layer.place % 2 == 1
        self.attn = WindowAttention(layer, spec, window=window, shifted=shifted)
        self.drop_path1 = DropPath(layer.drop_path)
        self.norm2 = make_norm(norm, layer.dim, eps)
        self.mlp = make_mlp(spec.mlp, layer.dim, MLP_RATIO * layer.dim, drop=spec.drop)
        self.drop_path2 = DropPath(layer.drop_path)

    def forward(self, x: Float[Tensor, "b n d"], grid: Grid) -> Float[Tensor, "b m e"]:
        x, grid = self._merged(x, grid)
        x = x + self.drop_path1(self.attn(self.norm1(x), grid))
        return x + self.drop_path2(self.mlp(self.norm2(x)))

    def attention_weights(
        self, x: Float[Tensor, "b n d"], grid: Grid
    ) -> Float[Tensor, "b w heads q k"]:
        x, grid = self._merged(x, grid)
        return self.attn.weights(self.norm1(x), grid)

    def key_tiling(self, grid: Grid) -> Tiling:
        return self.attn.tiling(half(grid) if self.halves else grid)

    def _merged(self, x: Tensor, grid: Grid) -> tuple[Tensor, Grid]:
        return (x, grid) if self.merge is None else (self.merge(x, grid), half(grid))


class Swin(Stages):
    """Swin but its last norm, pooling and head.

    Args:
        window: Side of a window in tokens.
    """

    def __init__(self, spec: StageSpec, *, window: int) -> None:
        super().__init__()
        side = spec.patch_size
        self.proj = nn.Conv2d(spec.in_chans, spec.width, kernel_size=side, stride=side)
        self.norm = make_norm(spec.norm, spec.width, spec.norm_eps)
        self.drop = Dropout(spec.drop)
        self.blocks = nn.ModuleList(
            SwinBlock(layer, spec, window=window) for layer in spec.layers()
        )

    def embed(self, images: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b n d"], Grid]:
        x = self.proj(images)  # b d h w
        grid = (x.shape[2], x.shape[3])
        return self.drop(self.norm(x.flatten(2).mT)), grid


def resampled_windows(model: nn.Module, window: int) -> dict[str, Tensor]:
    """Return the tables of all windows in a model, for windows of another side, by name."""
    return {
        f"{name}.table": module.resampled(window)
        for name, module in model.named_modules()
        if isinstance(module, WindowBias)
    }
