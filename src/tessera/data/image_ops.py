"""The single operations that augmentation policies are made of, as Pillow does them.

All of them take RGB and grey ("L") images, and return one of the same size and mode. Each is given
one number in a unit of its own; which number a magnitude stands for differs between code bases, and
is said in a table for each.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor, ImageEnhance, ImageOps

Colour = tuple[int, int, int]
"""Red, green and blue; a grey image takes its luminance."""


class Canvas(NamedTuple):
    """How an image is resampled when it is moved, and what shows where nothing of it is left."""

    fill: Colour = (0, 0, 0)
    resample: Image.Resampling = Image.Resampling.NEAREST


Size = tuple[int, int]
"""Width and height in pixels."""

Operation = Callable[[Image.Image, float, Canvas, np.random.Generator], Image.Image]
"""Takes the image, the operation's number, the canvas, and a generator that only Cutout draws from.
"""


def fill_of(image: Image.Image, canvas: Canvas) -> int | tuple[int, ...]:
    """Return the colour of the canvas in the mode of an image."""
    return ImageColor.getcolor("#{:02x}{:02x}{:02x}".format(*canvas.fill), image.mode)


def move(
    image: Image.Image,
    canvas: Canvas,
    *,
    slope_x: float = 0.0,
    slope_y: float = 0.0,
    right: float = 0.0,
    down: float = 0.0,
) -> Image.Image:
    """Shear or shift.

    Args:
        slope_x: How much farther to the right each row is read than the one above.
        slope_y: How much farther down each column is read than the one to the left.
        right: Pixels.
        down: Pixels.
    """
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        (1.0, slope_x, -right, slope_y, 1.0, -down),
        canvas.resample,
        fillcolor=fill_of(image, canvas),
    )


def rotate(image: Image.Image, degrees: float, canvas: Canvas) -> Image.Image:
    """Turn about the centre, counter-clockwise where positive."""
    return image.rotate(degrees, canvas.resample, fillcolor=fill_of(image, canvas))


def posterize(image: Image.Image, bits: int) -> Image.Image:
    """Keep the highest so many bits of each byte; 8 is all, and 0 leaves a black image."""
    return ImageOps.posterize(image, bits) if bits < 8 else image


def solarize_add(image: Image.Image, addition: int) -> Image.Image:
    """Make all that is darker than 128 lighter by so many grey levels."""
    table = [min(255, v + addition) if v < 128 else v for v in range(256)]
    return image.point(table * len(image.getbands()))


def cutout(image: Image.Image, half: int, canvas: Canvas, rng: np.random.Generator) -> Image.Image:
    """Paint a square, as far as it lies within the image, about a pixel drawn from all of them.

    DeVries and Taylor, 2017.

    Args:
        half: Half the side in pixels.
    """
    x, y = int(rng.integers(image.width)), int(rng.integers(image.height))
    box = (
        max(0, x - half),
        max(0, y - half),
        min(image.width, x + half),
        min(image.height, y + half),
    )
    image = image.copy()
    image.paste(fill_of(image, canvas), box)
    return image


def shift_hue(image: Image.Image, turns: float) -> Image.Image:
    """Turn the hue by a share of the circle, between -0.5 and 0.5; grey images have none.

    Rounded towards 0 to a 255th, and added to a byte that wraps at 256, as torchvision does.
    """
    if image.mode == "L":
        return image
    hue, saturation, value = image.convert("HSV").split()
    hue = hue.point([(v + int(turns * 255)) % 256 for v in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert(image.mode)


def grey(image: Image.Image) -> Image.Image:
    """Replace all colours by their luminance; the mode stays."""
    return image.convert("L").convert(image.mode)


OPERATIONS: dict[str, Operation] = {
    "Identity": lambda image, *_: image,
    "AutoContrast": lambda image, *_: ImageOps.autocontrast(image),
    "Equalize": lambda image, *_: ImageOps.equalize(image),
    "Invert": lambda image, *_: ImageOps.invert(image),
    "Rotate": lambda image, degrees, canvas, _: rotate(image, degrees, canvas),
    "Posterize": lambda image, bits, *_: posterize(image, int(bits)),
    "Solarize": lambda image, threshold, *_: ImageOps.solarize(image, threshold),
    "SolarizeAdd": lambda image, addition, *_: solarize_add(image, int(addition)),
    "Color": lambda image, factor, *_: ImageEnhance.Color(image).enhance(factor),
    "Contrast": lambda image, factor, *_: ImageEnhance.Contrast(image).enhance(factor),
    "Brightness": lambda image, factor, *_: ImageEnhance.Brightness(image).enhance(factor),
    "Sharpness": lambda image, factor, *_: ImageEnhance.Sharpness(image).enhance(factor),
    "ShearX": lambda image, slope, canvas, _: move(image, canvas, slope_x=slope),
    "ShearY": lambda image, slope, canvas, _: move(image, canvas, slope_y=slope),
    "TranslateX": lambda image, right, canvas, _: move(image, canvas, right=right),
    "TranslateY": lambda image, down, canvas, _: move(image, canvas, down=down),
    "Cutout": lambda image, half, canvas, rng: cutout(image, int(half), canvas, rng),
}
"""By the names of the AutoAugment paper (Cubuk et al., 2019, table 6): degrees, bits kept, the
grey level from which all is inverted, grey levels to add, factors of which 1 changes nothing,
slopes, pixels to the right and down, and half a side."""

Argument = Callable[[float, int, Size], float]
"""From a magnitude, a sign (1 or -1) and an image's size to an operation's number.

Magnitudes are shares of the largest that the policy was published with.
"""


def nothing(magnitude: float, sign: int, size: Size) -> float:
    """Return 0, for operations that take no number."""
    return 0.0


def _torchvision(
    *, shear: float, translate: Callable[[int], float], rotate: float, enhance: float, bits: int
) -> dict[str, Argument]:
    """The 14 operations of torchvision's policies, which reach from nothing to the bounds given."""

    def slope(m: float, sign: int, size: Size) -> float:
        return sign * shear * m

    def factor(m: float, sign: int, size: Size) -> float:
        return 1 + sign * enhance * m

    return {
        "Identity": nothing,
        "ShearX": slope,
        "ShearY": slope,
        "TranslateX": lambda m, sign, size: sign * (translate(size[0]) * m // 1),
        "TranslateY": lambda m, sign, size: sign * (translate(size[1]) * m // 1),
        "Rotate": lambda m, sign, size: sign * rotate * m,
        "Brightness": factor,
        "Color": factor,
        "Contrast": factor,
        "Sharpness": factor,
        "Posterize": lambda m, sign, size: 8 - round(bits * m),
        "Solarize": lambda m, sign, size: 255 - 255 * m,
        "AutoContrast": nothing,
        "Equalize": nothing,
    }


TORCHVISION = _torchvision(
    shear=0.3, translate=lambda side: side * 150 / 331, rotate=30.0, enhance=0.9, bits=4
)
"""Shears up to 0.3, shifts up to 150 / 331 of the side, 30 degrees, factors 0.1 to 1.9, 8 to 4
bits, and thresholds from 255 down to 0 (torchvision 0.28, RandAugment)."""

WIDE = _torchvision(shear=0.99, translate=lambda side: 32, rotate=135.0, enhance=0.99, bits=6)
"""The same operations with wider bounds (Müller and Hutter, 2021, "Wide"): 0.99, 32 pixels, 135
degrees, 0.01 to 1.99, 8 to 2 bits."""


def _big_vision() -> dict[str, Argument]:
    """The 16 operations of big_vision, whose magnitudes go on beyond 1 and are never nothing at 0.

    Shears 0.3, shifts 100 pixels, 30 degrees, half a cutout's side 40 pixels, 110 grey levels
    added; factors run from 0.1 to 1.9 without a sign, and bits from 0 up to 4, so that posterizing
    grows weaker. As in TensorFlow, less than one bit is one, and a threshold of 256 wraps to 0,
    which inverts the image (big_vision, issue 110). More than 8 bits, which AugReg never asks for,
    are 8.

    Pixels are for images of 224, and scale with the side of others. Contrast is taken about the
    image's mean grey, where big_vision has a known mistake (issue 109): about 196 whatever the
    image. A reproduction without it reached the published accuracy (EIFY/mup-vit, 2024).
    """

    def slope(m: float, sign: int, size: Size) -> float:
        return sign * m * 0.3

    def factor(m: float, sign: int, size: Size) -> float:
        return m * 1.8 + 0.1

    return {
        "AutoContrast": nothing,
        "Equalize": nothing,
        "Invert": nothing,
        "Rotate": lambda m, sign, size: sign * m * 30,
        "Posterize": lambda m, sign, size: min(max(int(m * 4), 1), 8),
        "Solarize": lambda m, sign, size: int(m * 256) % 256,
        "SolarizeAdd": lambda m, sign, size: int(m * 110),
        "Color": factor,
        "Contrast": factor,
        "Brightness": factor,
        "Sharpness": factor,
        "ShearX": slope,
        "ShearY": slope,
        "TranslateX": lambda m, sign, size: sign * m * 100 * (size[0] / 224),
        "TranslateY": lambda m, sign, size: sign * m * 100 * (size[1] / 224),
        "Cutout": lambda m, sign, size: int(m * 40 * (min(size) / 224)),
    }


def _timm() -> dict[str, Argument]:
    """The 15 operations of timm with ``inc1``, all of which grow stronger with the magnitude.

    Shears 0.3, shifts 0.45 of the side, 30 degrees, factors 0.1 to 1.9, 4 to 0 bits, thresholds
    from 256 down to 0, 110 grey levels added.
    """

    def slope(m: float, sign: int, size: Size) -> float:
        return sign * m * 0.3

    def factor(m: float, sign: int, size: Size) -> float:
        return 1 + sign * m * 0.9

    return {
        "AutoContrast": nothing,
        "Equalize": nothing,
        "Invert": nothing,
        "Rotate": lambda m, sign, size: sign * m * 30,
        "Posterize": lambda m, sign, size: 4 - int(m * 4),
        "Solarize": lambda m, sign, size: 256 - int(m * 256),
        "SolarizeAdd": lambda m, sign, size: int(m * 110),
        "Color": factor,
        "Contrast": factor,
        "Brightness": factor,
        "Sharpness": factor,
        "ShearX": slope,
        "ShearY": slope,
        "TranslateX": lambda m, sign, size: sign * m * 0.45 * size[0],
        "TranslateY": lambda m, sign, size: sign * m * 0.45 * size[1],
    }


BIG_VISION, TIMM = _big_vision(), _timm()
