"""Published policies of augmentation: mixtures of operations on the colours and shape of an image.

A policy takes an RGB or grey image and a generator, and is a pure function of the two. Recipes that
name the same policy differ in its details, and in what a model reaches with it, so the tables here
say what each code base does.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor

from tessera.data.image_ops import (
    BIG_VISION,
    OPERATIONS,
    TIMM,
    TORCHVISION,
    WIDE,
    Argument,
    Canvas,
    Colour,
    grey,
    nothing,
    shift_hue,
)
from tessera.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD

Policy = Callable[[Image.Image, np.random.Generator], Image.Image]
"""Changes an image at random, drawing from nothing but the generator."""

IMAGENET_COLOUR = (124, 116, 104)
"""Mean colour of ImageNet, in bytes."""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What a code base understands by RandAugment."""

    arguments: dict[str, Argument]
    """The operations to draw from, and what each makes of a magnitude."""
    scale: float
    """Magnitude that counts as 1."""
    limit: float = math.inf
    """Largest magnitude."""
    std: float = 0.0
    """Standard deviation of the magnitude."""
    probability: float = 1.0
    """Share of the operations drawn that are applied."""
    canvas: Canvas = Canvas()  # noqa: RUF009  # immutable
    """Fill and resampling."""


DIALECTS: dict[str, Dialect] = {
    "torchvision": Dialect(arguments=TORCHVISION, scale=30.0, limit=30.0),
    "big-vision": Dialect(arguments=BIG_VISION, scale=10.0, canvas=Canvas((128, 128, 128))),
    "timm": Dialect(
        arguments=TIMM,
        scale=10.0,
        limit=10.0,
        std=0.5,
        probability=0.5,
        canvas=Canvas(IMAGENET_COLOUR, Image.Resampling.BICUBIC),
    ),
}
"""AugReg and "Better plain ViT baselines" were trained with big-vision's; DeiT and MAE with timm's,
which is ``rand-m9-mstd0.5-inc1`` for images resized bicubically."""


@dataclass(frozen=True)
class RandAugment:
    """Some operations in a row, each drawn evenly from all (Cubuk et al., 2020).

    Args:
        num_ops: How many, of which one may be drawn again.
        magnitude: Of 30 in torchvision, of 10 in timm, and of 10 and beyond in big_vision, whose
            AugReg goes to 20.

    Raises:
        ValueError: A magnitude that the dialect does not have.
    """

    num_ops: int = 2
    magnitude: float = 9.0
    dialect: Literal["torchvision", "big-vision", "timm"] = "torchvision"
    fill: Colour | None = None
    """Shows where an image is moved away; None is the dialect's colour."""

    def __post_init__(self) -> None:
        limit = DIALECTS[self.dialect].limit
        if not 0 <= self.magnitude <= limit or self.num_ops < 0:
            raise ValueError(
                f"no RandAugment of num_ops={self.num_ops} and magnitude={self.magnitude}\n"
                f"hint: {self.dialect} has magnitudes from 0 to {limit:g}, and 0 operations or more"
            )

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Change an image at random."""
        dialect = DIALECTS[self.dialect]
        fill = dialect.canvas.fill if self.fill is None else self.fill
        canvas = Canvas(fill, dialect.canvas.resample)
        names = list(dialect.arguments)
        for _ in range(self.num_ops):
            name = names[rng.integers(len(names))]
            if dialect.probability < 1 and rng.random() >= dialect.probability:
                continue
            magnitude = self.magnitude
            if dialect.std:
                magnitude = min(max(rng.normal(magnitude, dialect.std), 0.0), dialect.limit)
            argument = dialect.arguments[name]
            image = _apply(name, argument, image, magnitude / dialect.scale, canvas, rng)
        return image


@dataclass(frozen=True)
class TrivialAugmentWide:
    """One operation at one of 31 magnitudes, both drawn evenly (Müller and Hutter, 2021)."""

    fill: Colour = (0, 0, 0)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Change an image at random."""
        name = list(WIDE)[rng.integers(len(WIDE))]
        magnitude = int(rng.integers(31)) / 30
        return _apply(name, WIDE[name], image, magnitude, Canvas(self.fill), rng)


SubPolicy = tuple[tuple[str, float, int], tuple[str, float, int]]
"""Two operations in a row: name, probability, and magnitude of 9."""

CIFAR10: tuple[SubPolicy, ...] = (
    (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
    (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
)
"""Learnt on CIFAR-10 (Cubuk et al., 2019, appendix)."""

IMAGENET: tuple[SubPolicy, ...] = (
    (("Posterize", 0.4, 8), ("Rotate", 0.6, 9)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.8, 0), ("Equalize", 0.6, 0)),
    (("Posterize", 0.6, 7), ("Posterize", 0.6, 6)),
    (("Equalize", 0.4, 0), ("Solarize", 0.2, 4)),
    (("Equalize", 0.4, 0), ("Rotate", 0.8, 8)),
    (("Solarize", 0.6, 3), ("Equalize", 0.6, 0)),
    (("Posterize", 0.8, 5), ("Equalize", 1.0, 0)),
    (("Rotate", 0.2, 3), ("Solarize", 0.6, 8)),
    (("Equalize", 0.6, 0), ("Posterize", 0.4, 6)),
    (("Rotate", 0.8, 8), ("Color", 0.4, 0)),
    (("Rotate", 0.4, 9), ("Equalize", 0.6, 0)),
    (("Equalize", 0.0, 0), ("Equalize", 0.8, 0)),
    (("Invert", 0.6, 0), ("Equalize", 1.0, 0)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Rotate", 0.8, 8), ("Color", 1.0, 2)),
    (("Color", 0.8, 8), ("Solarize", 0.8, 7)),
    (("Sharpness", 0.4, 7), ("Invert", 0.6, 0)),
    (("ShearX", 0.6, 5), ("Equalize", 1.0, 0)),
    (("Color", 0.4, 0), ("Equalize", 0.6, 0)),
    (("Equalize", 0.4, 0), ("Solarize", 0.2, 4)),
    (("Solarize", 0.6, 5), ("AutoContrast", 0.6, 0)),
    (("Invert", 0.6, 0), ("Equalize", 1.0, 0)),
    (("Color", 0.6, 4), ("Contrast", 1.0, 8)),
    (("Equalize", 0.8, 0), ("Equalize", 0.6, 0)),
)
"""Learnt on ImageNet (Cubuk et al., 2019, appendix)."""

LEARNT = {**TORCHVISION, "Invert": nothing}
"""The operations of AutoAugment."""


@dataclass(frozen=True)
class AutoAugment:
    """One pair of operations, drawn evenly from a learnt table (Cubuk et al., 2019)."""

    table: tuple[SubPolicy, ...]
    fill: Colour = (0, 0, 0)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Change an image at random."""
        for name, probability, magnitude in self.table[rng.integers(len(self.table))]:
            if rng.random() < probability:
                image = _apply(name, LEARNT[name], image, magnitude / 9, Canvas(self.fill), rng)
        return image


def _apply(
    name: str,
    argument: Argument,
    image: Image.Image,
    magnitude: float,
    canvas: Canvas,
    rng: np.random.Generator,
) -> Image.Image:
    """Apply an operation with a sign that is drawn, whether or not it matters."""
    sign = 1 if rng.random() < 0.5 else -1
    return OPERATIONS[name](image, argument(magnitude, sign, image.size), canvas, rng)


@dataclass(frozen=True)
class ThreeAugment:
    """Grey, solarized from 128 on, or blurred, drawn evenly (DeiT III: Touvron et al., 2022).

    The blur is Gaussian, with a radius (standard deviation) drawn from 0.1 to 2 pixels.
    """

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """Change an image at random."""
        match int(rng.integers(3)):
            case 0:
                return grey(image)
            case 1:
                return ImageOps.solarize(image, 128)
            case _:
                return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.1, 2.0)))


def color_jitter(
    image: Image.Image,
    rng: np.random.Generator,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> Image.Image:
    """Change brightness, contrast, saturation and hue in an order that is drawn, as torchvision.

    Args:
        brightness: Factors are drawn evenly from 1 - this, or 0, to 1 + this; 0 is off.
        contrast: The same about the mean grey.
        saturation: The same about the image without colour.
        hue: Turns are drawn evenly from - this to this, as shares of the circle; 0.5 at most.

    Raises:
        ValueError: A negative bound, or a hue above 0.5.
    """
    bounds = brightness, contrast, saturation, hue
    if min(bounds) < 0 or hue > 0.5:
        raise ValueError(f"color jitter of {bounds} must be at least 0, and the hue at most 0.5")
    if not any(bounds):
        return image
    for which in rng.permutation(4):
        bound = bounds[which]
        if bound and which == 3:
            image = shift_hue(image, rng.uniform(-bound, bound))
        elif bound:
            enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[which]
            image = enhance(image).enhance(rng.uniform(max(0.0, 1 - bound), 1 + bound))
    return image


def random_erasing(
    pixels: UInt8[Tensor, "c h w"],
    rng: np.random.Generator,
    probability: float,
    scale: tuple[float, float] = (0.02, 1 / 3),
    ratio: tuple[float, float] = (0.3, 1 / 0.3),
    mode: Literal["const", "pixel"] = "pixel",
    *,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> UInt8[Tensor, "c h w"]:
    """Fill a rectangle with black or with noise (Zhong et al., 2020), with timm's bounds.

    Args:
        pixels: On any device; they are not changed in place.
        probability: Share of the images that lose a rectangle.
        scale: Bounds of its share of the area.
        ratio: Bounds of its height / width, drawn evenly in logarithm.
        mode: const is black. pixel is what DeiT and MAE use: normal noise that the normalisation
            takes to mean 0 and deviation 1, here cut off at bytes.
        mean: What that normalisation subtracts; several numbers are averaged for one channel.
        std: What it divides by.

    Returns:
        An image with a rectangle filled, or the same tensor; also where ten draws do not fit in.
    """
    if rng.random() >= probability:
        return pixels
    channels, height, width = pixels.shape
    for _ in range(10):
        area = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < height and w < width:
            top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
            patch = torch.zeros(channels, h, w)
            if mode == "pixel":
                noise = torch.from_numpy(rng.standard_normal((channels, h, w), np.float32))
                patch = noise * _per_channel(std, channels) + _per_channel(mean, channels)
            erased = pixels.clone()
            erased[:, top : top + h, left : left + w] = (patch * 255).round().clamp(0, 255).byte()
            return erased
    return pixels


def _per_channel(values: tuple[float, ...], channels: int) -> Tensor:
    """Shape numbers like an image; one grey channel gets their mean."""
    chosen = values if len(values) == channels else (sum(values) / len(values),)
    return torch.tensor(chosen)[:, None, None]


class AugRegLevel(NamedTuple):
    """One strength of "How to train your ViT?"."""

    num_ops: int
    """Of RandAugment in big_vision's dialect; 0 is none."""
    magnitude: float
    mixup: float
    """Parameter of its beta distribution; 0 is off."""


AUGREG_LEVELS: dict[str, AugRegLevel] = {
    "none": AugRegLevel(0, 0.0, 0.0),
    "light1": AugRegLevel(2, 0.0, 0.0),  # not nothing: see BIG_VISION
    "light2": AugRegLevel(2, 10.0, 0.2),
    "medium1": AugRegLevel(2, 15.0, 0.2),
    "medium2": AugRegLevel(2, 15.0, 0.5),
    "strong1": AugRegLevel(2, 20.0, 0.5),
    "strong2": AugRegLevel(2, 20.0, 0.8),
}
"""Augmentation by level (Steiner et al., 2021; big_vision, configs/vit_i1k.py)."""

POLICIES: dict[str, Callable[..., Policy]] = {
    "randaugment": RandAugment,
    "randaugment-big-vision": partial(RandAugment, dialect="big-vision"),
    "randaugment-timm": partial(RandAugment, dialect="timm"),
    "trivialaugment": TrivialAugmentWide,
    "autoaugment-cifar": partial(AutoAugment, CIFAR10),
    "autoaugment-imagenet": partial(AutoAugment, IMAGENET),
    "three-augment": ThreeAugment,
}
"""Policies by the names of a recipe; the first three take ``num_ops`` and ``magnitude``."""
