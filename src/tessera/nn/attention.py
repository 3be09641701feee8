"""Multi-head self-attention: equations 5 to 8."""

import math

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tessera.nn.locality import Locality
from tessera.nn.noise import Dropout
from tessera.nn.norm import make_norm
from tessera.nn.pos_embed import Rotation


class Attention(nn.Module):
    """Every token looks at every token, in ``num_heads`` subspaces of width ``e``: MSA.

    ``forward`` uses the fused kernel, which never forms A; ``weights`` computes A exactly, from
    the same queries and keys, when somebody wants to look.

    ``rotation`` turns queries and keys by their positions, where the position scheme does that.

    Args:
        dim: Width of a token: D.
        head_dim: Width of one head: D_h. ``num_heads * head_dim`` need not be ``dim``.
        norm: Kind of the norms on queries and keys that ``qk_norm`` asks for.
        attn_drop: Dropout rate on the attention probabilities.
        proj_drop: Dropout rate on the output.
        locality: Locality self-attention; see ``Locality``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        head_dim: int,
        *,
        qkv_bias: bool = True,
        qk_norm: bool = False,
        norm: str = "layernorm",
        norm_eps: float = 1e-6,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        locality: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attn_drop = Dropout(attn_drop)
        inner = num_heads * head_dim
        self.qkv = nn.Linear(dim, 3 * inner, bias=qkv_bias)
        self.q_norm = make_norm(norm, head_dim, norm_eps) if qk_norm else nn.Identity()
        self.k_norm = make_norm(norm, head_dim, norm_eps) if qk_norm else nn.Identity()
        self.proj = nn.Linear(inner, dim)
        self.proj_drop = Dropout(proj_drop)
        self.locality = Locality(num_heads, head_dim) if locality else None

    def forward(
        self, x: Float[Tensor, "b t d"], rotation: Rotation | None = None
    ) -> Float[Tensor, "b t d"]:
        q, k, v = self._qkv(x, rotation)
        mask = None if self.locality is None else self.locality.mask(q)
        if self.training and self.attn_drop.rate:  # the kernel's own masks know no rows
            x = self.attn_drop(_weights(q, k, mask)) @ v
        else:
            x = F.scaled_dot_product_attention(q, k, v, mask)  # equations 6 and 7
        return self.proj_drop(self.proj(rearrange(x, "b h t e -> b t (h e)")))  # equation 8

    def weights(
        self, x: Float[Tensor, "b t d"], rotation: Rotation | None = None
    ) -> Float[Tensor, "b h t t"]:
        """Return A = softmax(q k^T / sqrt(D_h)), equation 6, without dropout; rows sum to 1."""
        q, k, _ = self._qkv(x, rotation)
        return _weights(q, k, None if self.locality is None else self.locality.mask(q))

    def _qkv(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each ``b h t e``: equation 5."""
        q, k, v = torch.unbind(
            rearrange(self.qkv(x), "b t (qkv h e) -> qkv b h t e", qkv=3, h=self.num_heads)
        )
        q, k = self.q_norm(q), self.k_norm(k)
        if rotation is not None:
            q, k = rotation.turn(q), rotation.turn(k)
        if self.locality is not None:
            q = self.locality.temper(q)
        return q, k, v


def _weights(q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
    """Equation 6, over what the mask allows."""
    scores = q @ k.mT * q.shape[-1] ** -0.5
    return (scores if mask is None else scores.masked_fill(~mask, -math.inf)).softmax(dim=-1)
