"""Names of models: one table of sizes and one grammar, instead of one function per model."""

import re
from collections.abc import Callable
from dataclasses import fields
from difflib import get_close_matches
from itertools import pairwise
from typing import Any, NamedTuple

from tessera.config import HIERARCHICAL, ViTConfig
from tessera.models import hierarchies
from tessera.models.hierarchies import HIERA_NAME, SWIN_NAME, Numbers, stage_parameters


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

RESNETS = {"50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "152": (3, 8, 36, 3)}
"""Bottlenecks per stage (He et al., 2016; Kolesnikov et al., 2019)."""

WIDTHS = {"50": (1, 3), "101": (1, 3), "152": (2, 4)}
"""The published ones, as multiples of 64 channels, which ``list_models`` names."""

HYBRIDS = {
    ("50", 16): (3, 4, 9),
    ("50", 32): (3, 4, 6, 3),
    ("26", 32): (2, 2, 2, 2),
    ("", 16): (),
}
"""Stages by the name of the ResNet and of the resolution (Dosovitskiy et al., 2020, B.1; Steiner
et al., 2021). At 16, the blocks of stage 4 stand in stage 3. The last is the root alone."""

ROOT_PATCH = 8
"""Side of a patch on the feature map of R+ViT-Ti/16: with the root, which shrinks by 4, a token
covers 32 pixels, whatever its name says."""

PUBLISHED_HYBRIDS = {
    "vit_tiny_r_s16_p8": "R+ViT-Ti/16",
    "vit_small_r26_s32": "R26+ViT-S/32",
    "vit_base_r26_s32": "R26+ViT-B/32",
    "vit_base_r50_s16": "R50+ViT-B/16",
    "vit_base_r50_s32": "R50+ViT-B/32",
    "vit_large_r50_s16": "R50+ViT-L/16",
    "vit_large_r50_s32": "R50+ViT-L/32",
}
"""timm's names and the papers'."""

CCT = {  # Hassani et al. (2021), Table 1 and the authors' code: width, heads, MLP width
    2: (128, 2, 128),
    4: (128, 2, 128),
    6: (256, 4, 512),
    7: (256, 4, 512),
    14: (384, 6, 1152),
}

PUBLISHED_CCT = (
    "cct_2_3x2_32",
    "cct_4_3x2_32",
    "cct_6_3x1_32",
    "cct_6_3x2_32",
    "cct_7_3x1_32",
    "cct_7_3x2_32",
    "cct_7_7x2_224",
    "cct_14_7x2_224",
    "cct_14_7x2_384",
)

FRACTAL_COLUMNS = {5: 1, 10: 2, 20: 3, 40: 4}
"""Columns by the depth of five blocks; 20 and 40 are those of Larsson et al. (2017), Table 2."""

NETWORK: dict[str, Any] = {
    "depth": 0,
    "num_heads": 1,
    "mlp_dim": 1,
    "cls_token": False,
    "pos_embed": "none",
    "pool": "avg",
    "final_norm": "none",
}
"""A network without an encoder: its tokens are averaged, and the head reads the mean."""

_SIDE = r"(_(?P<img_size>[1-9]\d*))?"


def _vit(found: re.Match[str]) -> Numbers:
    return {
        "patch_size": int(found["patch_size"]),
        "num_registers": int(found["num_registers"] or 0),
        "img_size": int(found["img_size"] or 224),
        **_size(found),
    }


def _hybrid(found: re.Match[str]) -> Numbers:
    net, stride = found["net"], int(found["stride"])
    blocks = HYBRIDS[net, stride]
    if net and found.groupdict().get("root"):
        raise KeyError(found["root"])  # only the root alone has patches of its own
    return {
        **_size(found),
        "patch_embed": "resnet",
        "stem_blocks": blocks,
        "patch_size": stride if net else 4 * ROOT_PATCH,
        "img_size": int(found["img_size"] or 224),
    }


def _bit(found: re.Match[str]) -> Numbers:
    return {
        **NETWORK,
        "patch_embed": "resnetv2",
        "stem_blocks": RESNETS[found["net"]],
        "stem_width": 64 * int(found["width"]),
        "stem_norm": "bit",
        "img_size": int(found["img_size"] or 224),
    }


def _cct(found: re.Match[str]) -> Numbers:
    width, heads, mlp_dim = CCT[int(found["depth"])]
    kernel = int(found["kernel"])
    return {
        "embed_dim": width,
        "depth": int(found["depth"]),
        "num_heads": heads,
        "mlp_dim": mlp_dim,
        "patch_embed": "tokenizer",
        "stem_layers": int(found["layers"]),
        "stem_kernel": kernel,
        "img_size": int(found["img_size"] or (32 if kernel == 3 else 224)),
        "cls_token": False,
        "pool": "seq",
        "pos_embed": "sincos1d" if found["sine"] else "learned",
        "qkv_bias": False,
        "residual_norm": True,
        "norm_eps": 1e-5,
        "attn_drop_rate": 0.1,
        "drop_path_rate": 0.1,
    }


def _fractal(found: re.Match[str]) -> Numbers:
    return {
        **NETWORK,
        "patch_embed": "fractal",
        "stem_layers": 5,
        "stem_columns": FRACTAL_COLUMNS[int(found["depth"])],
        "img_size": int(found["img_size"] or 32),
        "drop_rate": 0.4,
        "drop_path_rate": 0.15,
    }


def _swin(found: re.Match[str]) -> Numbers:
    return {**NETWORK, **hierarchies.swin(found)}


def _hiera(found: re.Match[str]) -> Numbers:
    return {**NETWORK, **hierarchies.hiera(found)}


_GRAMMARS: tuple[tuple[str, Callable[[re.Match[str]], Numbers]], ...] = (
    (
        r"(vit_(?P<word>[a-z0-9]+)_patch|ViT-(?P<letter>\w+)/)(?P<patch_size>[1-9]\d*)"
        r"(_reg(?P<num_registers>\d+))?" + _SIDE,
        _vit,
    ),
    (r"vit_(?P<word>[a-z0-9]+)_r(?P<net>\d*)_s(?P<stride>\d+)(?P<root>_p8)?" + _SIDE, _hybrid),
    (r"R(?P<net>\d*)\+(ViT-)?(?P<letter>[A-Za-z0-9]+)[/_](?P<stride>\d+)" + _SIDE, _hybrid),
    (r"(BiT-)?([SM]-)?R(?P<net>\d+)x(?P<width>[1-9])" + _SIDE, _bit),
    (r"resnetv2_(?P<net>\d+)x(?P<width>[1-9])(_bit)?" + _SIDE, _bit),
    (
        r"cct_(?P<depth>\d+)_(?P<kernel>[1-9]\d*)x(?P<layers>[1-9])" + _SIDE + r"(?P<sine>_sine)?",
        _cct,
    ),
    (r"fractalnet_(?P<depth>\d+)" + _SIDE, _fractal),
    (SWIN_NAME, _swin),
    (HIERA_NAME, _hiera),
)


def parse(name: str, **overrides: Any) -> ViTConfig:
    """Turn ``vit_base_patch16_224``, ``ViT-B/16`` or ``R50+ViT-B/16`` into a config.

    The resolution may be left out: it is where training stopped, not what the model is.

    Args:
        overrides: Fields of ``ViTConfig`` to change.

    Raises:
        ValueError: The name does not follow a grammar, no such size or field exists, or the
            numbers do not fit together.
    """
    numbers = _read(name)
    if numbers is None:
        raise ValueError(
            f"unknown model {name!r}\n"
            f"hint: {_did_you_mean(name, list_models())}names are vit_<size>_patch<n>[_<side>], "
            f"with size one of {', '.join(SIZES)}; `tessera models` lists them and the hybrids"
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
    return ViTConfig(**_follow({**numbers, **overrides}))


def _read(name: str) -> Numbers | None:
    for grammar, numbers in _GRAMMARS:
        if found := re.fullmatch(grammar, name):
            try:
                return numbers(found)
            except KeyError:  # of a table: no such size or network
                return None
    return None


def _size(found: re.Match[str]) -> Numbers:
    """Return what the size says; a ``KeyError`` where there is no such size."""
    parts = found.groupdict()
    size = SIZES[parts.get("word") or LETTERS[parts["letter"]]]
    return {key: value for key, value in size._asdict().items() if key != "letter"}


def _follow(numbers: Numbers) -> Numbers:
    """Fill in what follows from a convolutional stem, where neither name nor user says it."""
    stem = numbers.get("patch_embed")
    blocks, layers = tuple(numbers.get("stem_blocks", ())), numbers.get("stem_layers", 1)
    width = numbers.get("stem_width", 64)
    if stem == "tokenizer":
        kernel = numbers.get("stem_kernel", 3)
        found = {"patch_size": (2 * max(1, kernel // 2 - 1)) ** layers}
    elif stem == "resnetv2" and blocks:
        stages = len(blocks) - 1
        found = {"patch_size": 4 * 2**stages, "embed_dim": 4 * width * 2**stages}
    elif stem == "fractal":
        found = {"patch_size": 2**layers, "embed_dim": width * min(2 ** (layers - 1), 8)}
    elif stem in HIERARCHICAL and blocks:
        stages = len(blocks) - 1
        found = {"patch_size": 4 * 2**stages, "embed_dim": width * 2**stages}
    else:
        return numbers
    return {**found, **numbers}


def _did_you_mean(word: str, known: list[str]) -> str:
    close = get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}? " if close else ""


def list_models() -> list[str]:
    """Return every name of the tables: ViTs, hybrids, ResNets, CCTs, FractalNets, Swin, Hiera."""
    return [*list_vits(), *list_hybrids(), *hierarchies.PUBLISHED]


def list_vits() -> list[str]:
    """Return the plain ViTs: a size and a published patch size each."""
    return [f"vit_{size}_patch{patch}" for size in SIZES for patch in PATCH_SIZES]


def list_hybrids() -> list[str]:
    """Return the published models that have convolutions."""
    resnets = [f"resnetv2_{net}x{width}" for net in RESNETS for width in WIDTHS[net]]
    fractals = [f"fractalnet_{depth}_32" for depth in (20, 40)]
    return [*PUBLISHED_HYBRIDS, *resnets, *PUBLISHED_CCT, *fractals]


def paper_name(name: str) -> str:
    """Return what the papers call a model of ``list_models``."""
    family, _, rest = name.partition("_")
    match family:
        case "resnetv2":
            return f"BiT-R{rest}"
        case "cct":
            depth, convolutions = rest.split("_")[:2]
            return f"CCT-{depth}/{convolutions}"
        case "fractalnet":
            return f"FractalNet-{rest.partition('_')[0]}"
        case "swin" | "hiera":
            return hierarchies.paper_name(name)
    if name in PUBLISHED_HYBRIDS:
        return PUBLISHED_HYBRIDS[name]
    size, _, patch = rest.partition("_patch")
    return f"ViT-{SIZES[size].letter}/{patch}"


def count_parameters(config: ViTConfig) -> int:
    """Count the parameters of a named model by its shapes, without building it.

    Holds for the paper's model (class token, learned positions, one head) and for those of
    ``list_models``. Tested against the built models and against the counts of the papers' codes.
    """
    d, m = config.embed_dim, config.mlp_dim
    tokens = int(config.cls_token)
    rows = tokens + config.grid[0] * config.grid[1] if config.pos_embed == "learned" else 0
    embedding = _stem_parameters(config) + tokens * d + rows * d
    bias = 3 * d if config.qkv_bias else 0
    block = 4 * d * d + d + bias + 2 * d * m + m + d + 4 * d
    norm = 2 * d if config.final_norm != "none" else 0
    pool = d + 1 if config.pool == "seq" else 0
    head = d * config.num_classes + config.num_classes
    return embedding + config.depth * block + norm + pool + head


def _stem_parameters(config: ViTConfig) -> int:
    c, d, width = config.in_chans, config.embed_dim, config.stem_width
    match config.patch_embed:
        case "tokenizer":
            chans = [c, *([width] * (config.stem_layers - 1)), d]
            return sum(a * b for a, b in pairwise(chans)) * config.stem_kernel**2
        case "resnet":
            root = 49 * c * width + 2 * width
            body, chans_out = _bottlenecks(config.stem_blocks, width, preactivated=False)
            side = config.patch_size // config.stem_stride
            return root + body + side**2 * chans_out * d + d
        case "resnetv2":
            body, chans_out = _bottlenecks(config.stem_blocks, width, preactivated=True)
            return 49 * c * width + body + 2 * chans_out
        case "hiera" | "swin":
            return stage_parameters(config)
        case "fractal":
            channels = [c, *(width * min(2**i, 8) for i in range(config.stem_layers))]
            first = [9 * a * b + 2 * b for a, b in pairwise(channels)]
            rest = [9 * b * b + 2 * b for b in channels[1:]]
            columns = config.stem_columns
            return sum(
                columns * a + (2**columns - 1 - columns) * b
                for a, b in zip(first, rest, strict=True)
            )
    return c * config.patch_size**2 * d + d


def _bottlenecks(blocks: tuple[int, ...], width: int, *, preactivated: bool) -> tuple[int, int]:
    """Parameters of all stages, and the channels that come out of the last."""
    total, chans = 0, width
    for i, count in enumerate(blocks):
        middle = width * 2**i
        for _ in range(count):
            total += chans * middle + 9 * middle**2 + 4 * middle**2
            total += 2 * (chans + 2 * middle) if preactivated else 2 * (2 * middle + 4 * middle)
            if chans != 4 * middle:  # every first unit of a stage
                total += 4 * chans * middle + (0 if preactivated else 8 * middle)
            chans = 4 * middle
    return total, chans
