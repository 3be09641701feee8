"""The layout of timm, which DeiT, DINO, DINOv2 and MAE share in their own files."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from tessera.checkpoint.layout import Fields, Hints, Layout, count_blocks, heads_of, square_side
from tessera.checkpoint.resnets import timm_stem, timm_stem_rules
from tessera.checkpoint.rules import CheckpointError, Drop, Rule, State, pair, pairs


def configure(theirs: State, hints: Hints) -> tuple[Fields, tuple[str, ...]]:
    """Read the config off the names and shapes of the tensors.

    Raises:
        CheckpointError: A tensor is missing that the layout allows others to lack.
    """
    kernel = theirs["patch_embed.proj.weight"]
    stem = timm_stem(theirs)
    width, patch = kernel.shape[0], stem.get("patch_size", kernel.shape[-1])
    depth = count_blocks(theirs, "blocks.{i}.")
    heads = heads_of(width, hints)
    gated = "blocks.0.mlp.w12.weight" in theirs
    first = "blocks.0.mlp.w12.weight" if gated else "blocks.0.mlp.fc1.weight"
    last = "blocks.0.mlp.w3.weight" if gated else "blocks.0.mlp.fc2.weight"
    gated = theirs[first].shape[0] != theirs[last].shape[1]
    cls, dist = "cls_token" in theirs, "dist_token" in theirs
    registers = _registers(theirs)
    fields: Fields = {
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "mlp_dim": theirs[last].shape[1],
        "patch_size": patch,
        "in_chans": kernel.shape[1],
        "num_classes": theirs["head.weight"].shape[0] if "head.weight" in theirs else 0,
        "cls_token": cls,
        "dist_token": dist,
        "dist_head": "head_dist.weight" in theirs,
        "num_registers": 0 if registers is None else theirs[registers].shape[1],
        "qkv_bias": "blocks.0.attn.qkv.bias" in theirs,
        "qk_norm": "blocks.0.attn.q_norm.weight" in theirs,
        "layer_scale_init": 1e-5 if _layer_scale(theirs) else None,
        "embed_norm": "norm_pre.weight" in theirs,
        "pool": "map" if "attn_pool.latent" in theirs else "cls" if cls else "avg",
        "final_norm": "tokens" if "norm.weight" in theirs else "none",
        "mlp": "swiglu" if gated else "gelu",
        **stem,
    }
    if not fields["embed_norm"] and "patch_embed.proj.bias" not in theirs:
        raise CheckpointError("it lacks patch_embed.proj.bias, which only CLIP does without")
    if "fc_norm.weight" in theirs:
        fields |= {"pool": "avg", "final_norm": "pooled"}
    fields["head_dim"] = _head_dim(theirs, width, heads)
    notes = _assume(fields, hints)
    rows = theirs["pos_embed"].shape[1]
    fields["img_size"] = _img_size(rows, int(cls) + int(dist), patch, hints)
    return fields, notes


def _registers(theirs: State) -> str | None:
    return next((name for name in ("reg_token", "register_tokens") if name in theirs), None)


def _layer_scale(theirs: State) -> bool:
    return "blocks.0.ls1.gamma" in theirs or "blocks.0.gamma_1" in theirs


def _head_dim(theirs: State, width: int, heads: int) -> int | None:
    inner = theirs["blocks.0.attn.proj.weight"].shape[1]
    return None if inner == width else inner // heads


def _assume(fields: Fields, hints: Hints) -> tuple[str, ...]:
    """Fill in what no tensor tells: the epsilon of the norms, and the kind of GELU."""
    notes: tuple[str, ...] = ()
    fields["norm_eps"] = 1e-5 if fields["embed_norm"] else 1e-6  # CLIP alone has the former
    if "quickgelu" in hints.name:
        fields["mlp"] = "quick_gelu"
    elif _TANH.search(hints.name):
        fields["mlp"] = "gelu_tanh"
    elif not hints.name and "mlp" not in hints.overrides:
        if fields["embed_norm"]:
            notes = (
                "no tensor tells GELU from OpenAI's quick GELU: exact GELU assumed; "
                "for OpenAI's own weights say --arch.mlp quick_gelu",
            )
        elif fields["pool"] == "map":
            notes = (
                "no tensor tells GELU from its tanh form: exact GELU assumed; "
                "newer SigLIP weights want --arch.mlp gelu_tanh",
            )
    return notes


_TANH = re.compile(r"(so400m_patch16|patch32|giantopt_patch16)_siglip|large_patch16_siglip\w*_512")
"""Architectures of SigLIP that timm builds with the tanh form of GELU."""


def _img_size(rows: int, prefix: int, patch: int, hints: Hints) -> int | tuple[int, int]:
    """Tell tables with rows for class and distillation token from those without."""
    if "img_size" in hints.overrides:
        return square_side(rows, patch, hints)
    for patches in dict.fromkeys((rows - prefix, rows)):
        if round(patches**0.5) ** 2 == patches:
            return square_side(patches, patch, hints)
    return square_side(rows - prefix, patch, hints)


def rules(fields: Fields) -> tuple[Rule, ...]:
    """Return the table; the positions depend on which tokens come before the patches."""
    prefix = int(fields.get("cls_token", True)) + int(fields.get("dist_token", False))

    def read_positions(table: Tensor) -> Sequence[Tensor]:
        patch, size = fields["patch_size"], fields["img_size"]
        height, width = (size, size) if isinstance(size, int) else size
        patches = (height // patch) * (width // patch)
        if table.shape[1] == patches:  # DeiT-III and timm's models with registers
            return (torch.cat([table.new_zeros(1, prefix, table.shape[2]), table], dim=1),)
        return (table,)

    def write_positions(table: Tensor) -> Sequence[Tensor]:
        bare = fields.get("num_registers") or fields.get("layer_scale_init")
        return (table[:, prefix:] if bare and not table[:, :prefix].any() else table,)

    final = "fc_norm" if fields.get("final_norm") == "pooled" else "norm"
    return (
        *_BLOCKS,
        *timm_stem_rules(fields),
        *pair("norm", final),
        Rule(("pos_embed.table",), ("pos_embed",), read_positions, write_positions),
    )


_BLOCKS = (
    *pairs(
        {
            "patch_embed.proj": "patch_embed.proj",
            "blocks.{i}.norm1": "blocks.{i}.norm1",
            "blocks.{i}.attn.qkv": "blocks.{i}.attn.qkv",
            "blocks.{i}.attn.q_norm": "blocks.{i}.attn.q_norm",
            "blocks.{i}.attn.k_norm": "blocks.{i}.attn.k_norm",
            "blocks.{i}.attn.proj": "blocks.{i}.attn.proj",
            "blocks.{i}.norm2": "blocks.{i}.norm2",
            "blocks.{i}.mlp.fc1": "blocks.{i}.mlp.fc1",
            "blocks.{i}.mlp.fc2": "blocks.{i}.mlp.fc2",
            "embed_norm": "norm_pre",
            "attn_pool.q": "attn_pool.q",
            "attn_pool.kv": "attn_pool.kv",
            "attn_pool.proj": "attn_pool.proj",
            "attn_pool.norm": "attn_pool.norm",
            "attn_pool.mlp.fc1": "attn_pool.mlp.fc1",
            "attn_pool.mlp.fc2": "attn_pool.mlp.fc2",
            "head": "head",
            "head_dist": "head_dist",
        }
    ),
    # timm packs SwiGLU into fc1 and fc2, DINOv2's own files into w12 and w3; the halves agree.
    *pairs({"blocks.{i}.mlp.w12": "blocks.{i}.mlp.fc1", "blocks.{i}.mlp.w3": "blocks.{i}.mlp.fc2"}),
    *pairs({"blocks.{i}.mlp.w12": "blocks.{i}.mlp.w12", "blocks.{i}.mlp.w3": "blocks.{i}.mlp.w3"}),
    *(
        Rule((f"blocks.{{i}}.ls{k}.gamma",), (theirs,))
        for k in (1, 2)
        for theirs in (f"blocks.{{i}}.ls{k}.gamma", f"blocks.{{i}}.gamma_{k}")
    ),
    Rule(("cls_token",), ("cls_token",)),
    Rule(("dist_token",), ("dist_token",)),
    Rule(("register_tokens",), ("reg_token",)),
    Rule(("register_tokens",), ("register_tokens",)),
    Rule(("attn_pool.latent",), ("attn_pool.latent",)),
)

TIMM = Layout(
    title="timm",
    signature=("patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "pos_embed"),
    configure=configure,
    rules=rules,
    drops=(
        Drop(r"mask_token", "only pre-training masks patches"),
        Drop(r"decoder_.*", "the decoder of MAE's pre-training"),
        Drop(
            r"(dino_head|ibot_head|head\.mlp|head\.last_layer)\..*", "a head of self-distillation"
        ),
    ),
    prefixes=("backbone.",),
    zeros=("patch_embed.proj.bias",),  # CLIP's patch projection has none
)
