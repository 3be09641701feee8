"""Multi-head self-attention: equations 5 to 8."""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from tessera.nn.block_sparse import Blocks, block_sparse_attention
from tessera.nn.locality import Locality
from tessera.nn.noise import Dropout
from tessera.nn.norm import make_norm
from tessera.nn.positions.base import Relative, Rotation


class Attention(nn.Module):
    """Every token looks at every token, in ``num_heads`` subspaces of width ``e``: MSA.

    ``forward`` uses the fused kernel, which never forms A; ``weights`` computes A exactly, from
    the same queries and keys, when somebody wants to look.

    ``rotation`` turns queries and keys by their positions, ``relative`` adds terms for pairs of
    tokens, where the position scheme does that; ``mask`` is True for the pairs that may look. The
    fused kernel takes both as its mask, which is exact; vectors on the values need A itself. With a
    block mask, a kernel that skips blocks gives the same; it has no dropout, nor such vectors.
    Only the first ``queries`` tokens are answered for where that is given; all are looked at.

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
        self,
        x: Float[Tensor, "b t d"],
        rotation: Rotation | None = None,
        relative: Relative | None = None,
        mask: Bool[Tensor, "#h t t"] | Blocks | None = None,
        *,
        queries: int | None = None,
    ) -> Float[Tensor, "b q d"]:
        q, k, v = self._qkv(x, rotation)
        noisy = self.training and self.attn_drop.rate > 0  # the kernel's own masks know no rows
        if isinstance(mask, Blocks):
            bias = None if relative is None else relative.logits(q)
            x = block_sparse_attention(q, k, v, mask, bias)
        elif noisy or (relative is not None and relative.values is not None):
            a = self.attn_drop(_probabilities(q, k, relative, self._allowed(q, mask)))
            x = _mixed(a, v, relative)
        else:  # equations 6 and 7
            terms = _terms(q, relative, self._allowed(q, mask))
            terms = None if terms is None else terms[..., :queries, :]
            x = F.scaled_dot_product_attention(q[:, :, :queries], k, v, terms)
        return self._project(x[:, :, :queries])

    def attend(
        self,
        x: Float[Tensor, "b t d"],
        rotation: Rotation | None = None,
        relative: Relative | None = None,
        mask: Bool[Tensor, "#h t t"] | None = None,
        *,
        queries: int | None = None,
    ) -> tuple[Float[Tensor, "b q d"], Float[Tensor, "b h t t"]]:
        """Return what ``forward`` does without dropout on A, and the A that it was made with.

        A is part of the graph, so that the output can be differentiated by it.
        """
        q, k, v = self._qkv(x, rotation)
        a = _probabilities(q, k, relative, self._allowed(q, mask))
        return self._project(_mixed(a, v, relative)[:, :, :queries]), a

    def _project(self, x: Tensor) -> Tensor:
        """Equation 8."""
        return self.proj_drop(self.proj(rearrange(x, "b h t e -> b t (h e)")))

    def weights(
        self,
        x: Float[Tensor, "b t d"],
        rotation: Rotation | None = None,
        relative: Relative | None = None,
        mask: Bool[Tensor, "#h t t"] | None = None,
    ) -> Float[Tensor, "b h t t"]:
        """Return A = softmax(q k^T / sqrt(D_h)), equation 6, without dropout; rows sum to 1."""
        q, k, _ = self._qkv(x, rotation)
        return _probabilities(q, k, relative, self._allowed(q, mask))

    def _allowed(
        self, q: Tensor, mask: Bool[Tensor, "#h t t"] | None
    ) -> Bool[Tensor, "#h t t"] | None:
        """The pairs that both the pattern and locality allow."""
        own = None if self.locality is None else self.locality.mask(q)
        if own is None:
            return mask
        return own[None] if mask is None else mask & own

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


def _terms(q: Tensor, relative: Relative | None, mask: Tensor | None) -> Tensor | None:
    """What joins the logits: numbers to add, or the boolean mask alone; ``b h t t`` or less."""
    if relative is None:
        return None if mask is None else mask[None]
    terms = relative.logits(q)
    return terms if mask is None else terms.masked_fill(~mask, -torch.inf)


def _mixed(a: Tensor, v: Tensor, relative: Relative | None) -> Tensor:
    """A V of equation 7, and vectors on the values where the position scheme has them."""
    x = a @ v
    return x if relative is None or relative.values is None else x + relative.mix(a)


def _probabilities(
    q: Tensor, k: Tensor, relative: Relative | None, mask: Tensor | None
) -> Float[Tensor, "b h t t"]:
    """A of equation 6, with the terms of pairs."""
    logits = q @ k.mT * q.shape[-1] ** -0.5
    if relative is not None:
        logits = logits + relative.logits(q)
    return (logits if mask is None else logits.masked_fill(~mask, -torch.inf)).softmax(dim=-1)
