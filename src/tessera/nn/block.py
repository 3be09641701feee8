"""The encoder block: equations 2 and 3, and the parts it is made of."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from tessera.nn.attention import Attention
from tessera.nn.block_sparse import Blocks
from tessera.nn.noise import Dropout, Noisy
from tessera.nn.norm import make_norm
from tessera.nn.patch_embed import Grid
from tessera.nn.positions.base import PosEmbed, Relative, Rotation


def quick_gelu(x: Tensor) -> Tensor:
    """Return x sigmoid(1.702 x), the approximation of GELU that OpenAI's CLIP was trained with."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "quick_gelu": quick_gelu,
}


class Mlp(nn.Module):
    """Linear, GELU, linear, with dropout after each linear map (paper, sections 3.1 and B.1)."""

    def __init__(
        self, dim: int, hidden_dim: int, *, activation: str = "gelu", drop: float = 0.0
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.drop1 = Dropout(drop)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop2 = Dropout(drop)

    def forward(self, x: Float[Tensor, "*t d"]) -> Float[Tensor, "*t d"]:
        return self.drop2(self.fc2(self.drop1(self.activation(self.fc1(x)))))


class SwiGlu(nn.Module):
    """W3 (silu(W1 x) * W2 x), the gated MLP of Shazeer (2020).

    The usual hidden width is two thirds of the plain MLP's, rounded to a multiple of 8.
    """

    def __init__(self, dim: int, hidden_dim: int, *, drop: float = 0.0) -> None:
        super().__init__()
        self.w12 = nn.Linear(dim, 2 * hidden_dim)
        self.drop1 = Dropout(drop)
        self.w3 = nn.Linear(hidden_dim, dim)
        self.drop2 = Dropout(drop)

    def forward(self, x: Float[Tensor, "*t d"]) -> Float[Tensor, "*t d"]:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.drop2(self.w3(self.drop1(F.silu(gate) * value)))


def make_mlp(kind: str, dim: int, hidden_dim: int, *, drop: float = 0.0) -> Mlp | SwiGlu:
    """Build the gated MLP for ``swiglu``, else the plain one with the activation of that name."""
    if kind == "swiglu":
        return SwiGlu(dim, hidden_dim, drop=drop)
    return Mlp(dim, hidden_dim, activation=kind, drop=drop)


class LayerScale(nn.Module):
    """One learned factor per channel of a residual branch (Touvron et al., 2021)."""

    def __init__(self, dim: int, init: float) -> None:
        super().__init__()
        self.init = init
        self.gamma = nn.Parameter(torch.empty(dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every factor to its first value."""
        nn.init.constant_(self.gamma, self.init)

    def forward(self, x: Float[Tensor, "*t d"]) -> Float[Tensor, "*t d"]:
        return x * self.gamma


class DropPath(Noisy):
    """Stochastic depth per sample (Huang et al., 2016): skip a branch, with probability ``rate``.

    In training the branch is multiplied by b / (1 - rate), b ~ Bernoulli(1 - rate) for each
    image; in evaluation it is left alone, so that the expectation is the same.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        if not self.training or self.rate == 0:
            return x
        kept = self.uniform(x, 1) >= self.rate
        return x * kept.view(-1, 1, 1).to(x.dtype).div_(1 - self.rate)


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockSpec:
    """The numbers of a block that are the same at every depth; see ``Block``."""

    dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    mlp: str = "gelu"
    qkv_bias: bool = True
    qk_norm: bool = False
    norm: str = "layernorm"
    norm_eps: float = 1e-6
    layer_scale_init: float | None = None
    drop: float = 0.0
    attn_drop: float = 0.0
    locality: bool = False
    residual_norm: bool = False


class Block(nn.Module):
    """Attention, then MLP, each as ``x + drop_path(scale(f(norm(x))))``: a pre-norm encoder block.

    Only the first ``queries`` tokens are computed where that is given, from all of them.

    Args:
        drop_path: Probability, per image, that a residual branch is skipped in training.
        pos_embed: The block's own position scheme, which takes the place of ``rotation`` and
            ``relative``; it wants ``grid``, the rows and columns of the patches.
    """

    def __init__(
        self, spec: BlockSpec, *, drop_path: float = 0.0, pos_embed: PosEmbed | None = None
    ) -> None:
        super().__init__()
        self.pos_embed = pos_embed
        self.norm1 = make_norm(spec.norm, spec.dim, spec.norm_eps)
        self.attn = Attention(
            spec.dim,
            spec.num_heads,
            spec.head_dim,
            qkv_bias=spec.qkv_bias,
            qk_norm=spec.qk_norm,
            norm=spec.norm,
            norm_eps=spec.norm_eps,
            attn_drop=spec.attn_drop,
            proj_drop=spec.drop,
            locality=spec.locality,
        )
        self.residual_norm = spec.residual_norm
        self.ls1 = _layer_scale(spec)
        self.norm2 = make_norm(spec.norm, spec.dim, spec.norm_eps)
        self.mlp = make_mlp(spec.mlp, spec.dim, spec.mlp_dim, drop=spec.drop)
        self.ls2 = _layer_scale(spec)
        self.drop_path1: nn.Module = DropPath(drop_path)
        self.drop_path2: nn.Module = DropPath(drop_path)

    def forward(
        self,
        x: Float[Tensor, "b t d"],
        rotation: Rotation | None = None,
        relative: Relative | None = None,
        mask: Bool[Tensor, "#h t t"] | Blocks | None = None,
        grid: Grid | None = None,
        *,
        queries: int | None = None,
    ) -> Float[Tensor, "b q d"]:
        if self.pos_embed is not None and grid is not None:
            x, rotation, relative = self._placed(self.pos_embed, x, grid)
        x = x[:, :queries] + self.drop_path1(  # equation 2
            self.ls1(self.attn(self.norm1(x), rotation, relative, mask, queries=queries))
        )
        normed = self.norm2(x)
        x = normed if self.residual_norm else x  # the code of CCT adds to what it has normed
        return x + self.drop_path2(self.ls2(self.mlp(normed)))  # equation 3

    def attention_weights(
        self,
        x: Float[Tensor, "b t d"],
        rotation: Rotation | None = None,
        relative: Relative | None = None,
        mask: Bool[Tensor, "#h t t"] | None = None,
        grid: Grid | None = None,
    ) -> Float[Tensor, "b h t t"]:
        """Return the attention probabilities that ``forward`` uses on the same tokens."""
        if self.pos_embed is not None and grid is not None:
            x, rotation, relative = self._placed(self.pos_embed, x, grid)
        return self.attn.weights(self.norm1(x), rotation, relative, mask)

    def _placed(
        self, scheme: PosEmbed, x: Tensor, grid: Grid
    ) -> tuple[Tensor, Rotation | None, Relative | None]:
        """The tokens with the block's own positions, and what attention is told."""
        own = scheme.placement(grid, x.device, add=True)
        return own.enter(x), own.rotation, own.relative


def _layer_scale(spec: BlockSpec) -> nn.Module:
    init = spec.layer_scale_init
    return nn.Identity() if init is None else LayerScale(spec.dim, init)
