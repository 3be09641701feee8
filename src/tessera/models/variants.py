"""Names of models: one table of sizes and one grammar, instead of one function per model."""

import re
from dataclasses import fields
from difflib import get_close_matches
from typing import Any, NamedTuple

from tessera.config import ViTConfig


class Size(NamedTuple):
    """Width, depth, heads and MLP width of a family of models."""

    letter: str
    """Its name in papers, as in ViT-B/16."""
    embed_dim: int
    depth: int
    num_heads: int
    mlp_dim: int


SIZES = {  # Dosovitskiy et al. (2020), Table 1; Zhai et al. (2022), Table 2; big_vision's vit.py
    "mu": Size("mu", 32, 1, 2, 128),
    "tiny": Size("Ti", 192, 12, 3, 768),
    "small": Size("S", 384, 12, 6, 1536),
    "medium": Size("M", 512, 12, 8, 2048),
    "base": Size("B", 768, 12, 12, 3072),
    "large": Size("L", 1024, 24, 16, 4096),
    "so400m": Size("So400m", 1152, 27, 16, 4304),
    "huge": Size("H", 1280, 32, 16, 5120),
    "giant": Size("g", 1408, 40, 16, 6144),
    "gigantic": Size("G", 1664, 48, 16, 8192),
    "enormous": Size("e", 1792, 56, 16, 15360),
}
LETTERS = {size.letter: word for word, size in SIZES.items()}

PATCH_SIZES = (8, 14, 16, 32)
"""The published ones, which ``list_models`` names; any other parses too."""

_GRAMMAR = re.compile(
    r"(vit_(?P<word>[a-z0-9]+)_patch|ViT-(?P<letter>\w+)/)(?P<patch_size>[1-9]\d*)"
    r"(_reg(?P<num_registers>\d+))?(_(?P<img_size>[1-9]\d*))?"
)


def parse(name: str, **overrides: Any) -> ViTConfig:
    """Turn ``vit_base_patch16_224``, ``vit_large_patch14_reg4`` or ``ViT-B/16`` into a config.

    The resolution may be left out and is then 224: it is where training stopped, not what the
    model is.

    Args:
        overrides: Fields of ``ViTConfig`` to change.

    Raises:
        ValueError: The name does not follow the grammar, no such size or field exists, or the
            numbers do not fit together.
    """
    match = _GRAMMAR.fullmatch(name)
    size = match and (match["word"] or LETTERS.get(match["letter"]))
    if match is None or size not in SIZES:
        raise ValueError(
            f"unknown model {name!r}\n"
            f"hint: {_did_you_mean(name, list_models())}names are vit_<size>_patch<n>[_<side>], "
            f"with size one of {', '.join(SIZES)}; `tessera models` lists them"
        )
    known = [f.name for f in fields(ViTConfig)]
    for key in overrides:
        if key not in known:
            hint = (
                "mlp_dim is the width itself: mlp_ratio * embed_dim"
                if key == "mlp_ratio"
                else f"{_did_you_mean(key, known)}known are {', '.join(known)}"
            )
            raise ValueError(f"a model has no field {key!r}\nhint: {hint}")
    numbers = {
        **{key: value for key, value in SIZES[size]._asdict().items() if key != "letter"},
        "patch_size": int(match["patch_size"]),
        "num_registers": int(match["num_registers"] or 0),
        "img_size": int(match["img_size"] or 224),
    }
    return ViTConfig(**{**numbers, **overrides})


def _did_you_mean(word: str, known: list[str]) -> str:
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}? " if close else ""


def list_models() -> list[str]:
    """Return every name of the table: a size and a published patch size each."""
    return [f"vit_{size}_patch{patch}" for size in SIZES for patch in PATCH_SIZES]


def count_parameters(config: ViTConfig) -> int:
    """Count the parameters of a plain ViT by the paper's shapes, without building it.

    Holds for the paper's model: class token, learned positions, one head. Tested against the
    built model and against the counts of the paper's own code.
    """
    d, m, rows = config.embed_dim, config.mlp_dim, 1 + config.grid[0] * config.grid[1]
    embedding = config.in_chans * config.patch_size**2 * d + d + d + rows * d
    block = 4 * d * d + 4 * d + 2 * d * m + m + d + 4 * d
    head = d * config.num_classes + config.num_classes
    return embedding + config.depth * block + 2 * d + head
