"""Attention for small data sets: sharper, and not to oneself."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn


class Locality(nn.Module):
    """What locality self-attention (LSA) changes: softmax(q k^T / tau, without the diagonal).

    Lee et al. (2021), "Vision Transformer for Small-Size Datasets", section 3.2: tau is learned,
    here one per head as in their code, and starts at sqrt(D_h); a token's score for itself is
    minus infinity.
    """

    def __init__(self, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.start = math.sqrt(head_dim)
        self.temperature = nn.Parameter(torch.empty(num_heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set every temperature to that of plain attention."""
        nn.init.constant_(self.temperature, self.start)

    def temper(self, q: Float[Tensor, "b h t e"]) -> Float[Tensor, "b h t e"]:
        """Scale queries so that dividing scores by sqrt(D_h) divides them by tau."""
        return q * (self.start / self.temperature).to(q.dtype)[:, None, None]

    def mask(self, q: Float[Tensor, "b h t e"]) -> Bool[Tensor, "t t"] | None:
        """Return who may attend to whom: everybody but oneself, unless one is alone."""
        count = q.shape[2]
        if count == 1:
            return None
        return ~torch.eye(count, dtype=torch.bool, device=q.device)
