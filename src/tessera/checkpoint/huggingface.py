"""The layouts of Hugging Face transformers, one a family; all need the config.json beside them."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tessera.checkpoint.layout import Fields, Hints, Layout
from tessera.checkpoint.rules import CheckpointError, Drop, Rule, State, packed, pair, pairs

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
}

MASK_TOKEN = Drop(r"embeddings\.mask_token", "only pre-training masks patches")
POOLER = Drop(r"pooler\..*", "a layer that the classifier does not use")
TEXT = Drop(r"(text_model|text_projection|text_embeds|logit_scale|logit_bias).*", "the text tower")
POSITION_IDS = Drop(r"embeddings\.position_ids", "counts from 0, nothing learned")


def configure(theirs: State, hints: Hints) -> tuple[Fields, tuple[str, ...]]:
    """Read the config.json of any of the families.

    Raises:
        CheckpointError: There is none, or it asks for what we do not have.
    """
    json = dict(hints.json)
    if "vision_config" in json:  # a two-tower model
        json = {**dict(json["vision_config"]), "projection_dim": json.get("projection_dim", 512)}
    if "hidden_size" not in json:
        raise CheckpointError(
            "these are weights of transformers, which say nothing of their heads and norms\n"
            "hint: give the folder that holds config.json beside the weights"
        )
    activation = str(json.get("hidden_act", "gelu"))
    if activation not in ACTIVATIONS and not json.get("use_gated_mlp"):
        known = ", ".join(ACTIVATIONS)
        raise CheckpointError(f"hidden_act={activation!r} is unknown\nhint: known are {known}")
    size = json["image_size"]
    fields: Fields = {
        "embed_dim": json["hidden_size"],
        "depth": json["num_hidden_layers"],
        "num_heads": json["num_attention_heads"],
        "mlp_dim": json.get("intermediate_size", 4 * json["hidden_size"]),
        "patch_size": json["patch_size"],
        "img_size": size if isinstance(size, int) else tuple(size),
        "in_chans": json.get("num_channels", 3),
        "qkv_bias": json.get("qkv_bias", True),
        "norm_eps": json.get("layer_norm_eps", 1e-6),
        "mlp": ACTIVATIONS.get(activation, "gelu"),
        "num_classes": _outputs(theirs, "classifier.weight"),
    }
    family = str(json.get("model_type"))
    if family not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise CheckpointError(f"model_type={family!r} is unknown\nhint: known are {known}")
    return fields | FAMILIES[family](theirs, json), ()


def _outputs(theirs: State, name: str) -> int:
    return theirs[name].shape[0] if name in theirs else 0


def _vit(theirs: State, json: Mapping[str, Any]) -> Fields:
    return {}


def _deit(theirs: State, json: Mapping[str, Any]) -> Fields:
    """DeiT always has the distillation token; only "WithTeacher" has its head."""
    two = "distillation_classifier.weight" in theirs
    classes = _outputs(theirs, "cls_classifier.weight" if two else "classifier.weight")
    return {"dist_token": True, "dist_head": two, "num_classes": classes}


def _dinov2(theirs: State, json: Mapping[str, Any]) -> Fields:
    hidden = int(json["hidden_size"] * json.get("mlp_ratio", 4))
    gated = bool(json.get("use_swiglu_ffn"))
    return {
        "mlp_dim": (int(hidden * 2 / 3) + 7) // 8 * 8 if gated else hidden,
        "mlp": "swiglu" if gated else ACTIVATIONS[str(json.get("hidden_act", "gelu"))],
        "num_registers": _registers(theirs, json),
        "layer_scale_init": json.get("layerscale_value", 1.0),
        "num_classes": 0,  # their head reads class token and mean patch together
    }


def _dinov3(theirs: State, json: Mapping[str, Any]) -> Fields:
    gated = bool(json.get("use_gated_mlp"))
    if gated and json.get("hidden_act") != "silu":
        raise CheckpointError(f"a gated MLP with hidden_act={json.get('hidden_act')!r} is unknown")
    return {
        "num_registers": _registers(theirs, json),
        "layer_scale_init": json.get("layerscale_value", 1.0),
        "pos_embed": "rope2d",
        "rope_theta": float(_rope_theta(json)),
        "norm_eps": json.get("layer_norm_eps", 1e-5),
        "mlp": "swiglu" if gated else ACTIVATIONS[str(json.get("hidden_act", "gelu"))],
    }


def _rope_theta(json: Mapping[str, Any]) -> float:
    nested = json.get("rope_parameters") or {}
    return float(nested.get("rope_theta", json.get("rope_theta", 100.0)))


def _registers(theirs: State, json: Mapping[str, Any]) -> int:
    tokens = theirs.get("embeddings.register_tokens")
    return int(json.get("num_register_tokens", 0 if tokens is None else tokens.shape[1]))


def _clip(theirs: State, json: Mapping[str, Any]) -> Fields:
    return {
        "embed_norm": True,
        "norm_eps": json.get("layer_norm_eps", 1e-5),
        "num_classes": _outputs(theirs, "visual_projection.weight"),
        "mlp": ACTIVATIONS[str(json.get("hidden_act", "quick_gelu"))],
    }


def _siglip(theirs: State, json: Mapping[str, Any]) -> Fields:
    return {
        "cls_token": False,
        "pool": "map" if "head.probe" in theirs else "avg",
        "mlp": ACTIVATIONS[str(json.get("hidden_act", "gelu_pytorch_tanh"))],
    }


FAMILIES = {
    "vit": _vit,
    "vit_mae": _vit,
    "deit": _deit,
    "dinov2": _dinov2,
    "dinov2_with_registers": _dinov2,
    "dinov3_vit": _dinov3,
    "clip": _clip,
    "clip_vision_model": _clip,
    "siglip": _siglip,
    "siglip_vision_model": _siglip,
}
"""Fields that differ by ``model_type``."""


def _same(*names: str) -> tuple[Rule, ...]:
    return pairs({name: name for name in names})


def _row(ours: str, theirs: str) -> Rule:
    """A table that they keep without the leading axis."""
    return Rule((ours,), (theirs,), lambda t: (t.reshape(1, -1, t.shape[-1]),), lambda t: (t[0],))


def _pos() -> Rule:
    return Rule(("pos_embed.table",), ("embeddings.position_embeddings",))


def _bert_attention(block: str) -> tuple[Rule, ...]:
    inner = f"{block}.attention.attention"
    return (
        *packed("blocks.{i}.attn.qkv", [f"{inner}.{p}" for p in ("query", "key", "value")]),
        *pair("blocks.{i}.attn.proj", f"{block}.attention.output.dense"),
    )


_EMBEDDINGS = (
    *pair("patch_embed.proj", "embeddings.patch_embeddings.projection"),
    Rule(("cls_token",), ("embeddings.cls_token",)),
    Rule(("dist_token",), ("embeddings.distillation_token",)),
    Rule(("register_tokens",), ("embeddings.register_tokens",)),
    _pos(),
)

_BERT = "encoder.layer.{i}"

_VIT_RULES = (
    *_EMBEDDINGS,
    *_bert_attention(_BERT),
    *pairs(
        {
            "blocks.{i}.norm1": f"{_BERT}.layernorm_before",
            "blocks.{i}.norm2": f"{_BERT}.layernorm_after",
            "blocks.{i}.mlp.fc1": f"{_BERT}.intermediate.dense",
            "blocks.{i}.mlp.fc2": f"{_BERT}.output.dense",
            "norm": "layernorm",
            "head_dist": "distillation_classifier",
        }
    ),
    *pair("head", "classifier"),
    *pair("head", "cls_classifier"),
)

_DINOV2_RULES = (
    *_EMBEDDINGS,
    *_bert_attention(_BERT),
    *pairs(
        {
            "blocks.{i}.norm1": f"{_BERT}.norm1",
            "blocks.{i}.norm2": f"{_BERT}.norm2",
            "blocks.{i}.mlp.fc1": f"{_BERT}.mlp.fc1",
            "blocks.{i}.mlp.fc2": f"{_BERT}.mlp.fc2",
            "blocks.{i}.mlp.w12": f"{_BERT}.mlp.weights_in",
            "blocks.{i}.mlp.w3": f"{_BERT}.mlp.weights_out",
            "norm": "layernorm",
        }
    ),
    *(Rule((f"blocks.{{i}}.ls{k}.gamma",), (f"{_BERT}.layer_scale{k}.lambda1",)) for k in (1, 2)),
)


def _with_zero_key_bias(query: Tensor, value: Tensor) -> Sequence[Tensor]:
    return (torch.cat([query, torch.zeros_like(query), value]),)


def _without_key_bias(packed_bias: Tensor) -> Sequence[Tensor]:
    query, key, value = packed_bias.chunk(3)
    if key.any():
        raise CheckpointError("that layout has no place for the bias of the keys")
    return query, value


_DINOV3 = "layer.{i}"
_DINOV3_QKV = [f"{_DINOV3}.attention.{p}_proj" for p in ("q", "k", "v")]

_DINOV3_RULES = (
    *pair("patch_embed.proj", "embeddings.patch_embeddings"),
    Rule(("cls_token",), ("embeddings.cls_token",)),
    Rule(("register_tokens",), ("embeddings.register_tokens",)),
    *packed("blocks.{i}.attn.qkv", _DINOV3_QKV),
    Rule(  # without a bias of the keys, which softmax would cancel anyway
        ("blocks.{i}.attn.qkv.bias",),
        (f"{_DINOV3_QKV[0]}.bias", f"{_DINOV3_QKV[2]}.bias"),
        _with_zero_key_bias,
        _without_key_bias,
    ),
    *packed("blocks.{i}.mlp.w12", [f"{_DINOV3}.mlp.gate_proj", f"{_DINOV3}.mlp.up_proj"]),
    *pairs(
        {
            "blocks.{i}.attn.proj": f"{_DINOV3}.attention.o_proj",
            "blocks.{i}.norm1": f"{_DINOV3}.norm1",
            "blocks.{i}.norm2": f"{_DINOV3}.norm2",
            "blocks.{i}.mlp.fc1": f"{_DINOV3}.mlp.up_proj",
            "blocks.{i}.mlp.fc2": f"{_DINOV3}.mlp.down_proj",
            "blocks.{i}.mlp.w3": f"{_DINOV3}.mlp.down_proj",
            "norm": "norm",
        }
    ),
    *(Rule((f"blocks.{{i}}.ls{k}.gamma",), (f"{_DINOV3}.layer_scale{k}.lambda1",)) for k in (1, 2)),
)

_CLIP = "encoder.layers.{i}"

_TOWER = (
    *packed("blocks.{i}.attn.qkv", [f"{_CLIP}.self_attn.{p}_proj" for p in ("q", "k", "v")]),
    *pair("patch_embed.proj", "embeddings.patch_embedding"),
    _row("pos_embed.table", "embeddings.position_embedding.weight"),
    *pairs(
        {
            "blocks.{i}.attn.proj": f"{_CLIP}.self_attn.out_proj",
            "blocks.{i}.norm1": f"{_CLIP}.layer_norm1",
            "blocks.{i}.norm2": f"{_CLIP}.layer_norm2",
            "blocks.{i}.mlp.fc1": f"{_CLIP}.mlp.fc1",
            "blocks.{i}.mlp.fc2": f"{_CLIP}.mlp.fc2",
            "norm": "post_layernorm",
        }
    ),
)

_CLIP_RULES = (
    *_TOWER,
    *pair("embed_norm", "pre_layrnorm"),  # so spelt in every published file
    Rule(
        ("cls_token",),
        ("embeddings.class_embedding",),
        lambda t: (t.reshape(1, 1, -1),),
        lambda t: (t.flatten(),),
    ),
    Rule(("head.weight",), ("visual_projection.weight",)),
)


def _split_packed(tensor: Tensor) -> Sequence[Tensor]:
    """Query apart, key and value together."""
    width = tensor.shape[0] // 3
    return tensor[:width], tensor[width:]


def _join_packed(query: Tensor, key_value: Tensor) -> Sequence[Tensor]:
    return (torch.cat([query, key_value]),)


_SIGLIP_RULES = (
    *_TOWER,
    Rule(("attn_pool.latent",), ("head.probe",)),
    *(
        Rule(
            (f"attn_pool.q.{part}", f"attn_pool.kv.{part}"),
            (f"head.attention.in_proj_{part}",),
            _split_packed,
            _join_packed,
        )
        for part in ("weight", "bias")
    ),
    *pairs(
        {
            "attn_pool.proj": "head.attention.out_proj",
            "attn_pool.norm": "head.layernorm",
            "attn_pool.mlp.fc1": "head.mlp.fc1",
            "attn_pool.mlp.fc2": "head.mlp.fc2",
        }
    ),
)

HF_LAYOUTS = (
    Layout(
        title="transformers ViT, DeiT, ViTMAE",
        signature=(
            "embeddings.patch_embeddings.projection.weight",
            "encoder.layer.0.layernorm_before.weight",
        ),
        configure=configure,
        rules=lambda _: _VIT_RULES,
        drops=(MASK_TOKEN, POOLER, Drop(r"decoder\..*", "the decoder of MAE's pre-training")),
        prefixes=("vit.", "deit."),
    ),
    Layout(
        title="transformers DINOv2",
        signature=(
            "embeddings.patch_embeddings.projection.weight",
            "encoder.layer.0.layer_scale1.lambda1",
        ),
        configure=configure,
        rules=lambda _: _DINOV2_RULES,
        drops=(
            MASK_TOKEN,
            Drop(r"classifier\..*", "a head on the class token and the mean of patches together"),
        ),
        prefixes=("dinov2.", "dinov2_with_registers."),
    ),
    Layout(
        title="transformers DINOv3",
        signature=("embeddings.patch_embeddings.weight", "layer.0.attention.q_proj.weight"),
        configure=configure,
        rules=lambda _: _DINOV3_RULES,
        drops=(MASK_TOKEN, Drop(r"embeddings\.register_tokens", "it is empty")),
        prefixes=("dinov3_vit.",),
    ),
    Layout(
        title="transformers CLIP vision tower",
        signature=("embeddings.class_embedding", "pre_layrnorm.weight"),
        configure=configure,
        rules=lambda _: _CLIP_RULES,
        drops=(TEXT, POSITION_IDS),
        zeros=("patch_embed.proj.bias", "head.bias"),
        prefixes=("vision_model.",),
    ),
    Layout(
        title="transformers SigLIP vision tower",
        signature=(
            "embeddings.patch_embedding.bias",  # CLIP has none
            "embeddings.position_embedding.weight",
        ),
        configure=configure,
        rules=lambda _: _SIGLIP_RULES,
        drops=(TEXT, POSITION_IDS),
        prefixes=("vision_model.",),
    ),
)
