"""Swin and Hiera in checkpoints: of transformers, and Swin's of its authors and of timm."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tessera.checkpoint.huggingface import ACTIVATIONS
from tessera.checkpoint.layout import Fields, Hints, Layout, count_blocks, square_side
from tessera.checkpoint.rules import CheckpointError, Drop, Rule, State, packed, pair, pairs
from tessera.config import ViTConfig
from tessera.models.hierarchies import HIERA, SWIN_WINDOWS
from tessera.models.variants import NETWORK

OURS = "patch_embed"
"""Where all stages stand in our models."""

INDEX = Drop(r".*relative_position_index", "it is computed from the window")


def _stages(theirs: State, start: str) -> tuple[int, ...]:
    """Count the blocks of every stage; ``{s}`` and ``{i}`` stand for stage and block."""
    found: list[int] = []
    while count := count_blocks(theirs, start.replace("{s}", str(len(found)))):
        found.append(count)
    return tuple(found)


def _blocks(fields: Fields, theirs: str) -> Iterator[tuple[str, str, int, int]]:
    """Go through all blocks: our name, theirs, the stage, and the place in it."""
    number = 0
    for stage, count in enumerate(fields["stem_blocks"]):
        for place in range(count):
            name = theirs.replace("{s}", str(stage)).replace("{i}", str(place))
            yield f"{OURS}.blocks.{number}", name, stage, place
            number += 1


def _refuse_others(json: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Refuse a config.json that asks for what we do not have.

    Raises:
        CheckpointError: It does.
    """
    for key, value in wanted.items():
        found = json.get(key, value)
        if (list(found) if isinstance(found, tuple | list) else found) != value:
            raise CheckpointError(f"its config.json asks for {key}={found!r}; known is {value!r}")


def _sides(size: int | Sequence[int]) -> int | tuple[int, int]:
    """Return one side for a square, else height and width."""
    height, width = (size, size) if isinstance(size, int) else size
    return height if height == width else (height, width)


def _activation(json: Mapping[str, Any]) -> str:
    name = str(json.get("hidden_act", "gelu"))
    if name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise CheckpointError(f"hidden_act={name!r} is unknown\nhint: known are {known}")
    return ACTIVATIONS[name]


# Swin ---------------------------------------------------------------------------------------------


def _swin(theirs: State, hints: Hints, names: Mapping[str, str]) -> tuple[Fields, tuple[str, ...]]:
    """Read the config off shapes; no tensor tells the size of the images.

    Args:
        names: Where the layout keeps blocks, the first table, kernel, MLP and head.
    """
    blocks = _stages(theirs, names["block"])
    rows, heads = theirs[names["table"]].shape
    window = (round(rows**0.5) + 1) // 2
    width, chans, side = theirs[names["kernel"]].shape[:3]
    told = hints.overrides.get("img_size") or hints.json.get("image_size")
    size = told or {w: s for s, w in SWIN_WINDOWS.items()}.get(window, 224)
    stages = len(blocks) - 1
    head = theirs.get(names["head"])
    return {
        **NETWORK,
        "patch_embed": "swin",
        "stem_blocks": blocks,
        "stem_width": width,
        "stem_heads": heads,
        "attention_window": window,
        "embed_dim": width * 2**stages,
        "patch_size": side * 2**stages,
        "img_size": _sides(size),
        "in_chans": chans,
        "num_classes": 0 if head is None else head.numel(),
        "qkv_bias": names["bias"] in theirs,
        "mlp": _activation(hints.json),
        "final_norm": "tokens",
        "norm_eps": 1e-5,
    }, () if told else (f"images of {size} pixels assumed",)


def _configure_hf_swin(theirs: State, hints: Hints) -> tuple[Fields, tuple[str, ...]]:
    wanted = {"use_absolute_embeddings": False, "mlp_ratio": 4, "layer_norm_eps": 1e-5}
    _refuse_others(hints.json, wanted)
    first = "encoder.layers.0.blocks.0.attention.self"
    names = {
        "block": "encoder.layers.{s}.blocks.{i}.",
        "table": f"{first}.relative_position_bias_table",
        "kernel": "embeddings.patch_embeddings.projection.weight",
        "bias": f"{first}.query.bias",
        "head": "classifier.bias",
    }
    return _swin(theirs, hints, names)


def _hf_swin_rules(fields: Fields) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for ours, block, stage, place in _blocks(fields, "encoder.layers.{s}.blocks.{i}"):
        inner = f"{block}.attention.self"
        rules += packed(f"{ours}.attn.qkv", [f"{inner}.{p}" for p in ("query", "key", "value")])
        rules.append(Rule((f"{ours}.attn.bias.table",), (f"{inner}.relative_position_bias_table",)))
        rules += pairs(
            {
                f"{ours}.attn.proj": f"{block}.attention.output.dense",
                f"{ours}.norm1": f"{block}.layernorm_before",
                f"{ours}.norm2": f"{block}.layernorm_after",
                f"{ours}.mlp.fc1": f"{block}.intermediate.dense",
                f"{ours}.mlp.fc2": f"{block}.output.dense",
            }
        )
        if stage and not place:
            rules += _merging(ours, f"encoder.layers.{stage - 1}.downsample")
    return (
        *rules,
        *pair(f"{OURS}.proj", "embeddings.patch_embeddings.projection"),
        *pair(f"{OURS}.norm", "embeddings.norm"),
        *pair("norm", "layernorm"),
        *pair("head", "classifier"),
    )


def _merging(ours: str, theirs: str) -> tuple[Rule, ...]:
    reduction = Rule((f"{ours}.merge.reduction.weight",), (f"{theirs}.reduction.weight",))
    return (*pair(f"{ours}.merge.norm", f"{theirs}.norm"), reduction)


HF_SWIN = Layout(
    title="transformers' Swin",
    signature=(
        "embeddings.patch_embeddings.projection.weight",
        "encoder.layers.0.blocks.0.attention.self.relative_position_bias_table",
    ),
    configure=_configure_hf_swin,
    rules=_hf_swin_rules,
    drops=(INDEX, Drop(r"embeddings\.mask_token", "only pre-training masks patches")),
    prefixes=("swin.",),
)


def _configure_swin(head: str) -> Any:
    names = {
        "block": "layers.{s}.blocks.{i}.",
        "table": "layers.0.blocks.0.attn.relative_position_bias_table",
        "kernel": "patch_embed.proj.weight",
        "bias": "layers.0.blocks.0.attn.qkv.bias",
        "head": f"{head}.bias",
    }
    return lambda theirs, hints: _swin(theirs, hints, names)


def _swin_rules(fields: Fields, head: str, merging: int) -> tuple[Rule, ...]:
    """Return the table of the authors' names.

    Args:
        merging: Which stage a merging is counted to: -1 the one before it, 0 the one after it.
    """
    rules: list[Rule] = []
    for ours, block, stage, place in _blocks(fields, "layers.{s}.blocks.{i}"):
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2"):
            rules += pair(f"{ours}.{part}", f"{block}.{part}")
        table = f"{block}.attn.relative_position_bias_table"
        rules.append(Rule((f"{ours}.attn.bias.table",), (table,)))
        if stage and not place:
            rules += _merging(ours, f"layers.{stage + merging}.downsample")
    stem = {f"{OURS}.proj": "patch_embed.proj", f"{OURS}.norm": "patch_embed.norm"}
    return (*rules, *pairs(stem), *pair("norm", "norm"), *pair("head", head))


_TABLE = "layers.0.blocks.0.attn.relative_position_bias_table"

SWIN = Layout(
    title="the authors' Swin",
    signature=(_TABLE, "layers.0.downsample.norm.weight"),
    configure=_configure_swin("head"),
    rules=lambda fields: _swin_rules(fields, "head", -1),
    drops=(INDEX, Drop(r".*attn_mask", "it is computed from the window")),
)

TIMM_SWIN = Layout(
    title="timm's Swin",
    signature=(_TABLE, "layers.3.downsample.norm.weight"),
    configure=_configure_swin("head.fc"),
    rules=lambda fields: _swin_rules(fields, "head.fc", 0),
    drops=(INDEX, Drop(r".*attn_mask", "it is computed from the window")),
)

# Hiera --------------------------------------------------------------------------------------------


def _hf_hiera_numbers(blocks: tuple[int, ...], side: int) -> dict[str, Any]:
    """What config.json must say of a Hiera that is like the published ones.

    Args:
        side: Stride of the first convolution.
    """
    stages = len(blocks)
    return {
        "patch_size": [2 * side - 1] * 2,
        "patch_stride": [side] * 2,
        "patch_padding": [side - 1] * 2,
        "mlp_ratio": 4.0,
        "embed_dim_multiplier": 2.0,
        "num_query_pool": stages - 1,
        "query_stride": [2, 2],
        "masked_unit_size": [2 ** (stages - 1)] * 2,
        "masked_unit_attention": [stage < 2 for stage in range(stages)],
    }


def _configure_hf_hiera(theirs: State, hints: Hints) -> tuple[Fields, tuple[str, ...]]:
    blocks = _stages(theirs, "encoder.stages.{s}.layers.{i}.")
    width, chans, kernel = theirs["embeddings.patch_embeddings.projection.weight"].shape[:3]
    side, stages = (kernel + 1) // 2, len(blocks) - 1
    _refuse_others(hints.json, _hf_hiera_numbers(blocks, side))
    size = hints.json.get("image_size")
    if size is None or "img_size" in hints.overrides:
        size = square_side(theirs["embeddings.position_embeddings"].shape[1], side, hints)
    head = theirs.get("classifier.bias")
    return {
        **NETWORK,
        "patch_embed": "hiera",
        "stem_blocks": blocks,
        "stem_width": width,
        "stem_heads": _hiera_heads(width, hints),
        "embed_dim": width * 2**stages,
        "patch_size": side * 2**stages,
        "img_size": _sides(size),
        "in_chans": chans,
        "num_classes": 0 if head is None else head.numel(),
        "mlp": _activation(hints.json),
        "final_norm": "pooled",
        "norm_eps": hints.json.get("layer_norm_eps", 1e-6),
    }, ()


def _hiera_heads(width: int, hints: Hints) -> int:
    """Return the heads of the first stage, which no tensor tells.

    Raises:
        CheckpointError: Neither config.json nor the table of sizes says them.
    """
    if "stem_heads" in hints.overrides:
        return int(hints.overrides["stem_heads"])
    if "num_heads" in hints.json:
        heads = [int(count) for count in hints.json["num_heads"]]
        if heads != [heads[0] * 2**stage for stage in range(len(heads))]:
            raise CheckpointError(
                f"its config.json asks for num_heads={heads}, which do not double"
            )
        return heads[0]
    known = {size.width: size.heads for size in HIERA.values()}
    if width not in known:
        raise CheckpointError(
            f"the number of heads cannot be read off tensors of width {width}\n"
            "hint: give the folder that holds config.json beside the weights, or say it with "
            "--arch.stem-heads to `tessera convert FILE OUT --to tessera`"
        )
    return known[width]


def _hf_hiera_rules(fields: Fields) -> tuple[Rule, ...]:
    rules: list[Rule] = []
    for ours, block, _, _ in _blocks(fields, "encoder.stages.{s}.layers.{i}"):
        rules += pairs(
            {
                f"{ours}.norm1": f"{block}.layernorm_before",
                f"{ours}.attn.qkv": f"{block}.attn.qkv",
                f"{ours}.attn.proj": f"{block}.attn.proj",
                f"{ours}.shortcut": f"{block}.proj",
                f"{ours}.norm2": f"{block}.layernorm_after",
                f"{ours}.mlp.fc1": f"{block}.mlp.fc1",
                f"{ours}.mlp.fc2": f"{block}.mlp.fc2",
            }
        )
    return (
        *rules,
        *pair(f"{OURS}.proj", "embeddings.patch_embeddings.projection"),
        Rule((f"{OURS}.pos_embed.table",), ("embeddings.position_embeddings",)),
        *pair("norm", "pooler.layernorm"),
        *pair("head", "classifier"),
    )


HF_HIERA = Layout(
    title="transformers' Hiera",
    signature=(
        "embeddings.position_embeddings",
        "encoder.stages.0.layers.0.layernorm_before.weight",
    ),
    configure=_configure_hf_hiera,
    rules=_hf_hiera_rules,
    prefixes=("hiera.",),
)

HIERARCHICAL_LAYOUTS = (HF_SWIN, SWIN, TIMM_SWIN, HF_HIERA)


def describe(config: ViTConfig) -> tuple[Layout, dict[str, Any]]:
    """Return the layout of transformers for a hierarchical model, and what config.json says of it.

    The names of the tensors want the prefix of the layout, but for the head's.
    """
    stages = len(config.stem_blocks)
    side = config.patch_size // config.stem_stride
    height, width = config.image_shape
    both = {
        "embed_dim": config.stem_width,
        "depths": list(config.stem_blocks),
        "num_heads": [config.stem_heads * 2**stage for stage in range(stages)],
        "layer_norm_eps": config.norm_eps,
        "drop_path_rate": config.drop_path_rate,
    }
    if config.patch_embed == "hiera":
        numbers = _hf_hiera_numbers(config.stem_blocks, side)
        return HF_HIERA, {**both, **numbers, "image_size": [height, width]}
    return HF_SWIN, {
        **both,
        "image_size": height if height == width else [height, width],
        "patch_size": side,
        "window_size": config.attention_window,
        "mlp_ratio": 4.0,
        "qkv_bias": config.qkv_bias,
        "use_absolute_embeddings": False,
    }
