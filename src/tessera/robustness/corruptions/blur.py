"""Blurs, whose widths grow with the image."""

import math

import numpy as np
from jaxtyping import Int
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
) -> Int[np.ndarray, " pixels"]:
    """Return for every pixel the index of the one whose value it ends with.

    Pixels less than ``delta`` (times scale) from the border keep their own.

    Args:
        delta: longest step in pixels before scaling; a step is in [-delta, delta - 1].
        scale: of the steps, which are rounded up or down by chance in proportion.
    """
    pixels = np.arange(height * width)
    steps = rng.integers(-delta, delta, (2, height, width))
    if scale != 1:
        steps = np.floor(steps * scale + rng.random(steps.shape)).astype(np.int64)
    reach = math.ceil(delta * scale)
    first, ends = reach + 1, (height - reach + 1, width - reach + 1)
    moved = np.zeros((height, width), bool)
    moved[first : ends[0], first : ends[1]] = True
    y, x = np.divmod(pixels.reshape(height, width), width)
    y = np.clip(y + steps[0], 0, height - 1)
    x = np.clip(x + steps[1], 0, width - 1)
    source = np.where(moved.ravel(), (y * width + x).ravel(), pixels)
    # A later pixel has been visited: its value is the one it took over. An earlier one has not.
    later = source > pixels
    source.copy()
    follow = np.flatnonzero(later)
    jump = np.where(later, source, pixels)  # ends where the chain of later pixels ends
    while follow.size:
        further = jump[jump[follow]]
        changed = further != jump[follow]
        jump[follow] = further
        follow = follow[changed]
    return source[jump]


DEFOCUS_BLUR = Corruption(
    kind="blur",
    apply=defocus_blur,
    imagenet=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
    cifar=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
)
"""Radius and softness, in pixels."""
GLASS_BLUR = Corruption(
    kind="blur",
    apply=glass_blur,
    imagenet=((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    cifar=((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
)
"""Deviation of the blur and longest step, in pixels; times."""
MOTION_BLUR = Corruption(
    kind="blur",
    apply=motion_blur,
    imagenet=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
    cifar=((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
)
"""Radius and deviation, in pixels."""
ZOOM_BLUR = Corruption(
    kind="blur",
    apply=zoom_blur,
    imagenet=((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
    cifar=((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
)
"""End and step of the zooms; the end is left out."""
GAUSSIAN_BLUR = Corruption(
    kind="blur",
    apply=gaussian_blur,
    imagenet=(1, 2, 3, 4, 6),
    cifar=(0.4, 0.6, 0.7, 0.8, 1),
)
"""Deviation in pixels."""
