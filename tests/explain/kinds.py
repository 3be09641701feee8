"""Every kind of architecture that has an encoder, small, with weights at which every part shows."""

from typing import Any

import torch
from torch import Tensor

from tessera.config import ViTConfig
from tessera.models.vit import ViT

SMALL: dict[str, Any] = {
    "embed_dim": 24,
    "depth": 3,
    "num_heads": 2,
    "mlp_dim": 32,
    "patch_size": 4,
    "img_size": (16, 20),
    "num_classes": 5,
}

KINDS: dict[str, dict[str, Any]] = {
    "class token": {},
    "distilled": {"dist_token": True, "dist_head": True},
    "registers and mean": {"cls_token": False, "num_registers": 3, "pool": "avg"},
    "map": {"cls_token": False, "pool": "map"},
    "CCT": {
        "cls_token": False,
        "pool": "seq",
        "patch_embed": "tokenizer",
        "stem_layers": 2,
        "residual_norm": True,
    },
    "hybrid": {"patch_embed": "resnet", "stem_width": 32},
    "rotary, qk norm, swiglu": {
        "pos_embed": "rope2d",
        "embed_dim": 32,
        "qk_norm": True,
        "mlp": "swiglu",
    },
    "vectors on the values": {"pos_embed": "shaw_values"},
    "biases at every block": {"pos_embed": "bias2d", "pos_place": "every"},
    "locality": {"locality": True, "patch_embed": "shifted"},
    "shifted windows": {"attention": "shifted_window", "attention_window": 2},
    "final norm on the pooled": {"final_norm": "pooled", "pool": "avg", "layer_scale_init": 0.5},
}


def make(kind: dict[str, Any]) -> ViT:
    """Build a kind of model, with random weights throughout."""
    torch.manual_seed(0)
    model = ViT(ViTConfig(**{**SMALL, **kind}), init="timm").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def image_for(model: ViT) -> Tensor:
    """Draw one image of the size that the model is made for."""
    return torch.randn(1, 3, *model.config.image_shape, generator=torch.Generator().manual_seed(1))
