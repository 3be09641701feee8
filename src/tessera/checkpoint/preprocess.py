"""What images a foreign checkpoint wants, which its tensors never say."""

from collections.abc import Mapping
from typing import Any

from tessera.checkpoint.foreign import ForeignModel
from tessera.checkpoint.read import read_json
from tessera.checkpoint.rules import CheckpointError
from tessera.checkpoint.weights import Weights
from tessera.config import ViTConfig
from tessera.data.preprocessing import HALF, IMAGENET_MEAN, IMAGENET_STD, Preprocessing

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""Numbers of Pillow's filters, as transformers writes them down."""


def find_preprocessing(
    found: ForeignModel, record: Weights | None
) -> tuple[Preprocessing, tuple[str, ...]]:
    """Return the preprocessing and, where it had to be assumed, a note.

    The record whose name the file bears comes first, then files beside the weights, then what
    the family usually wants.

    Raises:
        CheckpointError: Such a file makes no sense.
    """
    config = found.model.config
    if record is not None:
        return record.preprocessing, ()
    if found.folder is not None:
        json = read_json(found.folder / "preprocessor_config.json")
        try:
            if json:
                return _of_transformers(json, config), ()
            if isinstance(found.json.get("pretrained_cfg"), Mapping):
                return _of_timm(found.json["pretrained_cfg"], config), ()
        except (ValueError, TypeError, ArithmeticError) as error:
            raise CheckpointError(
                f"{found.folder} says how images are prepared, but not so that it can be "
                f"followed: {error}\n"
                "hint: correct preprocessor_config.json, or pretrained_cfg in config.json"
            ) from error
    assumed = _usual(config, found.layout.title)
    note = (
        f"the file does not say how images are prepared; assumed: {assumed.crop} to "
        f"{assumed.size[0]}x{assumed.size[1]}, mean {assumed.mean}, std {assumed.std} "
        "(a config.json beside it, or a file name <model>.<tag>, would say)"
    )
    return assumed, (note,)


def _of_transformers(json: Mapping[str, Any], config: ViTConfig) -> Preprocessing:
    """Read a preprocessor_config.json; its steps are resize, centre crop, rescale, normalise."""
    size, crop = json.get("size", config.image_shape), json.get("crop_size")
    cropped = bool(json.get("do_center_crop"))
    target = _shape(crop if cropped and crop else size)
    pct = 1.0
    if cropped:
        pct = target[0] / _shape(size)[0]
    normal = json.get("do_normalize", True)
    return Preprocessing(
        size=target,
        channels=config.in_chans,
        crop="crop" if cropped or _is_short_side(size) else "squash",
        crop_pct=min(1.0, pct),
        interpolation=_interpolation(json.get("resample", 2)),
        mean=tuple(map(float, json.get("image_mean", HALF))) if normal else (0.0, 0.0, 0.0),
        std=tuple(map(float, json.get("image_std", HALF))) if normal else (1.0, 1.0, 1.0),
    )


def _shape(size: Any) -> tuple[int, int]:
    match size:
        case int():
            return size, size
        case {"height": int(height), "width": int(width)}:
            return height, width
        case {"shortest_edge": int(side)}:
            return side, side
        case (int(height), int(width)):
            return height, width
    raise ValueError(f"size={size!r} is not understood")


def _is_short_side(size: Any) -> bool:
    return isinstance(size, Mapping) and "shortest_edge" in size


def _interpolation(number: Any) -> Any:
    if number not in RESAMPLE:
        raise ValueError(f"resample={number!r} is not supported")
    return RESAMPLE[number]


def _of_timm(cfg: Mapping[str, Any], config: ViTConfig) -> Preprocessing:
    """Read the pretrained_cfg of timm's config.json."""
    _, height, width = cfg.get("input_size", (3, *config.image_shape))
    return Preprocessing(
        size=(height, width),
        channels=config.in_chans,
        crop="squash" if cfg.get("crop_mode") == "squash" else "crop",
        crop_pct=float(cfg.get("crop_pct") or 1.0),
        interpolation=cfg.get("interpolation", "bicubic"),
        mean=tuple(map(float, cfg.get("mean", IMAGENET_MEAN))),
        std=tuple(map(float, cfg.get("std", IMAGENET_STD))),
    )


def _usual(config: ViTConfig, title: str) -> Preprocessing:
    """What the family usually wants: to be said aloud when it is used."""
    mean, std, pct, interpolation = HALF, HALF, 0.9, "bicubic"
    if config.embed_norm:
        mean, std, pct = CLIP_MEAN, CLIP_STD, 1.0
    elif config.layer_scale_init is not None or config.dist_token:
        mean, std = IMAGENET_MEAN, IMAGENET_STD
    elif title == "torchvision":
        mean, std, pct, interpolation = IMAGENET_MEAN, IMAGENET_STD, 0.875, "bilinear"
    count = config.in_chans
    return Preprocessing(
        size=config.image_shape,
        channels=count,
        crop_pct=pct,
        interpolation="bilinear" if interpolation == "bilinear" else "bicubic",
        mean=mean[:count],
        std=std[:count],
    )
