"""ResNets in checkpoints: the stems of hybrids, and BiT on its own, by Google, timm and others."""

from collections.abc import Callable, Iterator, Sequence

import torch
from einops import rearrange
from torch import Tensor

from tessera.checkpoint.layout import Fields, Hints, Layout
from tessera.checkpoint.rules import CheckpointError, Drop, Rule, State, pair
from tessera.models.variants import NETWORK

OURS = "patch_embed"
"""Where a stem stands in our models."""

_BIT_CONV = "standardized_conv2d"


def google_stem(theirs: State) -> Fields:
    """Read a hybrid's ResNet off a .npz of the paper's code; nothing where there is none."""
    if "conv_root/kernel" not in theirs:
        return {}
    blocks = _stages(theirs, lambda i, j: f"block{i + 1}/unit{j + 1}/")
    _, _, chans, width = theirs["conv_root/kernel"].shape
    return _hybrid(blocks, width, chans, theirs["embedding/kernel"].shape[0], "paper")


def timm_stem(theirs: State) -> Fields:
    """Read a hybrid's ResNet off timm's names; nothing where there is none.

    Raises:
        CheckpointError: It is a convolutional network of another kind.
    """
    start = "patch_embed.backbone."
    if not any(name.startswith(start) for name in theirs):
        return {}
    root = next((r for r in _timm_roots() if f"{r}.conv.weight" in theirs), None)
    if root is None or f"{root}.norm.weight" not in theirs:
        raise CheckpointError("its stem is no ResNet of BiT's, and Tessera has no other")
    blocks = _stages(theirs, lambda i, j: f"{start}stages.{i}.blocks.{j}.")
    width, chans = theirs[f"{root}.conv.weight"].shape[:2]
    return _hybrid(blocks, width, chans, theirs["patch_embed.proj.weight"].shape[-1], "timm")


def _timm_roots() -> tuple[str, str]:
    """Where timm keeps the root: with stages, and alone."""
    return "patch_embed.backbone.stem", "patch_embed.backbone"


def _hybrid(blocks: tuple[int, ...], width: int, chans: int, side: int, form: str) -> Fields:
    return {
        "patch_embed": "resnet",
        "stem_blocks": blocks,
        "stem_width": width,
        "stem_norm": form,
        "in_chans": chans,
        "patch_size": side * 4 * 2 ** max(len(blocks) - 1, 0),
    }


def google_stem_rules(fields: Fields) -> tuple[Rule, ...]:
    """Return the table of a hybrid's ResNet in the paper's code, empty for other models."""
    if fields.get("patch_embed") != "resnet":
        return ()
    rules = [_kernel(f"{OURS}.conv_root", "conv_root"), *_scale(f"{OURS}.norm_root", "gn_root")]
    for i, j in _units(fields):
        ours, theirs = f"{OURS}.stages.{i}.{j}", f"block{i + 1}/unit{j + 1}"
        for part in ("1", "2", "3", "_proj"):
            rules.append(_kernel(f"{ours}.conv{part}", f"{theirs}/conv{part}"))
            rules += _scale(f"{ours}.norm{part}", f"{theirs}/gn{part}")
    return tuple(rules)


def timm_stem_rules(fields: Fields) -> tuple[Rule, ...]:
    """Return the table of a hybrid's ResNet in timm, empty for other models."""
    if fields.get("patch_embed") != "resnet":
        return ()
    root = _timm_roots()[0 if fields["stem_blocks"] else 1]
    rules = [_same(f"{OURS}.conv_root", f"{root}.conv"), *pair(f"{OURS}.norm_root", f"{root}.norm")]
    for i, j in _units(fields):
        theirs = f"patch_embed.backbone.stages.{i}.blocks.{j}"
        rules += _torch_unit(f"{OURS}.stages.{i}.{j}", theirs)
    return tuple(rules)


def _torch_unit(ours: str, theirs: str) -> Iterator[Rule]:
    for k in (1, 2, 3):
        yield _same(f"{ours}.conv{k}", f"{theirs}.conv{k}")
        yield from pair(f"{ours}.norm{k}", f"{theirs}.norm{k}")
    yield _same(f"{ours}.conv_proj", f"{theirs}.downsample.conv")
    yield from pair(f"{ours}.norm_proj", f"{theirs}.downsample.norm")


def _units(fields: Fields) -> Iterator[tuple[int, int]]:
    for i, count in enumerate(fields["stem_blocks"]):
        yield from ((i, j) for j in range(count))


def _stages(theirs: State, start: Callable[[int, int], str]) -> tuple[int, ...]:
    """Count the units of every stage, given how the names in a unit begin."""
    found: list[int] = []
    while True:
        count = 0
        while any(name.startswith(start(len(found), count)) for name in theirs):
            count += 1
        if not count:
            return tuple(found)
        found.append(count)


def _kernel(ours: str, theirs: str) -> Rule:
    """A convolution of flax or TensorFlow."""
    return Rule(
        (f"{ours}.weight",),
        (f"{theirs}/kernel",),
        lambda k: (rearrange(k, "h w i o -> o i h w"),),
        lambda w: (rearrange(w, "o i h w -> h w i o"),),
    )


def _scale(ours: str, theirs: str, names: Sequence[str] = ("scale", "bias")) -> tuple[Rule, Rule]:
    """A norm, whose parameters older files keep with axes of length 1."""
    first, second = (
        Rule((f"{ours}.{part}",), (f"{theirs}/{name}",), lambda t: (t.flatten(),))
        for part, name in zip(("weight", "bias"), names, strict=True)
    )
    return first, second


def _same(ours: str, theirs: str) -> Rule:
    return Rule((f"{ours}.weight",), (f"{theirs}.weight",))


# BiT on its own -----------------------------------------------------------------------------------


def _classifier(
    blocks: tuple[int, ...], root: Tensor, classes: int, form: str, hints: Hints
) -> tuple[Fields, tuple[str, ...]]:
    """Return the config of a whole ResNet; no tensor tells the size of its images.

    Args:
        root: Kernel of the first convolution, ``o i 7 7``.
    """
    size = hints.overrides.get("img_size") or 224
    side = size if isinstance(size, int) else size[0]
    note = () if hints.overrides.get("img_size") else (f"images of {side} pixels assumed",)
    width, chans = root.shape[:2]
    stages = max(len(blocks) - 1, 0)
    return {
        **NETWORK,
        "patch_embed": "resnetv2",
        "stem_blocks": blocks,
        "stem_width": width,
        "stem_norm": form,
        "embed_dim": 4 * width * 2**stages,
        "patch_size": 4 * 2**stages,
        "img_size": size,
        "in_chans": chans,
        "num_classes": classes,
    }, note


def _configure_bit(theirs: State, hints: Hints) -> tuple[Fields, tuple[str, ...]]:
    blocks = _stages(theirs, lambda i, j: f"resnet/block{i + 1}/unit{j + 1:02d}/")
    root = rearrange(theirs[f"resnet/root_block/{_BIT_CONV}/kernel"], "h w i o -> o i h w")
    head = theirs.get("resnet/head/conv2d/bias")
    return _classifier(blocks, root, 0 if head is None else head.numel(), "bit", hints)


def _bit_rules(fields: Fields) -> tuple[Rule, ...]:
    names = ("gamma", "beta")
    rules = [_kernel(f"{OURS}.conv_root", f"resnet/root_block/{_BIT_CONV}")]
    for i, j in _units(fields):
        ours, theirs = f"{OURS}.stages.{i}.{j}", f"resnet/block{i + 1}/unit{j + 1:02d}"
        for k, letter in enumerate("abc", start=1):
            rules.append(_kernel(f"{ours}.conv{k}", f"{theirs}/{letter}/{_BIT_CONV}"))
            rules += _scale(f"{ours}.norm{k}", f"{theirs}/{letter}/group_norm", names)
        rules.append(_kernel(f"{ours}.conv_proj", f"{theirs}/a/proj/{_BIT_CONV}"))
    return (
        *rules,
        *_scale(f"{OURS}.norm", "resnet/group_norm", names),
        Rule(
            ("head.weight",),
            ("resnet/head/conv2d/kernel",),
            lambda k: (rearrange(k, "1 1 d k -> k d"),),
            lambda w: (rearrange(w, "k d -> 1 1 d k"),),
        ),
        Rule(("head.bias",), ("resnet/head/conv2d/bias",)),
    )


BIT = Layout(
    title="Google's BiT .npz",
    signature=(f"resnet/root_block/{_BIT_CONV}/kernel", "resnet/group_norm/gamma"),
    configure=_configure_bit,
    rules=_bit_rules,
    drops=(Drop(r"(.*/)?global_step", "a count of training steps"),),
)


def _configure_timm_bit(theirs: State, hints: Hints) -> tuple[Fields, tuple[str, ...]]:
    blocks = _stages(theirs, lambda i, j: f"stages.{i}.blocks.{j}.")
    head = theirs.get("head.fc.bias")
    classes = 0 if head is None else head.numel()
    return _classifier(blocks, theirs["stem.conv.weight"], classes, "timm", hints)


def _timm_bit_rules(fields: Fields) -> tuple[Rule, ...]:
    rules = [_same(f"{OURS}.conv_root", "stem.conv")]
    for i, j in _units(fields):
        rules += _torch_unit(f"{OURS}.stages.{i}.{j}", f"stages.{i}.blocks.{j}")
    return (
        *rules,
        *pair(f"{OURS}.norm", "norm"),
        Rule(
            ("head.weight",),
            ("head.fc.weight",),
            lambda k: (torch.flatten(k, 1),),
            lambda w: (rearrange(w, "k d -> k d 1 1"),),
        ),
        Rule(("head.bias",), ("head.fc.bias",)),
    )


TIMM_BIT = Layout(
    title="timm's BiT",
    signature=("stem.conv.weight", "stages.0.blocks.0.norm3.weight", "norm.weight"),
    configure=_configure_timm_bit,
    rules=_timm_bit_rules,
)


def _configure_hf_bit(theirs: State, hints: Hints) -> tuple[Fields, tuple[str, ...]]:
    odd = [key for key in ("global_padding", "embedding_dynamic_padding") if hints.json.get(key)]
    if hints.json.get("layer_type", "preactivation") != "preactivation":
        odd.append("layer_type")
    if odd:
        raise CheckpointError(f"its config.json asks for {odd[0]}={hints.json[odd[0]]!r}")
    blocks = _stages(theirs, lambda i, j: f"encoder.stages.{i}.layers.{j}.")
    head = theirs.get("classifier.1.bias")
    classes = 0 if head is None else head.numel()
    return _classifier(blocks, theirs["embedder.convolution.weight"], classes, "timm", hints)


def _hf_bit_rules(fields: Fields) -> tuple[Rule, ...]:
    rules = [_same(f"{OURS}.conv_root", "embedder.convolution")]
    for i, j in _units(fields):
        rules += _torch_unit(f"{OURS}.stages.{i}.{j}", f"encoder.stages.{i}.layers.{j}")
    return (*rules, *pair(f"{OURS}.norm", "norm"), *pair("head", "classifier.1"))


HF_BIT = Layout(
    title="transformers' BiT",
    signature=("embedder.convolution.weight", "encoder.stages.0.layers.0.conv1.weight"),
    configure=_configure_hf_bit,
    rules=_hf_bit_rules,
    prefixes=("bit.",),
)

BIT_LAYOUTS = (BIT, TIMM_BIT, HF_BIT)
