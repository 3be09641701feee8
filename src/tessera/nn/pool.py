"""Attention pooling: many tokens become one by being looked at."""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tessera.nn.block import make_mlp
from tessera.nn.norm import make_norm


class AttentionPool(nn.Module):
    """A learned probe attends to the patch tokens, then an MLP: the "map" head.

    ``x = MHA(probe, tokens); x = x + MLP(norm(x))``, after Zhai et al. (2022), "Scaling Vision
    Transformers", and big_vision's ``MAPHead``.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_dim: int,
        *,
        mlp: str = "gelu",
        norm: str = "layernorm",
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.latent = nn.Parameter(torch.zeros(1, 1, dim))
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.proj = nn.Linear(dim, dim)
        self.norm = make_norm(norm, dim, norm_eps)
        self.mlp = make_mlp(mlp, dim, mlp_dim)

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b d"]:
        q, k, v = self._qkv(x)
        return self._finish(F.scaled_dot_product_attention(q, k, v))

    def attend(
        self, x: Float[Tensor, "b t d"]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b h t"]]:
        """Return the same vector, and the weights that it was made with, as part of the graph."""
        q, k, v = self._qkv(x)
        a = (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1)[:, :, 0]
        return self._finish(a.unsqueeze(2) @ v), a

    def weights(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b h t"]:
        """Return how much the probe looks at each token, per head; rows sum to 1."""
        q, k, _ = self._qkv(x)
        return (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1)[:, :, 0]

    def _finish(self, x: Tensor) -> Tensor:
        x = self.proj(rearrange(x, "b h t e -> b t (h e)"))
        return (x + self.mlp(self.norm(x)))[:, 0]

    def _qkv(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.num_heads
        q = rearrange(self.q(self.latent), "b t (h e) -> b h t e", h=h)
        q = q.expand(x.shape[0], -1, -1, -1)
        k, v = torch.unbind(rearrange(self.kv(x), "b t (kv h e) -> kv b h t e", kv=2, h=h))
        return q, k, v


class SeqPool(nn.Module):
    """The mean of the tokens, weighted by a softmax over a learned score of each.

    Hassani et al. (2021), "Escaping the Big Data Paradigm with Compact Transformers", section 3.3.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.score = nn.Linear(dim, 1)

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b d"]:
        return self.attend(x)[0]

    def attend(
        self, x: Float[Tensor, "b t d"]
    ) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b 1 t"]]:
        """Return the mean, and the shares that it was made with, as of one head."""
        a = self.weights(x).unsqueeze(1)
        return (a @ x)[:, 0], a

    def weights(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t"]:
        """Return the share of each token; rows sum to 1."""
        return self.score(x)[..., 0].softmax(dim=-1)
