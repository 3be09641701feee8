"""What a layout of checkpoints is: how to recognise it, its config, and its rules."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tessera.checkpoint.rules import CheckpointError, Drop, Rule, State
from tessera.models.variants import SIZES


@dataclass(frozen=True)
class Hints:
    """What is known about a checkpoint besides its tensors."""

    json: Mapping[str, Any] = field(default_factory=dict)
    """The config.json that lies beside it."""
    name: str = ""
    """Its architecture in timm's spelling, where a record or the config says so."""
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Fields of ``ViTConfig`` that the user or a record knows better."""


Fields = dict[str, Any]
"""Fields of ``ViTConfig``."""


@dataclass(frozen=True)
class Layout:
    """One way of naming the tensors of a Vision Transformer."""

    title: str
    """For people, as in "timm"."""
    signature: tuple[str, ...]
    """Tensor names that all must be there."""
    configure: Callable[[State, Hints], tuple[Fields, tuple[str, ...]]]
    """Reads the config off shapes and hints, with notes on what had to be assumed."""
    rules: Callable[[Fields], tuple[Rule, ...]]
    drops: tuple[Drop, ...] = ()
    zeros: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    """Beginnings that some of the names may have, and that are taken off."""


def heads_of(embed_dim: int, hints: Hints) -> int:
    """Return the number of heads of a published width, which no tensor's shape tells.

    Raises:
        CheckpointError: The width is not a published one.
    """
    if "num_heads" in hints.overrides:
        return int(hints.overrides["num_heads"])
    widths = {size.embed_dim: size.num_heads for size in SIZES.values()}
    if "giantopt" in hints.name or "giant_patch14" in hints.name:  # 1536 wide, with 16 or 24
        widths[1536] = 16 if "giantopt" in hints.name else 24
    if embed_dim not in widths:
        raise CheckpointError(
            f"the number of heads cannot be read off tensors of width {embed_dim}\n"
            "hint: say it with --arch.num-heads to `tessera convert FILE OUT --to tessera`"
        )
    return widths[embed_dim]


def count_blocks(theirs: State, start: str) -> int:
    """Return how many consecutive blocks have tensors that start so, ``{i}`` being the index."""
    depth = 0
    while any(name.startswith(start.replace("{i}", str(depth))) for name in theirs):
        depth += 1
    return depth


def square_side(patches: int, patch_size: int, hints: Hints) -> int | tuple[int, int]:
    """Return the image size that a table of so many patches is made for.

    Raises:
        CheckpointError: It is not a square, and nobody says what it is.
    """
    if "img_size" in hints.overrides:
        size: int | tuple[int, int] = hints.overrides["img_size"]
        if isinstance(size, tuple) and size[0] == size[1]:
            return size[0]
        return size
    side = round(patches**0.5)
    if side * side != patches:
        raise CheckpointError(
            f"{patches} position rows are no square grid\nhint: say the size, with --arch.img-size"
        )
    return side * patch_size
