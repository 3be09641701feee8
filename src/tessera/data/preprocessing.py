"""From an image of any kind to the numbers a model eats: one object, kept inside the artefact."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from tessera.config import Size2d
from tessera.data.images import RESAMPLING, WHITE, to_channels

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5)
"""Mean and standard deviation of the paper's own code: pixels to [-1, 1]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preprocessing:
    """How every image is prepared in evaluation, prediction and export.

    Resizing is Pillow's, with torchvision's and timm's geometry: short side to size, long side
    truncated, crop offset rounded; published checkpoints were evaluated so.
    """

    size: Size2d
    """Height and width that the model sees, in pixels."""
    channels: int = 3
    """1 is grey, 3 is RGB."""
    crop: Literal["crop", "squash", "letterbox", "native"] = "crop"
    """Cut the centre out; press the whole image into the size; fit it in and fill the rest with
    the background; or keep its shape, with about as many pixels as the size has."""
    crop_pct: float = 1.0
    """Share of the resized short side that the centre crop keeps; 0.875 is 224 of 256."""
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bicubic"
    mean: tuple[float, ...] = HALF
    """Subtracted from pixels in [0, 1], one number a channel."""
    std: tuple[float, ...] = HALF
    """Divides after that."""
    background: tuple[int, int, int] = WHITE
    """Colour behind transparent pixels, and around a letterboxed image."""
    multiple_of: int = 1
    """What both sides of an image of native shape are multiples of: the patch size."""

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise ValueError(f"preprocessing: channels={self.channels} must be 1 or 3")
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"preprocessing: size={self.size} must be a height and a width")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(
                f"preprocessing: {len(self.mean)} means and {len(self.std)} deviations "
                f"for {self.channels} channels"
            )
        if not all(math.isfinite(m) for m in self.mean):
            raise ValueError(f"preprocessing: mean={self.mean} must be finite")
        if not all(0 < s < math.inf for s in self.std) or not 0 < self.crop_pct <= 1:
            raise ValueError(
                f"preprocessing: std={self.std} must be positive and "
                f"crop_pct={self.crop_pct} in (0, 1]"
            )
        if self.crop not in CROPS or self.interpolation not in RESAMPLING:
            raise ValueError(
                f"preprocessing: unknown crop={self.crop!r} or interpolation={self.interpolation!r}"
            )
        if len(self.background) != 3 or not all(0 <= c <= 255 for c in self.background):
            raise ValueError(f"preprocessing: background={self.background} must be 3 bytes")
        if self.multiple_of < 1 or any(side % self.multiple_of for side in self.size):
            raise ValueError(
                f"preprocessing: size={self.size} must be multiples of "
                f"multiple_of={self.multiple_of}, which must be at least 1"
            )

    def __call__(self, image: Image.Image) -> Float[Tensor, "c h w"]:
        """Prepare one image."""
        return self.normalise(self.pixels(image)[None])[0]

    def pixels(self, image: Image.Image) -> UInt8[Tensor, "c h w"]:
        """Resize and crop, without normalising; workers send this, a quarter of the bytes."""
        return to_tensor(CROPS[self.crop](self, to_channels(image, self.channels, self.background)))

    def normalise(self, pixels: UInt8[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Map bytes to floats of about unit scale."""
        mean, std = (
            torch.tensor(values, device=pixels.device).view(-1, 1, 1)
            for values in (self.mean, self.std)
        )
        return (pixels.float() / 255 - mean) / std

    def seen(self, rows: int, columns: int) -> tuple[float, float, float, float]:
        """Return what part of an image of this height and width the model's input shows.

        Left, top, right and bottom in the image's own pixels; a letterbox reaches beyond the image.
        """
        if self.crop == "crop":
            resized, left, top = self._cut(rows, columns)
            x, y = columns / resized[0], rows / resized[1]
            return left * x, top * y, (left + self.size[1]) * x, (top + self.size[0]) * y
        if self.crop == "letterbox":
            inner = self._inner(rows, columns)
            x, y = columns / inner[1], rows / inner[0]
            left, top = (self.size[1] - inner[1]) // 2, (self.size[0] - inner[0]) // 2
            return -left * x, -top * y, (self.size[1] - left) * x, (self.size[0] - top) * y
        return 0.0, 0.0, float(columns), float(rows)

    @property
    def resized_size(self) -> Size2d:
        """Height and width that an image must cover before the crop: size / crop_pct, truncated."""
        height, width = (int(side / self.crop_pct + 1e-6) for side in self.size)
        return height, width

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON knows them."""
        return asdict(self)

    def _resize(self, image: Image.Image, size: Size2d) -> Image.Image:
        height, width = size
        if image.size == (width, height):
            return image
        return image.resize((width, height), RESAMPLING[self.interpolation])

    def _squash(self, image: Image.Image) -> Image.Image:
        return self._resize(image, self.size)

    def _cut(self, rows: int, columns: int) -> tuple[Size2d, int, int]:
        """Width and height after resizing, and the left and top of the centre crop in that."""
        height, width = self.size
        want_h, want_w = self.resized_size
        if want_w * rows >= want_h * columns:  # the width is the tight side
            resized = want_w, max(want_h, int(want_w * rows / columns))
        else:
            resized = max(want_w, int(want_h * columns / rows)), want_h
        return resized, round((resized[0] - width) / 2), round((resized[1] - height) / 2)

    def _inner(self, rows: int, columns: int) -> Size2d:
        """Height and width of a letterboxed image inside its frame."""
        height, width = self.size
        scale = min(height / rows, width / columns)
        return max(1, round(rows * scale)), max(1, round(columns * scale))

    def _letterbox(self, image: Image.Image) -> Image.Image:
        height, width = self.size
        inner = self._inner(image.height, image.width)
        small = self._resize(image, inner)
        if inner == self.size:
            return small
        paper = Image.new("RGB", (width, height), self.background).convert(image.mode)
        paper.paste(small, ((width - inner[1]) // 2, (height - inner[0]) // 2))
        return paper

    def _native(self, image: Image.Image) -> Image.Image:
        step, area = self.multiple_of, self.size[0] * self.size[1]
        scale = math.sqrt(area / (image.height * image.width))
        sides = [max(1, round(side * scale / step)) for side in (image.height, image.width)]
        while sides[0] * sides[1] * step * step > area:  # never more tokens than the size has
            longer = sides.index(max(sides))
            sides[longer] -= 1
        return self._resize(image, (sides[0] * step, sides[1] * step))

    def _crop(self, image: Image.Image) -> Image.Image:
        height, width = self.size
        resized, left, top = self._cut(image.height, image.width)
        if resized[0] * resized[1] > 100 * width * height:
            # A thread of pixels would fill the memory if it were resized whole. Not so for other
            # images, since Pillow rounds a box differently from torchvision's resize and crop.
            x, y = image.width / resized[0], image.height / resized[1]
            right = min((left + width) * x, image.width)
            bottom = min((top + height) * y, image.height)
            box = (left * x, top * y, right, bottom)
            return image.resize((width, height), RESAMPLING[self.interpolation], box)
        if image.size != resized:
            image = image.resize(resized, RESAMPLING[self.interpolation])
        return image.crop((left, top, left + width, top + height))


CROPS: dict[str, Callable[[Preprocessing, Image.Image], Image.Image]] = {
    "crop": Preprocessing._crop,
    "squash": Preprocessing._squash,
    "letterbox": Preprocessing._letterbox,
    "native": Preprocessing._native,
}
"""How an image of any shape is made to fit, by the name of the policy."""


def to_tensor(image: Image.Image) -> UInt8[Tensor, "c h w"]:
    """Copy the pixels of a grey or RGB image."""
    array = np.array(image)  # a copy, since PIL's buffer is not writable
    return torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1).copy())
