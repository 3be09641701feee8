"""First weights: one function a scheme, and one table that names them.

A scheme overwrites every parameter of a ViT, whatever PyTorch's constructors left there.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from tessera.nn.attention import Attention
from tessera.nn.block import LayerScale, Mlp, SwiGlu
from tessera.nn.bottleneck import Bottleneck, ResNetEmbed, ResNetV2
from tessera.nn.conv_tokenizer import ConvTokenizer
from tessera.nn.fractal import FractalNet
from tessera.nn.hiera import Hiera
from tessera.nn.locality import Locality
from tessera.nn.patch_embed import ConvPatchEmbed, LinearPatchEmbed
from tessera.nn.pool import AttentionPool, SeqPool
from tessera.nn.positions.absolute import Learned, Learned2d
from tessera.nn.positions.base import PosEmbed
from tessera.nn.shifted_patch import ShiftedPatchEmbed
from tessera.nn.stages import Stages
from tessera.nn.swin import WindowBias

TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of N(0, 1) cut off at two sigma; flax divides by it, PyTorch does not."""


def init_paper(model: nn.Module) -> None:
    """Initialise as google-research/vision_transformer does, trap by trap.

    Dense kernels xavier-uniform, with query, key and value each on their own; MLP biases
    N(0, 1e-6); the patch projection lecun-normal; positions N(0, 0.02); class token and head
    zero. Registers, which that code does not have, N(0, 0.02).
    """
    for module in model.modules():
        match module:
            case Attention():
                _xavier_parts(module.qkv, 3)
                _xavier_parts(module.proj, 1)
            case AttentionPool():
                nn.init.xavier_uniform_(module.latent[0])  # flax counts the last two axes
                for linear, parts in ((module.q, 1), (module.kv, 2), (module.proj, 1)):
                    _xavier_parts(linear, parts)
            case ConvPatchEmbed() | LinearPatchEmbed() | ShiftedPatchEmbed():
                _lecun_normal(module.proj)
            case SeqPool():
                _xavier_parts(module.score, 1)
            case Learned() | Learned2d():
                for table in module.parameters():
                    nn.init.normal_(table, std=0.02)
            case Mlp():
                _mlp_linears(module.fc1, module.fc2)
            case SwiGlu():
                _mlp_linears(module.w12, module.w3)
    _tokens_and_heads(model, cls_std=0.0, pre_logits=_lecun_normal)


def init_timm(model: nn.Module) -> None:
    """Initialise in the manner of timm and DeiT: every linear map N(0, 0.02), biases zero.

    The patch projection is lecun-normal and the head zero, as in the other schemes.
    """
    for module in model.modules():
        match module:
            case nn.Linear():
                _truncated_normal(module, 0.02)
            case ConvPatchEmbed():
                _lecun_normal(module.proj)
            case Learned() | Learned2d():
                for table in module.parameters():
                    nn.init.trunc_normal_(table, std=0.02)
            case AttentionPool():
                nn.init.trunc_normal_(module.latent, std=module.latent.shape[-1] ** -0.5)
    _tokens_and_heads(model, cls_std=1e-6, pre_logits=lambda m: _truncated_normal(m, 0.02))


def init_mae(model: nn.Module) -> None:
    """Initialise as MAE does: xavier-uniform everywhere, the patch kernel as one matrix."""
    for module in model.modules():
        match module:
            case nn.Linear():
                _xavier_parts(module, 1)
            case ConvPatchEmbed():
                nn.init.xavier_uniform_(module.proj.weight.view(module.proj.weight.shape[0], -1))
                _zeros(module.proj.bias)
            case Learned() | Learned2d():
                for table in module.parameters():
                    nn.init.normal_(table, std=0.02)
            case AttentionPool():
                nn.init.xavier_uniform_(module.latent[0])
    _tokens_and_heads(model, cls_std=0.02, pre_logits=lambda m: _xavier_parts(m, 1))


INITS: dict[str, Callable[[nn.Module], None]] = {
    "paper": init_paper,
    "timm": init_timm,
    "mae": init_mae,
}


def initialise(model: nn.Module, scheme: str) -> None:
    """Overwrite all parameters of a ViT.

    Raises:
        ValueError: No such scheme.
    """
    if scheme not in INITS:
        raise ValueError(f"unknown init={scheme!r}\nhint: known are {', '.join(INITS)}")
    with torch.no_grad():
        for module in model.modules():  # these start the same in every scheme
            if isinstance(module, nn.LayerNorm | nn.RMSNorm | LayerScale | PosEmbed | Locality):
                module.reset_parameters()
        INITS[scheme](model)
        for module in model.modules():  # convolutional stems, too
            if isinstance(module, ResNetEmbed | ResNetV2 | ConvTokenizer | FractalNet):
                _stem(module)
            if isinstance(module, Stages):
                _stages(module)


def _stem(stem: nn.Module) -> None:
    """Initialise a convolutional stem as its authors do, whatever the scheme of the encoder.

    ResNets are lecun-normal, flax's default, and a hybrid's units start as the identity: their
    last norm is zero. The tokenizer is kaiming-normal; FractalNet is Caffe's "xavier", uniform
    with variance 1 / fan_in.
    """
    for module in stem.modules():
        match module:
            case nn.GroupNorm() | nn.BatchNorm2d():
                module.reset_parameters()
            case nn.Conv2d() if isinstance(stem, ConvTokenizer):
                nn.init.kaiming_normal_(module.weight)
            case nn.Conv2d() if isinstance(stem, FractalNet):
                nn.init.kaiming_uniform_(module.weight, nonlinearity="linear")
            case nn.Conv2d():
                _lecun_normal(module)
    for module in stem.modules():
        if isinstance(module, Bottleneck):
            nn.init.zeros_(module.norm3.weight)


def _stages(stem: Stages) -> None:
    """Initialise Hiera and Swin as their authors do, whatever the scheme of the encoder.

    Every map, position and relative bias N(0, 0.02), cut off. Biases are zero in Swin; in Hiera
    those of linear maps and norms are 0.02. Swin's first convolution, which its authors leave to
    PyTorch, is as the other maps.
    """
    bias = 0.02 if isinstance(stem, Hiera) else 0.0
    for module in stem.modules():
        match module:
            case nn.Linear() | nn.LayerNorm():
                if isinstance(module, nn.Linear):
                    nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.constant_(module.bias, bias)
            case nn.Conv2d():
                nn.init.trunc_normal_(module.weight, std=0.02)
                _zeros(module.bias)
            case Learned() | WindowBias():
                nn.init.trunc_normal_(module.table, std=0.02)


def _tokens_and_heads(
    model: nn.Module, *, cls_std: float, pre_logits: Callable[[nn.Linear], None]
) -> None:
    """Class token N(0, cls_std), registers N(0, 0.02); a zero head, which prefers no class."""
    for name, parameter in model.named_parameters():
        if name == "cls_token":
            nn.init.normal_(parameter, std=cls_std)
        elif name in ("dist_token", "register_tokens"):  # equal tokens would stay equal
            nn.init.normal_(parameter, std=0.02)
    for name, module in model.named_children():
        if name in ("head", "head_dist") and isinstance(module, nn.Linear):
            _zeros(module.weight)
            _zeros(module.bias)
        if name == "pre_logits" and isinstance(module, nn.Linear):
            pre_logits(module)


def _xavier_parts(linear: nn.Linear, parts: int) -> None:
    """Xavier-uniform for each map in a packed weight, since the bound depends on the shape."""
    for weight in linear.weight.chunk(parts):
        nn.init.xavier_uniform_(weight)
    _zeros(linear.bias)


def _lecun_normal(layer: nn.Linear | nn.Conv2d) -> None:
    """The default of flax: variance 1 / fan_in after cutting off at two sigma; bias zero."""
    fan_in = layer.weight[0].numel()
    std = math.sqrt(1 / fan_in) / TRUNCATED_STD
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    _zeros(layer.bias)


def _truncated_normal(linear: nn.Linear, std: float) -> None:
    nn.init.trunc_normal_(linear.weight, std=std)
    _zeros(linear.bias)


def _zeros(parameter: Tensor | None) -> None:
    if parameter is not None:
        nn.init.zeros_(parameter)


def _mlp_linears(first: nn.Linear, last: nn.Linear) -> None:
    gates = first.out_features // last.in_features  # 2 in the gated form
    _xavier_parts(first, gates)
    _xavier_parts(last, 1)
    for linear in (first, last):
        nn.init.normal_(linear.bias, std=1e-6)
