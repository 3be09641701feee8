"""Which parameters decay."""

from typing import Any

import torch
from torch import nn

from tessera.recipe import Optim


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split parameters into matrices, which decay, and all else, which does not.

    Biases, norms, LayerScale, positions, class token and registers are no matrices: their effect
    is not a product with the tokens, and pulling them to zero only loses information.
    """
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    matrices = [p for name, p in named if is_matrix(name, p)]
    others = [p for name, p in named if not is_matrix(name, p)]
    return [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether a parameter is the weight of a linear map or a convolution."""
    return parameter.ndim >= 2 and name.rpartition(".")[2] == "weight"


def make_optimizer(model: nn.Module, optim: Optim) -> torch.optim.AdamW:
    """Build AdamW (Loshchilov and Hutter, 2019)."""
    groups = parameter_groups(model, optim.weight_decay)
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas)
