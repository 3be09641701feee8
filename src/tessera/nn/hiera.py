"""Hiera: plain blocks that look inside of mask units first, and pool their queries.

Ryali et al. (2023), "Hiera: A Hierarchical Vision Transformer without the Bells-and-Whistles".
"""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from tessera.nn.block import DropPath, make_mlp
from tessera.nn.noise import Dropout
from tessera.nn.norm import make_norm
from tessera.nn.patch_embed import Grid
from tessera.nn.positions.absolute import Learned
from tessera.nn.positions.base import PosSpec
from tessera.nn.stages import MLP_RATIO, Layer, StageBlock, Stages, StageSpec, half
from tessera.nn.windows import Tiling, attend, join_heads, probabilities, split_heads

LOCAL_STAGES = 2
"""Stages from the first whose tokens look inside of their mask unit only (section 3.2)."""


def pool(x: Float[Tensor, "*b n d"], grid: Grid) -> Float[Tensor, "*b m d"]:
    """Return the largest of every 2x2 tokens, channel by channel."""
    return rearrange(
        x, "... (h p w q) d -> ... (h w) (p q) d", h=grid[0] // 2, p=2, w=grid[1] // 2, q=2
    ).amax(dim=-2)


class MaskUnitAttention(nn.Module):
    """Attention inside of mask units, or everywhere; where a stage begins, queries are pooled.

    Args:
        unit: Side of a mask unit in the tokens that come in; None is the whole grid.
    """

    def __init__(self, layer: Layer, spec: StageSpec, unit: int | None) -> None:
        super().__init__()
        self.num_heads, self.unit, self.pools = layer.num_heads, unit, layer.halves
        self.qkv = nn.Linear(layer.dim_in, 3 * layer.dim, bias=spec.qkv_bias)
        self.attn_drop = Dropout(spec.attn_drop)
        self.proj = nn.Linear(layer.dim, layer.dim)
        self.proj_drop = Dropout(spec.drop)

    def forward(self, x: Float[Tensor, "b n d"], grid: Grid) -> Float[Tensor, "b m e"]:
        tiling = self.tiling(grid)
        q, k, v = self._qkv(x, tiling)
        x = join_heads(attend(q, k, v, None, self.attn_drop))
        if self.pools:
            tiling = Tiling(half(tiling.grid), half(tiling.window))
        return self.proj_drop(self.proj(tiling.glue(x)))

    def weights(self, x: Float[Tensor, "b n d"], grid: Grid) -> Float[Tensor, "b w h q t"]:
        """Return the probabilities that ``forward`` uses, without dropout; rows sum to 1."""
        q, k, _ = self._qkv(x, self.tiling(grid))
        return probabilities(q, k, None)

    def tiling(self, grid: Grid) -> Tiling:
        """Return the mask units of a grid that comes in."""
        return Tiling(grid, grid if self.unit is None else (self.unit, self.unit))

    def _qkv(self, x: Tensor, tiling: Tiling) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = split_heads(self.qkv(tiling.cut(x)), self.num_heads)
        return pool(q, tiling.window) if self.pools else q, k, v


class HieraBlock(StageBlock):
    """Attention, then MLP, pre-norm; where a stage begins, the residual is widened and pooled.

    Args:
        unit: Side of a mask unit in tokens of the first stage.
    """

    def __init__(self, layer: Layer, spec: StageSpec, unit: int) -> None:
        super().__init__(layer)
        came_from = layer.stage - int(layer.halves)
        side = unit // 2**came_from if came_from < LOCAL_STAGES else None
        self.norm1 = make_norm(spec.norm, layer.dim_in, spec.norm_eps)
        self.shortcut = nn.Linear(layer.dim_in, layer.dim) if layer.halves else None
        self.attn = MaskUnitAttention(layer, spec, side)
        self.drop_path1 = DropPath(layer.drop_path)
        self.norm2 = make_norm(spec.norm, layer.dim, spec.norm_eps)
        self.mlp = make_mlp(spec.mlp, layer.dim, MLP_RATIO * layer.dim, drop=spec.drop)
        self.drop_path2 = DropPath(layer.drop_path)

    def forward(self, x: Float[Tensor, "b n d"], grid: Grid) -> Float[Tensor, "b m e"]:
        normed = self.norm1(x)
        if self.shortcut is not None:
            x = pool(self.shortcut(normed), grid)
        x = x + self.drop_path1(self.attn(normed, grid))
        return x + self.drop_path2(self.mlp(self.norm2(x)))

    def attention_weights(
        self, x: Float[Tensor, "b n d"], grid: Grid
    ) -> Float[Tensor, "b w heads q k"]:
        return self.attn.weights(self.norm1(x), grid)

    def key_tiling(self, grid: Grid) -> Tiling:
        return self.attn.tiling(grid)


class FirstStagePositions(Learned):
    """Learned positions on the grid of the first stage, resampled by the grid of the last.

    Args:
        finer: Rows of the first stage for one of the last.
    """

    def __init__(self, grid: Grid, width: int, finer: int) -> None:
        super().__init__(PosSpec(grid=grid, embed_dim=width, head_dim=width, prefix=0))
        self.finer = finer

    def resampled(self, grid: Grid) -> dict[str, Tensor]:
        return super().resampled((grid[0] * self.finer, grid[1] * self.finer))


class Hiera(Stages):
    """Hiera but pooling, last norm and head.

    Tokens of stride s come from convolutions of side 2s - 1, padded by s - 1: 7x7 for the usual 4.
    A mask unit is one token of the last stage: with four stages, 8x8 of the first.

    Args:
        grid: Rows and columns of the last stage, at the size that the positions are made for.
    """

    def __init__(self, spec: StageSpec, *, grid: Grid) -> None:
        super().__init__()
        stride, unit = spec.patch_size, 2 ** (len(spec.blocks) - 1)
        self.proj = nn.Conv2d(
            spec.in_chans, spec.width, kernel_size=2 * stride - 1, stride=stride, padding=stride - 1
        )
        first = (grid[0] * unit, grid[1] * unit)
        self.pos_embed = FirstStagePositions(first, spec.width, unit)
        self.drop = Dropout(spec.drop)
        self.blocks = nn.ModuleList(HieraBlock(layer, spec, unit) for layer in spec.layers())

    def embed(self, images: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b n d"], Grid]:
        x = self.proj(images)  # b d h w
        grid = (x.shape[2], x.shape[3])
        return self.drop(self.pos_embed(x.flatten(2).mT, grid)), grid
