"""Normalisation of token vectors."""

from torch import nn

NORMS: dict[str, type[nn.LayerNorm] | type[nn.RMSNorm]] = {
    "layernorm": nn.LayerNorm,
    "rmsnorm": nn.RMSNorm,
}


def make_norm(name: str, dim: int, eps: float) -> nn.Module:
    """Build LayerNorm (Ba et al., 2016) or RMSNorm (Zhang and Sennrich, 2019) over ``dim``."""
    return NORMS[name](dim, eps=eps)
