"""Names and sizes of the hierarchical networks: Swin and Hiera."""

import re
from typing import Any, NamedTuple

from tessera.config import ViTConfig

Numbers = dict[str, Any]
"""Fields of ``ViTConfig`` that a name says."""


class Hierarchy(NamedTuple):
    """Width and heads of the first stage, and blocks of every stage."""

    letter: str
    """Its name in papers, as in Swin-T."""
    width: int
    heads: int
    blocks: tuple[int, ...]


SWIN = {  # Liu et al. (2021), section 3.3
    "tiny": Hierarchy("T", 96, 3, (2, 2, 6, 2)),
    "small": Hierarchy("S", 96, 3, (2, 2, 18, 2)),
    "base": Hierarchy("B", 128, 4, (2, 2, 18, 2)),
    "large": Hierarchy("L", 192, 6, (2, 2, 18, 2)),
}
HIERA = {  # Ryali et al. (2023), Table 2, and the authors' code
    "tiny": Hierarchy("T", 96, 1, (1, 2, 7, 2)),
    "small": Hierarchy("S", 96, 1, (1, 2, 11, 2)),
    "base": Hierarchy("B", 96, 1, (2, 3, 16, 3)),
    "base_plus": Hierarchy("B+", 112, 2, (2, 3, 16, 3)),
    "large": Hierarchy("L", 144, 2, (2, 6, 36, 4)),
    "huge": Hierarchy("H", 256, 4, (2, 6, 36, 4)),
}

SWIN_WINDOWS = {224: 7, 384: 12}
"""Side of the published windows, in tokens, by the side of the images."""

PUBLISHED = (
    *(f"swin_{word}_patch4_window7_224" for word in SWIN),
    *(f"swin_{word}_patch4_window12_384" for word in ("base", "large")),
    *(f"hiera_{word}_224" for word in HIERA),
)

SWIN_NAME = (
    r"(swin_(?P<word>[a-z]+)_patch4(_window(?P<window>[1-9]\d*))?|Swin-(?P<letter>[A-Z]))"
    r"(_(?P<img_size>[1-9]\d*))?"
)
HIERA_NAME = r"(hiera_(?P<word>[a-z_]+?)|Hiera-(?P<letter>[A-Z]\+?))(_(?P<img_size>[1-9]\d*))?"


def swin(found: re.Match[str]) -> Numbers:
    """Return what a name of Swin says; a ``KeyError`` where there is no such size."""
    size = int(found["img_size"] or 0)
    windows = {window: side for side, window in SWIN_WINDOWS.items()}
    window = int(found["window"] or SWIN_WINDOWS.get(size or 224, 7))
    return {
        **_sizes(found, SWIN),
        "patch_embed": "swin",
        "attention_window": window,
        "img_size": size or windows.get(window, 224),
        "final_norm": "tokens",
        "norm_eps": 1e-5,
    }


def hiera(found: re.Match[str]) -> Numbers:
    """Return what a name of Hiera says; a ``KeyError`` where there is no such size."""
    return {
        **_sizes(found, HIERA),
        "patch_embed": "hiera",
        "img_size": int(found["img_size"] or 224),
        "final_norm": "pooled",
    }


def paper_name(name: str) -> str:
    """Return what the papers call a model of ``PUBLISHED``."""
    found = re.fullmatch(SWIN_NAME, name)
    if found:
        end = "" if found["img_size"] == "224" else f"_{found['img_size']}"
        return f"Swin-{SWIN[found['word']].letter}{end}"
    return f"Hiera-{HIERA[name.removeprefix('hiera_').rpartition('_')[0]].letter}"


def stage_parameters(config: ViTConfig) -> int:
    """Count the parameters before the last norm, by their shapes."""
    is_swin = config.patch_embed == "swin"
    side, width = config.patch_size // config.stem_stride, config.stem_width
    if is_swin:
        total = config.in_chans * side**2 * width + 3 * width  # bias, norm
    else:
        tokens = config.grid[0] * config.grid[1] * config.stem_stride**2
        total = config.in_chans * (2 * side - 1) ** 2 * width + width + tokens * width
    table = (2 * config.attention_window - 1) ** 2 if is_swin else 0
    for stage, count in enumerate(config.stem_blocks):
        d, heads = width * 2**stage, config.stem_heads * 2**stage
        bias = 3 * d if config.qkv_bias else 0
        # Two norms, queries, keys and values, projection, MLP of ratio 4, relative bias.
        block = 4 * d + 3 * d * d + bias + d * d + d + 8 * d * d + 5 * d + table * heads
        total += count * block
        if stage and is_swin:  # merging: a norm of 4 d/2, and from there to d
            total += 4 * d + 2 * d * d
        elif stage:  # norm, queries, keys and values of half the width; the residual has a map
            total -= d * d
    return total


def _sizes(found: re.Match[str], table: dict[str, Hierarchy]) -> Numbers:
    letters = {size.letter: word for word, size in table.items()}
    size = table[found["word"] or letters[found["letter"]]]
    return {"stem_blocks": size.blocks, "stem_width": size.width, "stem_heads": size.heads}
