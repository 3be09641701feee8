"""Make ``policies.npz``: what torchvision's and timm's augmentations do to two small images.

Run by hand in the environment that ``make_golden.py`` describes:

    /tmp/parity-venv/bin/python tests/golden/make_policies.py

The file holds, without pickles:

- ``image.rgb`` and ``image.grey``: smooth noise of 20 rows and 24 columns;
- ``<source>.calls``: JSON, a list of calls;
- ``<source>.rgb`` and ``<source>.grey``: what each call made of the images;
- ``magnitudes``: JSON, torchvision's by space and operation, all bins of them;
- ``tables``: JSON, torchvision's pairs of operations for AutoAugment;
- ``versions``: JSON.

The sources and their calls are

- ``torchvision``: operation, space, bin and sign, with the magnitudes that its own classes look up;
- ``timm``: operation, magnitude, sign and resampling, through its own ``AugmentOp``;
- ``jitter``: function and factor, of torchvision.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from make_golden import ensure_torchvision
from PIL import Image

HERE = Path(__file__).parent
SIZE = (24, 20)
MEAN = (124, 116, 104)

BINS = {"rand": (0, 9, 30), "auto": (3, 5, 8), "wide": (7, 30)}
"""Magnitudes by the space that they index: of 31, 10 and 31."""

LEVELS = (0, 4.3, 9, 10)

JITTER = {
    "adjust_brightness": (0.0, 0.6, 1.4),
    "adjust_contrast": (0.0, 0.6, 1.4),
    "adjust_saturation": (0.0, 0.6, 1.4),
    "adjust_hue": (-0.5, -0.1, 0.03, 0.5),
}

Apply = Callable[[Image.Image], Image.Image]


def main() -> None:
    """Write the file, and say its size."""
    ensure_torchvision()
    images = {"rgb": smooth_noise("RGB"), "grey": smooth_noise("L")}
    arrays: dict[str, Any] = {f"image.{name}": np.asarray(i) for name, i in images.items()}
    sources = {"torchvision": torchvision_calls(), "timm": timm_calls(), "jitter": jitter_calls()}
    for source, calls in sources.items():
        arrays[f"{source}.calls"] = json.dumps([call for call, _ in calls])
        for name, image in images.items():
            arrays[f"{source}.{name}"] = np.stack([np.asarray(f(image)) for _, f in calls])
    arrays["magnitudes"] = json.dumps(
        {
            space: {name: magnitudes.tolist() for name, (magnitudes, _) in operations.items()}
            for space, operations in torchvision_spaces().items()
        }
    )
    arrays["tables"] = json.dumps(tables())
    arrays["versions"] = json.dumps({p: version(p) for p in ("torchvision", "timm", "pillow")})
    path = HERE / "policies.npz"
    np.savez_compressed(path, **arrays)
    sys.stdout.write(f"{path.name} {path.stat().st_size}\n")


def smooth_noise(mode: str) -> Image.Image:
    """Draw an image with all that operations look at: slopes, edges, colours, few blacks."""
    rng = np.random.default_rng(len(mode))
    shape = (6, 7, 3) if mode == "RGB" else (6, 7)
    coarse = Image.fromarray(rng.integers(10, 250, shape, dtype=np.uint8))
    return coarse.resize(SIZE, Image.Resampling.BICUBIC)


def torchvision_calls() -> list[tuple[dict[str, Any], Apply]]:
    """List every operation at several magnitudes, and with both signs where it has one."""
    from torchvision.transforms import InterpolationMode, autoaugment

    nearest = partial(autoaugment._apply_op, interpolation=InterpolationMode.NEAREST, fill=None)
    calls: list[tuple[dict[str, Any], Apply]] = []
    for space, operations in torchvision_spaces().items():
        for name, (magnitudes, signed) in operations.items():
            for bin_ in BINS[space] if magnitudes.ndim else (0,):
                for sign in (1, -1) if signed else (1,):
                    call = {"operation": name, "space": space, "bin": bin_, "sign": sign}
                    magnitude = sign * float(magnitudes[bin_]) if magnitudes.ndim else 0.0
                    calls.append((call, partial(nearest, op_name=name, magnitude=magnitude)))
    return calls


def torchvision_spaces() -> dict[str, Any]:
    """Return, by space and operation, all magnitudes and whether they have a sign."""
    from torchvision.transforms import autoaugment

    size = SIZE[::-1]
    return {
        "rand": autoaugment.RandAugment()._augmentation_space(31, size),
        "auto": autoaugment.AutoAugment()._augmentation_space(10, size),
        "wide": autoaugment.TrivialAugmentWide()._augmentation_space(31),
    }


def timm_calls() -> list[tuple[dict[str, Any], Apply]]:
    """List every operation of ``rand-...-inc1`` likewise."""
    from timm.data import auto_augment

    calls: list[tuple[dict[str, Any], Apply]] = []
    for name in auto_augment._RAND_INCREASING_TRANSFORMS:
        moves = name.startswith(("Rotate", "Shear", "Translate"))
        signed = moves or name[:5] in ("Color", "Contr", "Brigh", "Sharp")
        fixed = name in ("AutoContrast", "Equalize", "Invert")
        for magnitude in LEVELS[-1:] if fixed else LEVELS:
            for sign in (1, -1) if signed else (1,):
                for resample in ("BILINEAR", "BICUBIC") if moves else ("BICUBIC",):
                    call: dict[str, Any] = {"operation": name, "magnitude": magnitude}
                    call |= {"sign": sign, "resample": resample}
                    calls.append((call, partial(apply_timm, **call)))
    return calls


def apply_timm(
    image: Image.Image, operation: str, magnitude: float, sign: int, resample: str
) -> Image.Image:
    """Apply an operation of timm's, whose coin for the sign falls as it should."""
    from timm.data import auto_augment

    mean = Image.new("RGB", (1, 1), MEAN).convert(image.mode).getpixel((0, 0))
    hparams = {"img_mean": mean, "interpolation": Image.Resampling[resample]}
    op = auto_augment.AugmentOp(operation, prob=1.0, magnitude=magnitude, hparams=hparams)
    coin = 0.75 if sign < 0 else 0.25
    with mock.patch.object(auto_augment.random, "random", return_value=coin):
        result: Image.Image = op(image)
    return result


def jitter_calls() -> list[tuple[dict[str, Any], Apply]]:
    """List the four functions of ``ColorJitter``, and what makes an image grey."""
    from torchvision.transforms import Grayscale

    calls: list[tuple[dict[str, Any], Apply]] = []
    for name, factors in JITTER.items():
        for factor in factors:
            apply = partial(apply_jitter, function=name, factor=factor)
            calls.append(({"function": name, "factor": factor}, apply))
    grey = {"function": "grey", "factor": 0.0}
    return [*calls, (grey, lambda image: Grayscale(len(image.getbands()))(image))]


def apply_jitter(image: Image.Image, function: str, factor: float) -> Image.Image:
    """Apply a function of torchvision's that takes one number."""
    from torchvision.transforms import functional

    result: Image.Image = getattr(functional, function)(image, factor)
    return result


def tables() -> dict[str, Any]:
    """Return the pairs of AutoAugment by the name of their data."""
    from torchvision.transforms.autoaugment import AutoAugment, AutoAugmentPolicy

    return {name: AutoAugment(AutoAugmentPolicy(name)).policies for name in ("cifar10", "imagenet")}


if __name__ == "__main__":
    main()
