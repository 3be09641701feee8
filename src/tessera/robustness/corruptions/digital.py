"""What cameras, files and screens do to an image: brightness, contrast, colour, JPEG, blocks."""

import io

import numpy as np
from PIL import Image

from tessera.robustness.corruptions.corruption import Corruption, Picture
from tessera.robustness.corruptions.filters import blur, displaced, resized
from tessera.robustness.corruptions.weather import canvas


def brightness(image: Picture, added: float, scale: float, rng: np.random.Generator) -> Picture:
    """Add to the value of hue, saturation and value."""
    value = image.max(-1, keepdims=True)
    brighter = np.minimum(value + np.float32(added), 1)
    factor = np.divide(brighter, value, out=np.zeros_like(value), where=value > 0)
    return np.where(value > 0, image * factor, brighter)


def saturate(
    image: Picture, level: tuple[float, float], scale: float, rng: np.random.Generator
) -> Picture:
    """Multiply saturation and add to it; grey pixels have the hue of red."""
    times, added = np.float32(level[0]), np.float32(level[1])
    value = image.max(-1, keepdims=True)
    missing = value - image
    most = missing.max(-1, keepdims=True)  # value times saturation
    grey = most == 0
    wanted = np.clip(np.where(grey, added * value, times * most + added * value), 0, value)
    share = np.divide(missing, most, out=np.zeros_like(image), where=~grey)
    red = np.array([0, 1, 1], np.float32)
    return value - wanted * np.where(grey, red, share)


def contrast(image: Picture, kept: float, scale: float, rng: np.random.Generator) -> Picture:
    """Draw every channel towards its mean."""
    mean = image.mean((0, 1), keepdims=True, dtype=np.float64).astype(np.float32)
    return (image - mean) * np.float32(kept) + mean


def jpeg_compression(
    image: Picture, quality: int, scale: float, rng: np.random.Generator
) -> Picture:
    """Write the image as JPEG of a quality and read it again."""
    file = io.BytesIO()
    _pillow(image).save(file, "JPEG", quality=quality)
    with Image.open(file) as small:
        return np.asarray(small, np.float32) / 255


def pixelate(image: Picture, share: float, scale: float, rng: np.random.Generator) -> Picture:
    """Reduce both sides to a share by averaging, and enlarge again; blocks grow with the image."""
    share *= min(1, 1 / scale)
    height, width = image.shape[:2]
    small = max(1, int(width * share)), max(1, int(height * share))
    blocks = _pillow(image).resize(small, Image.Resampling.BOX)
    return np.asarray(blocks.resize((width, height), Image.Resampling.BOX), np.float32) / 255


def _pillow(image: Picture) -> Image.Image:
    return Image.fromarray(np.rint(image * 255).astype(np.uint8))


def elastic_transform(
    image: Picture, level: tuple[float, float, float], scale: float, rng: np.random.Generator
) -> Picture:
    """Move three points of the image at random, and every pixel by smooth noise."""
    reach, width, corners = level
    if corners:
        image = displaced(image, *affine(image, corners * scale, rng), border="mirror")
    height, width_ = image.shape[:2]
    y, x = np.meshgrid(
        np.arange(height, dtype=np.float32), np.arange(width_, dtype=np.float32), indexing="ij"
    )
    if not reach:
        return image
    size = canvas(image, scale)
    moves = []
    for _ in range(2):
        noise = blur(rng.uniform(-1, 1, size).astype(np.float32), width, 3.0, "reflect")
        moves.append(resized(noise * np.float32(reach * scale), height, width_))
    return displaced(image, y + moves[1], x + moves[0], border="reflect")


def affine(image: Picture, reach: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows and columns to read when three points move by up to ``reach`` pixels."""
    height, width = image.shape[:2]
    middle, arm = np.array([width // 2, height // 2]), max(1, min(height, width) // 3)
    before = middle + arm * np.array([[1, 1], [1, -1], [-1, -1]])
    after = before + rng.uniform(-reach, reach, (3, 2))
    # The plane through the three points; where they moved to leads back to where they were. Points
    # in one line, which are next to impossible, have no inverse: least squares has an answer.
    solution = np.linalg.lstsq(np.column_stack([after, np.ones(3)]), before, rcond=None)[0]
    x = np.arange(width)[None, :, None] * solution[0]
    y = np.arange(height)[:, None, None] * solution[1]
    places = (x + y + solution[2]).astype(np.float32)
    return places[..., 1], places[..., 0]


BRIGHTNESS = Corruption(
    apply=brightness,
    imagenet=(0.1, 0.2, 0.3, 0.4, 0.5),
    cifar=(0.05, 0.1, 0.15, 0.2, 0.3),
)
CONTRAST = Corruption(
    apply=contrast,
    imagenet=(0.4, 0.3, 0.2, 0.1, 0.05),
    cifar=(0.75, 0.5, 0.4, 0.3, 0.15),
)
ELASTIC_TRANSFORM = Corruption(
    apply=elastic_transform,
    imagenet=(
        (14.0, 2.24, 0.0),
        (18.2, 2.24, 0.0),
        (23.8, 2.24, 0.0),
        (28.0, 2.24, 0.0),
        (33.6, 2.24, 0.0),
    ),
    cifar=(
        (0.0, 0.0, 2.56),
        (1.6, 6.4, 2.24),
        (2.56, 1.92, 1.92),
        (3.2, 1.28, 1.6),
        (3.2, 0.96, 0.96),
    ),
)
"""Reach of the noise before it is smoothed, deviation that smooths it, reach of the three points,
in pixels. The first table is that of the package imagecorruptions, since the effect of the first
generator's does not rise with severity."""
PIXELATE = Corruption(
    apply=pixelate,
    imagenet=(0.6, 0.5, 0.4, 0.3, 0.25),
    cifar=(0.95, 0.9, 0.85, 0.75, 0.65),
)
JPEG_COMPRESSION = Corruption(
    apply=jpeg_compression,
    imagenet=(25, 18, 15, 10, 7),
    cifar=(80, 65, 58, 50, 40),
)
SATURATE = Corruption(
    apply=saturate,
    imagenet=((0.3, 0.0), (0.1, 0.0), (2.0, 0.0), (5.0, 0.1), (20.0, 0.2)),
    cifar=((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2)),
)
"""Factor and addend."""
