"""Blurs, whose widths grow with the image."""

import math

import numpy as np
from jaxtyping import Int32
from scipy import ndimage

from tessera.robustness.corruptions.corruption import Corruption, Picture
from tessera.robustness.corruptions.filters import (
    Kernel,
    blur,
    correlate,
    motion_kernel,
    resized,
    stretched,
)


def gaussian_blur(image: Picture, sigma: float, scale: float, rng: np.random.Generator) -> Picture:
    """Blur by a normal kernel of a deviation in pixels."""
    return blur(image, sigma * scale)


def defocus_blur(
    image: Picture, level: tuple[float, float], scale: float, rng: np.random.Generator
) -> Picture:
    """Blur by a disk of a radius in pixels, whose edge is softened by a narrow normal kernel."""
    return correlate(image, stretched(disk(*level), scale), "reflect")


def disk(radius: float, softness: float) -> Kernel:
    """Draw the disk: 3 by 3 pixels soften a small one, 5 by 5 one of more than 8 pixels."""
    reach, soft = (8, 1) if radius <= 8 else (math.ceil(radius), 2)
    offsets = np.arange(-reach, reach + 1)
    inside = (offsets[:, None] ** 2 + offsets[None] ** 2 <= radius**2).astype(np.float64)
    line = np.exp(-0.5 * (np.arange(-soft, soft + 1) / softness) ** 2)
    for axis in (0, 1):
        inside = ndimage.correlate1d(inside, line / line.sum(), axis, mode="mirror")
    return (inside / inside.sum()).astype(np.float32)


def motion_blur(
    image: Picture, level: tuple[float, float], scale: float, rng: np.random.Generator
) -> Picture:
    """Smear along a line at an angle within 45 degrees of a row."""
    radius, sigma = level
    kernel = motion_kernel(radius * scale, sigma * scale, math.radians(rng.uniform(-45, 45)))
    return correlate(image, kernel, "edge")


def zoom_blur(
    image: Picture, level: tuple[float, float], scale: float, rng: np.random.Generator
) -> Picture:
    """Average the image with itself at zooms from 1 up to an end, in steps."""
    zooms = np.arange(1, *level)
    height, width = image.shape[:2]
    total = image.copy()
    for zoom in zooms:
        inner = [math.ceil(side / zoom) for side in (height, width)]
        top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
        part = image[top : top + inner[0], left : left + inner[1]]
        outer = [max(side, round(n * zoom)) for n, side in zip(inner, (height, width), strict=True)]
        large = resized(part, outer[0], outer[1], corners=True)
        top, left = (outer[0] - height) // 2, (outer[1] - width) // 2
        total += large[top : top + height, left : left + width]
    return total / np.float32(len(zooms) + 1)


def glass_blur(
    image: Picture, level: tuple[float, int, int], scale: float, rng: np.random.Generator
) -> Picture:
    """Blur, let every pixel take over a near one's value some times, and blur again.

    The published loop visits pixels from the last to the first and meets values already taken
    over. Here each value is traced to its origin instead, for all pixels at once.
    """
    sigma, delta, times = level
    image = np.floor(blur(image, sigma * scale) * 255) / np.float32(255)
    for _ in range(times):
        origin = origins(image.shape[0], image.shape[1], delta, scale, rng)
        image = image.reshape(-1, 3)[origin].reshape(image.shape)
    return blur(image, sigma * scale)


def origins(
    height: int, width: int, delta: int, scale: float, rng: np.random.Generator
) -> Int32[np.ndarray, " pixels"]:
    """Return for every pixel the index of the one whose value it ends with.

    Pixels less than ``delta`` (times scale) from the border keep their own.

    Args:
        delta: longest step in pixels before scaling; a step is in [-delta, delta - 1].
        scale: of the steps, which are rounded up or down by chance in proportion.
    """
    pixels = np.arange(height * width, dtype=np.int32).reshape(height, width)
    reach = math.ceil(delta * scale)
    beyond = int(scale == 1)  # an unscaled step forward is shorter than reach
    moved = tuple(slice(reach + 1, side - reach + beyond) for side in (height, width))
    source = pixels.copy()
    inside = source[moved]  # no pixel where the image is too small
    shape = (2, *inside.shape)
    steps = rng.integers(-delta, delta, shape, dtype=np.int32)
    if scale != 1:
        steps = np.floor(steps * scale + rng.random(shape)).astype(np.int32)
    inside += steps[0] * width + steps[1]
    taken = source.ravel()
    # A later pixel has been visited: its value is the one it took over. An earlier one has not.
    last = np.maximum(taken, pixels.ravel())  # follows later pixels, to the end of the chain
    follow = np.flatnonzero(last != pixels.ravel())
    while follow.size:
        onward = last[last[follow]]
        follow, onward = (part[onward != last[follow]] for part in (follow, onward))
        last[follow] = onward
    return taken[last]


DEFOCUS_BLUR = Corruption(
    apply=defocus_blur,
    imagenet=((3.0, 0.1), (4.0, 0.5), (6.0, 0.5), (8.0, 0.5), (10.0, 0.5)),
    cifar=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),
)
"""Radius and softness, in pixels."""
GLASS_BLUR = Corruption(
    apply=glass_blur,
    imagenet=((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    cifar=((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
)
"""Deviation of the blur and longest step, in pixels; times."""
MOTION_BLUR = Corruption(
    apply=motion_blur,
    imagenet=((10.0, 3.0), (15.0, 5.0), (15.0, 8.0), (15.0, 12.0), (20.0, 15.0)),
    cifar=((6.0, 1.0), (6.0, 1.5), (6.0, 2.0), (8.0, 2.0), (9.0, 2.5)),
)
"""Radius and deviation, in pixels."""
ZOOM_BLUR = Corruption(
    apply=zoom_blur,
    imagenet=((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    cifar=((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
)
"""End and step of the zooms; the end is left out."""
GAUSSIAN_BLUR = Corruption(
    apply=gaussian_blur,
    imagenet=(1.0, 2.0, 3.0, 4.0, 6.0),
    cifar=(0.4, 0.6, 0.7, 0.8, 1.0),
)
"""Deviation in pixels."""
