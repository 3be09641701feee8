"""Our models in the formats of others; reading them back gives the same tensors, bit for bit."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from tessera.checkpoint.artifact import LoadedModel, save_artifact, write_atomically
from tessera.checkpoint.hierarchical import describe
from tessera.checkpoint.huggingface import ACTIVATIONS, HF_LAYOUTS
from tessera.checkpoint.layout import Layout
from tessera.checkpoint.others import GOOGLE
from tessera.checkpoint.resnets import BIT
from tessera.checkpoint.rules import CheckpointError, State, revert
from tessera.checkpoint.timm import TIMM
from tessera.config import HIERARCHICAL, ViTConfig
from tessera.data.preprocessing import Preprocessing
from tessera.models.variants import SIZES
from tessera.nn.patch_embed import linear_to_conv

PLAIN = {
    "head_dim": None,
    "patch_norm": False,
    "cls_token": True,
    "dist_token": False,
    "num_registers": 0,
    "pos_embed": "learned",
    "place": "stem",
    "attention": "global",
    "embed_norm": False,
    "pool": "cls",
    "final_norm": "tokens",
    "qk_norm": False,
    "locality": False,
    "residual_norm": False,
    "norm": "layernorm",
    "layer_scale_init": None,
}
"""The paper's own model, which is all that some formats can say."""


def write_tessera(loaded: LoadedModel, path: Path) -> None:
    """Write our artefact: one .safetensors file."""
    save_artifact(path, loaded.model, loaded.header)


def write_timm(loaded: LoadedModel, folder: Path) -> None:
    """Write a folder that ``timm.create_model("local-dir:FOLDER")`` opens.

    Raises:
        CheckpointError: timm's Vision Transformer has no such part.
    """
    config, header = loaded.header.config, loaded.header
    _require_patches(config, "timm")
    wanted = {
        "pos_embed": "learned",
        "place": "stem",
        "attention": "global",
        "patch_norm": False,
        "representation_dim": None,
        "locality": False,
        "residual_norm": False,
    }
    _require(config, wanted, "timm")
    state = revert(_state(loaded), TIMM.rules(asdict(config)), config.depth, zeros=TIMM.zeros)
    p = header.preprocessing
    names = list(header.class_names)
    _write_folder(
        folder,
        state,
        {
            "architecture": _timm_name(config),
            "num_classes": config.num_classes,
            "num_features": config.embed_dim,
            "model_args": _timm_arguments(config, state),
            "pretrained_cfg": {
                "input_size": [config.in_chans, *p.size],
                "interpolation": p.interpolation,
                "crop_pct": p.crop_pct,
                "crop_mode": "squash" if p.crop == "squash" else "center",
                "mean": list(p.mean),
                "std": list(p.std),
                "num_classes": config.num_classes,
                "first_conv": "patch_embed.proj",
                "classifier": "head",
            },
            **({"label_names": names} if names else {}),
        },
    )


def write_hf(loaded: LoadedModel, folder: Path) -> None:
    """Write a folder that ``AutoModelForImageClassification`` of transformers opens.

    Raises:
        CheckpointError: It is not the plain model, which is all that their ViT can be, nor as
            their Hiera or Swin.
    """
    config, header = loaded.header.config, loaded.header
    word = config.patch_embed if config.patch_embed in HIERARCHICAL else "vit"
    activation = {ours: theirs for theirs, ours in ACTIVATIONS.items()}.get(config.mlp)
    if activation is None:
        raise CheckpointError(f"transformers' {word} has no gated MLP")
    layout, described = _hf_vit(config) if word == "vit" else _hf_hierarchy(config)
    bare = revert(_state(loaded), layout.rules(asdict(config)), config.depth)
    state = {n if n.startswith("classifier") else f"{word}.{n}": t for n, t in bare.items()}
    names = header.class_names or tuple(str(k) for k in range(config.num_classes))
    title = {"vit": "ViT", "hiera": "Hiera", "swin": "Swin"}[word]
    _write_folder(
        folder,
        state,
        {
            "architectures": [f"{title}ForImageClassification"],
            "model_type": word,
            **described,
            "hidden_act": activation,
            "num_channels": config.in_chans,
            "id2label": {str(k): name for k, name in enumerate(names)},
            "label2id": {name: k for k, name in enumerate(names)},
        },
    )
    text = json.dumps(_hf_preprocessor(header.preprocessing), indent=2)
    (folder / "preprocessor_config.json").write_text(text + "\n", encoding="utf-8")


def _hf_vit(config: ViTConfig) -> tuple[Layout, dict[str, Any]]:
    """Their layout, and what config.json says of the plain model alone."""
    _require_patches(config, "transformers' ViT")
    _require(config, {**PLAIN, "representation_dim": None}, "transformers' ViT")
    if config.image_shape[0] != config.image_shape[1]:
        raise CheckpointError("transformers' ViT has square images only")
    return HF_LAYOUTS[0], {
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.mlp_dim,
        "layer_norm_eps": config.norm_eps,
        "image_size": config.image_shape[0],
        "patch_size": config.patch_size,
        "qkv_bias": config.qkv_bias,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def _hf_hierarchy(config: ViTConfig) -> tuple[Layout, dict[str, Any]]:
    """Their layout, and what config.json says of Hiera or Swin alone."""
    whose = f"transformers' {config.patch_embed}"
    _require(config, {"norm": "layernorm", "representation_dim": None}, whose)
    only = {"norm_eps": 1e-5} if config.patch_embed == "swin" else {"qkv_bias": True}
    _require(config, only, whose)
    return describe(config)


def write_npz(loaded: LoadedModel, path: Path) -> None:
    """Write a .npz in the layout of the paper's own code, or of BiT's.

    Raises:
        CheckpointError: It is not the paper's model, nor its hybrid, nor BiT's ResNet.
    """
    config, layout = loaded.header.config, GOOGLE
    if config.patch_embed == "resnetv2":
        _require(config, {"stem_norm": "bit", "representation_dim": None}, "BiT's code")
        layout = BIT
    else:
        wanted = {**PLAIN, "qkv_bias": True, "mlp": "gelu", "norm_eps": 1e-6}
        if config.patch_embed == "resnet":
            wanted["stem_norm"] = "paper"
        else:
            _require_patches(config, "the paper's code")
        _require(config, wanted, "the paper's code")
    state = revert(_state(loaded), layout.rules(asdict(config)), config.depth)
    arrays = {name: tensor.numpy() for name, tensor in state.items()}

    def write(part: Path) -> None:
        with part.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)

    write_atomically(path, write)


WRITERS: dict[str, Callable[[LoadedModel, Path], None]] = {
    "tessera": write_tessera,
    "timm": write_timm,
    "hf": write_hf,
    "npz": write_npz,
}


def _state(loaded: LoadedModel) -> State:
    """Our tensors on the CPU, with the patch projection as a convolution."""
    config = loaded.header.config
    state = {name: t.detach().cpu() for name, t in loaded.model.state_dict().items()}
    if config.patch_embed == "linear" and not config.patch_norm:
        key = "patch_embed.proj.weight"
        state[key] = linear_to_conv(state[key], config.patch_size)
    return state


def _require_patches(config: ViTConfig, whose: str) -> None:
    """Refuse a convolutional stem, or shifted patches."""
    if config.patch_embed not in ("conv", "linear"):
        _require(config, {"patch_embed": "conv"}, whose)


def _require(config: ViTConfig, wanted: dict[str, Any], whose: str) -> None:
    """Refuse what a format cannot say."""
    for name, value in wanted.items():
        if getattr(config, name) != value:
            raise CheckpointError(
                f"{whose} has no {name}={getattr(config, name)!r}: it wants {value!r}\n"
                "hint: --to tessera keeps everything"
            )


def _timm_name(config: ViTConfig) -> str:
    """The nearest architecture of timm; ``model_args`` says what differs."""
    words = {size.embed_dim: word for word, size in SIZES.items()}
    return f"vit_{words.get(config.embed_dim, 'base')}_patch16_224"


def _timm_arguments(config: ViTConfig, state: State) -> dict[str, Any]:
    rows, patches = state["pos_embed"].shape[1], config.grid[0] * config.grid[1]
    # The half makes timm's int(width * ratio) land on our number whatever the rounding.
    ratio = config.mlp_dim / config.embed_dim
    exact = ratio if int(config.embed_dim * ratio) == config.mlp_dim else None
    return {
        "img_size": list(config.image_shape),
        "patch_size": config.patch_size,
        "in_chans": config.in_chans,
        "embed_dim": config.embed_dim,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": exact or (config.mlp_dim + 0.5) / config.embed_dim,
        "qkv_bias": config.qkv_bias,
        "qk_norm": config.qk_norm,
        "init_values": config.layer_scale_init,
        "class_token": config.cls_token,
        "no_embed_class": rows == patches and config.positioned_prefix > 0,
        "reg_tokens": config.num_registers,
        "pre_norm": config.embed_norm,
        "global_pool": {"cls": "token", "avg": "avg", "map": "map"}[config.pool],
        "fc_norm": config.final_norm == "pooled",
        "final_norm": config.final_norm != "none",
    }


def _hf_preprocessor(p: Preprocessing) -> dict[str, Any]:
    """Resize the short side and crop, or squash, as ``CLIPImageProcessor`` and kin do."""
    resample = {"nearest": 0, "bilinear": 2, "bicubic": 3}[p.interpolation]
    size = {"height": p.size[0], "width": p.size[1]}
    steps: dict[str, Any] = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": size,
        "resample": resample,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(p.mean),
        "image_std": list(p.std),
    }
    if p.crop == "crop":
        steps |= {
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": p.resized_size[0]},
            "do_center_crop": True,
            "crop_size": size,
            "do_convert_rgb": True,
        }
    return steps


def _write_folder(folder: Path, state: State, config: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(
        folder / "model.safetensors",
        lambda part: save_file(state, part, metadata={"format": "pt"}),
    )
    text = json.dumps(config, indent=2) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
