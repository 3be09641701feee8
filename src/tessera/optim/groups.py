"""Which parameters decay, and how fast each layer learns."""

import re
from typing import Any

from torch import nn

HEAD = ("head", "head_dist", "pre_logits")
"""Modules of a model that start from nothing when it is fine-tuned."""


def parameter_groups(
    model: nn.Module, weight_decay: float, *, layer_decay: float = 1.0, depth: int = 0
) -> list[dict[str, Any]]:
    """Split parameters by decay and by layer.

    Matrices decay, and all else does not: biases, norms, LayerScale, positions, class token and
    registers are no products with the tokens, and pulling them to zero only loses information.

    Args:
        layer_decay: Factor on the rate from one layer to the one below; ``lr_scale`` of layer i is
            layer_decay^(depth + 1 - i), with 0 for what comes before the blocks and depth + 1 for
            what comes after (Clark et al., 2020; He et al., 2021, appendix A.1).
    """
    groups: dict[tuple[bool, int], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        matrix, layer = is_matrix(name, parameter), layer_of(name, depth)
        key = (matrix, layer if layer_decay != 1 else 0)
        scale = layer_decay ** (depth + 1 - layer)
        group = groups.setdefault(
            key,
            {"params": [], "weight_decay": weight_decay if matrix else 0.0, "lr_scale": scale},
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups, reverse=True)]  # matrices and the head first


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is the weight of a linear map or a convolution."""
    return parameter.ndim >= 2 and name.rpartition(".")[2] == "weight"


def layer_of(name: str, depth: int) -> int:
    """Return 0 for the embedding, i + 1 for block i, and depth + 1 for what comes after."""
    if match := re.search(r"(?:^|\.)blocks\.(\d+)\.", name):
        return int(match[1]) + 1
    first = ("patch_embed", "pos_embed", "cls_token", "dist_token", "register_tokens", "embed_norm")
    return 0 if any(part in first for part in name.split(".")) else depth + 1


def is_head(name: str) -> bool:
    """Whether a parameter belongs to the head."""
    return any(part in HEAD for part in name.split("."))
