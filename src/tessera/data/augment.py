"""What is done to training images: random, but a pure function of (seed, epoch, index)."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tessera.data.images import RESAMPLING, is_turned, to_channels, upright
from tessera.data.jpeg import decode_jpeg
from tessera.data.policies import AUGREG_LEVELS, POLICIES, Policy, color_jitter, random_erasing
from tessera.data.preprocessing import Preprocessing, to_tensor
from tessera.recipe import Augment

SPARE = 2.0
"""How many times finer than the result a JPEG is decoded at least, when it is decoded smaller.

Measured on mosaics of photographs, 4000x3000 pixels: 2.4 of 255 levels of mean difference from
decoding in full, and 1.5 times as fast; at 3.0 they are 1.2 levels and 1.4 times (docs/log.md).
"""

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels."""


@dataclass(frozen=True)
class Motion:
    """Where a training image is cut and how it is moved: all that is drawn about its geometry."""

    box: Box | None
    """In the image as it is; None takes what evaluation takes."""
    flip: bool = False
    angle: float = 0.0
    """In radians."""
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    """To the right and down, as shares of the sides."""

    @property
    def moves(self) -> bool:
        """Whether there is more than a crop and a flip."""
        return bool(self.angle or self.scale != 1 or any(self.shift))


def draw_motion(size: tuple[int, int], augment: Augment, rng: np.random.Generator) -> Motion:
    """Draw the geometry for an image.

    Args:
        size: Its width and height in pixels.
    """
    a = augment
    box = None if a.crop_scale is None else crop_box(size, a.crop_scale, a.crop_ratio, rng)
    flip = bool(a.flip and rng.random() < a.flip)
    if not (a.rotate or a.zoom or a.shift):
        return Motion(box, flip)
    angle = math.radians(rng.uniform(-a.rotate, a.rotate))
    scale = math.exp(rng.uniform(-1, 1) * math.log1p(a.zoom))
    dx, dy = rng.uniform(-a.shift, a.shift), rng.uniform(-a.shift, a.shift)
    return Motion(box, flip, angle, scale, (dx, dy))


class TrainTransform:
    """Random crop, flip, moves, colours and erasing, to the size that evaluation has."""

    def __init__(self, preprocessing: Preprocessing, augment: Augment) -> None:
        self.preprocessing = preprocessing
        self.augment = augment
        self.policy = make_policy(augment)

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> UInt8[Tensor, "c h w"]:
        """Change one image at random.

        Args:
            image: As it is stored; it is best if its pixels are not decoded yet, since a JPEG of
                which little is wanted is then decoded at a half, quarter or eighth of its size.
            rng: Made for this image of this epoch; nothing else is drawn from.
        """
        motion = draw_motion(upright_size(image), self.augment, rng)
        if motion.box is None:
            pixels = self.preprocessing.pixels(upright(image))
        else:
            pixels = self._resized_crop(image, motion.box)
        if motion.flip:
            pixels = pixels.flip(-1)
        if motion.moves:
            pixels = _move(pixels, motion)
        if self.policy is not None or self.augment.color_jitter:
            pixels = to_tensor(self._recolour(to_image(pixels), rng))
        if self.augment.erasing:
            mean, std = self.preprocessing.mean, self.preprocessing.std
            pixels = random_erasing(pixels, rng, self.augment.erasing, mean=mean, std=std)
        return pixels.contiguous()

    def _recolour(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        if self.policy is not None:
            image = self.policy(image, rng)
        strength = self.augment.color_jitter
        return color_jitter(image, rng, strength, strength, strength) if strength else image

    def _resized_crop(self, image: Image.Image, box: Box) -> Tensor:
        """A box of random area and shape, resized: the "Inception crop"."""
        array = decode_crop(image, box, self.preprocessing.size, self.preprocessing)
        # Channels stay last in memory: torch resizes such bytes faster, to the same bits.
        pixels = torch.from_numpy(array[..., None] if array.ndim == 2 else array).permute(2, 0, 1)
        mode = self.preprocessing.interpolation
        if mode == "nearest":
            return F.interpolate(pixels[None], size=self.preprocessing.size, mode=mode)[0]
        return F.interpolate(pixels[None], size=self.preprocessing.size, mode=mode, antialias=True)[
            0
        ]


def make_policy(augment: Augment) -> Policy | None:
    """Return the published policy that a recipe names.

    Raises:
        ValueError: A magnitude that the policy does not have.
    """
    if augment.policy == "none":
        return None
    make = POLICIES[augment.policy]
    if augment.policy.startswith("randaugment"):
        return make(num_ops=augment.num_ops, magnitude=augment.magnitude)
    return make()


def at_level(augment: Augment) -> Augment:
    """Write out what a level of AugReg stands for (Steiner et al., 2021)."""
    if augment.augreg == "none":
        return augment
    level = AUGREG_LEVELS[augment.augreg]
    return replace(
        augment,
        augreg="none",
        policy="randaugment-big-vision" if level.num_ops else "none",
        num_ops=max(level.num_ops, 1),
        magnitude=float(level.magnitude),
        mixup=level.mixup,
    )


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return the width and height that an image has once it is turned upright."""
    turned = is_turned(image) and image.getexif()[0x0112] in (5, 6, 7, 8)
    return (image.height, image.width) if turned else image.size


def decode_crop(
    image: Image.Image, box: Box, size: tuple[int, int], preprocessing: Preprocessing
) -> np.ndarray:
    """Decode an image no finer than a box of it needs, and cut the box out.

    A JPEG that is not decoded yet is read at 1/2, 1/4 or 1/8 of its size where the box then still
    has ``SPARE`` times the pixels wanted, each way.

    Args:
        box: In the upright image at its full size.
        size: Height and width that the box is going to be resized to.

    Returns:
        The pixels, ``h w`` or ``h w 3``.
    """
    left, top, right, bottom = box
    full = upright_size(image)
    spare = min((right - left) / (SPARE * size[1]), (bottom - top) / (SPARE * size[0]))
    spare = max(spare, 1.0)
    wanted = math.ceil(image.width / spare), math.ceil(image.height / spare)
    pixels = None
    if preprocessing.channels == 3 and not is_turned(image):
        pixels = decode_jpeg(image, wanted)
    if pixels is not None:
        left, top, right, bottom = _scaled(box, full, (pixels.shape[1], pixels.shape[0]))
        return pixels[top:bottom, left:right]
    image.draft(image.mode, wanted)  # does nothing for other formats
    image = upright(image)
    box = _scaled(box, full, image.size)
    image = to_channels(image, preprocessing.channels, preprocessing.background)
    return np.array(image.crop(box))


def _scaled(box: Box, full: tuple[int, int], size: tuple[int, int]) -> Box:
    """Return the box in an image that was decoded at another size."""
    x, y = size[0] / full[0], size[1] / full[1]
    left, top, right, bottom = box
    return round(left * x), round(top * y), round(right * x), round(bottom * y)


def _move(pixels: Tensor, motion: Motion) -> Tensor:
    """Rotate, zoom and shift about the centre in one resampling; black comes in."""
    height, width = pixels.shape[-2:]
    dx, dy = motion.shift[0] * width, motion.shift[1] * height
    cos, sin = math.cos(motion.angle) / motion.scale, math.sin(motion.angle) / motion.scale
    cx, cy = width / 2, height / 2  # Pillow puts the centre of the first pixel at 0.5
    inverse = (  # from a pixel of the result to one of the source, in Pillow's order
        *(cos, sin, cx - cos * (cx + dx) - sin * (cy + dy)),
        *(-sin, cos, cy + sin * (cx + dx) - cos * (cy + dy)),
    )
    image = to_image(pixels)
    moved = image.transform(
        image.size, Image.Transform.AFFINE, inverse, resample=RESAMPLING["bilinear"]
    )
    return to_tensor(moved)


def to_image(pixels: UInt8[Tensor, "c h w"]) -> Image.Image:
    """Copy pixels into a grey or RGB image."""
    array = pixels[0].numpy() if pixels.shape[0] == 1 else pixels.permute(1, 2, 0).numpy()
    return Image.fromarray(array)


def crop_box(
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> Box:
    """Draw a box of random area and aspect (Szegedy et al., 2015), as torchvision does.

    Args:
        size: Width and height of the image in pixels.
        scale: Bounds of the box's share of the area.
        ratio: Bounds of width / height, drawn evenly in logarithm.
    """
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    aspect = min(max(width / height, ratio[0]), ratio[1])  # fall back to the largest centre box
    w = min(width, max(1, round(height * aspect)))
    h = min(height, max(1, round(width / aspect)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
