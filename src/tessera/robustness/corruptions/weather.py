"""Snow, frost, fog and spatter: drawn at the size of the table and stretched over the image."""

import math

import numpy as np
from jaxtyping import Float32
from scipy import ndimage

from tessera.robustness.corruptions.corruption import IMAGENET_SIDE, Corruption, Picture
from tessera.robustness.corruptions.filters import blur, correlate, motion_kernel, resized

Layer = Float32[np.ndarray, "h w"]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)
WATER = np.array([175, 238, 238], np.float32) / 255
MUD = np.array([63, 42, 20], np.float32) / 255


def canvas(image: Picture, scale: float) -> tuple[int, int]:
    """Return the height and width to draw at; the long side is at most 16 times the short one."""
    height, width = image.shape[:2]
    short = max(1, round(min(height, width) / scale))
    long = min(16 * short, max(1, round(max(height, width) / scale)))
    return (short, long) if height <= width else (long, short)


def snow(
    image: Picture,
    level: tuple[float, float, float, float, float, float, float],
    scale: float,
    rng: np.random.Generator,
) -> Picture:
    """Whiten the image and let flakes fall: thresholded noise, enlarged and smeared."""
    mean, sigma, zoom, threshold, radius, deviation, kept = level
    height, width = canvas(image, scale)
    inner = math.ceil(height / zoom), math.ceil(width / zoom)
    flakes = np.float32(mean) + np.float32(sigma) * rng.standard_normal(inner, np.float32)
    outer = max(height, round(inner[0] * zoom)), max(width, round(inner[1] * zoom))
    flakes = resized(flakes, *outer, corners=True)[:height, :width]
    flakes = np.clip(np.where(flakes < threshold, np.float32(0), flakes), 0, 1)
    kernel = motion_kernel(radius, deviation, math.radians(rng.uniform(-135, -45)))
    flakes = resized(correlate(flakes, kernel, "edge"), *image.shape[:2])
    pale = np.maximum(image, (image @ LUMA)[..., None] * 1.5 + 0.5)
    kept_share = np.float32(kept)
    white = kept_share * image + (1 - kept_share) * pale
    return white + (flakes + flakes[::-1, ::-1])[..., None]


def frost(
    image: Picture, level: tuple[float, float], scale: float, rng: np.random.Generator
) -> Picture:
    """Lay a picture of frost over the image, which is dimmed."""
    kept, added = np.float32(level[0]), np.float32(level[1])
    height, width = canvas(image, min(image.shape[:2]) / IMAGENET_SIDE)
    return kept * image + added * resized(frosted(height, width, rng), *image.shape[:2])


def frosted(height: int, width: int, rng: np.random.Generator) -> Picture:
    """Draw frost: ridges of noise at four sizes over slow clouds, tinted blue.

    Mean and contrast are drawn in the range of the six photographs of the published generator:
    on 224 by 224 pixels their means are 76 to 213, their deviations 15 to 37 of 255.
    """
    texture = 0.6 * waves(height, width, 30.0, rng)
    for size, share in ((9.0, 0.5), (4.0, 0.7), (1.8, 0.6), (0.8, 0.4)):
        texture += np.float32(share) * (1 - 2.5 * np.abs(waves(height, width, size, rng)))
    deviation = np.float32(texture.std())
    texture = (texture - texture.mean()) / (deviation if deviation > 0 else np.float32(1))
    brightness = rng.uniform(0, 1)
    grey = np.float32(0.34 + 0.5 * brightness) + np.float32(0.14 - 0.06 * brightness) * texture
    tint = np.array([-0.09, 0.02, 0.07], np.float32) * np.float32(rng.uniform(0.3, 1.3))
    return np.clip(grey[..., None] + tint, 0, 1)


def waves(height: int, width: int, size: float, rng: np.random.Generator) -> Layer:
    """Draw smooth noise of unit deviation and of waves about ``size`` pixels wide."""
    coarse = max(1.0, size / 2)  # what is smooth is drawn small
    small = max(2, math.ceil(height / coarse)), max(2, math.ceil(width / coarse))
    noise = blur(rng.standard_normal(small, np.float32), size / coarse, mode="reflect")
    deviation = np.float32(noise.std())
    return resized(noise / (deviation if deviation > 0 else np.float32(1)), height, width)


def fog(
    image: Picture, level: tuple[float, float], scale: float, rng: np.random.Generator
) -> Picture:
    """Add a cloud and bring the brightest value back to where it was."""
    thickness, decay = np.float32(level[0]), level[1]
    height, width = canvas(image, scale)
    side = 2 ** max(1, math.ceil(math.log2(max(height, width))))
    cloud = resized(plasma(side, decay, rng)[:height, :width], *image.shape[:2])
    brightest = image.max()
    return (image + thickness * cloud[..., None]) * brightest / (brightest + thickness)


def plasma(side: int, decay: float, rng: np.random.Generator) -> Float32[np.ndarray, "n n"]:
    """Draw a cloud in [0, 1] by midpoint displacement on a square that wraps around.

    Every halving of the step divides the displacements by ``decay`` twice.

    Args:
        side: in pixels, a power of 2.
    """
    cloud = np.zeros((side, side))
    step, reach = side, 100.0

    def moved(mean: np.ndarray) -> np.ndarray:
        return mean + reach**2 * rng.uniform(-1, 1, mean.shape)

    while step >= 2:
        half = step // 2
        corners = cloud[::step, ::step]
        pairs = corners + np.roll(corners, -1, 0)
        centres = moved((pairs + np.roll(pairs, -1, 1)) / 4)
        cloud[half::step, half::step] = centres
        upright = corners + np.roll(corners, -1, 1) + centres + np.roll(centres, 1, 0)
        cloud[::step, half::step] = moved(upright / 4)
        level = corners + np.roll(corners, -1, 0) + centres + np.roll(centres, 1, 1)
        cloud[half::step, ::step] = moved(level / 4)
        step, reach = half, reach / decay
    cloud -= cloud.min()
    return (cloud / (cloud.max() or 1.0)).astype(np.float32)


def spatter(
    image: Picture,
    level: tuple[float, float, float, float, float, int],
    scale: float,
    rng: np.random.Generator,
) -> Picture:
    """Splash drops of water, which lighten, or of mud, which cover."""
    mean, sigma, width, threshold, strength, mud = level
    noise = rng.standard_normal(canvas(image, scale), np.float32)
    liquid = blur(np.float32(mean) + np.float32(sigma) * noise, width)
    drops = liquid >= np.float32(threshold)
    if mud:
        cover = blur(drops.astype(np.float32), strength)
        cover[cover < 0.8] = 0
        cover = resized(cover, *image.shape[:2])[..., None]
        return image * (1 - cover) + MUD * cover
    shine = np.where(drops, np.floor(np.clip(liquid, 0, 1) * 255), np.float32(0)) * rims(drops)
    shine *= np.float32(strength) / max(np.float32(1), shine.max())
    return image + resized(shine, *image.shape[:2])[..., None] * WATER


def rims(drops: np.ndarray) -> Layer:
    """Shade drops by the distance from their rim, equalised and lit from the lower right.

    The rim is the upper or left one of two pixels of which one is dry: there Canny's method, which
    the published generator takes, finds the edge.
    """
    rim = np.zeros(drops.shape, bool)
    rim[:-1] |= drops[:-1] != drops[1:]
    rim[:, :-1] |= drops[:, :-1] != drops[:, 1:]
    if not rim.any():
        return np.ones(drops.shape, np.float32)
    distance = np.minimum(ndimage.distance_transform_edt(~rim), 20)
    distance = ndimage.uniform_filter(distance, 3, mode="mirror").astype(np.uint8)
    counts = np.bincount(distance.ravel(), minlength=256)
    below = np.cumsum(counts)
    lowest = counts[np.flatnonzero(counts)[0]]
    spread = max(1, distance.size - lowest)
    equal = np.rint((below - lowest) * 255 / spread)[distance]
    light = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    lit = np.clip(ndimage.correlate(equal, light, mode="mirror"), 0, 255)
    shade: np.ndarray = ndimage.uniform_filter(lit, 3, mode="mirror").astype(np.float32)
    return shade


SNOW = Corruption(
    apply=snow,
    imagenet=(
        (0.1, 0.3, 3.0, 0.5, 10.0, 4.0, 0.8),
        (0.2, 0.3, 2.0, 0.5, 12.0, 4.0, 0.7),
        (0.55, 0.3, 4.0, 0.9, 12.0, 8.0, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12.0, 8.0, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12.0, 12.0, 0.55),
    ),
    cifar=(
        (0.1, 0.2, 1.0, 0.6, 8.0, 3.0, 0.95),
        (0.1, 0.2, 1.0, 0.5, 10.0, 4.0, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10.0, 4.0, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12.0, 6.0, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14.0, 12.0, 0.8),
    ),
)
"""Mean and deviation of the noise, zoom, threshold, radius and deviation of the fall in pixels,
share of the image that is not whitened."""
FROST = Corruption(
    apply=frost,
    imagenet=((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    cifar=((1.0, 0.2), (1.0, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
)
"""Shares of the image and of the frost."""
FOG = Corruption(
    apply=fog,
    imagenet=((1.5, 2.0), (2.0, 2.0), (2.5, 1.7), (2.5, 1.5), (3.0, 1.4)),
    cifar=((0.2, 3.0), (0.5, 3.0), (0.75, 2.5), (1.0, 2.0), (1.5, 1.75)),
)
"""Thickness, and decay of the displacements."""
SPATTER = Corruption(
    apply=spatter,
    imagenet=(
        (0.65, 0.3, 4.0, 0.69, 0.6, 0),
        (0.65, 0.3, 3.0, 0.68, 0.6, 0),
        (0.65, 0.3, 2.0, 0.68, 0.5, 0),
        (0.65, 0.3, 1.0, 0.65, 1.5, 1),
        (0.67, 0.4, 1.0, 0.65, 1.5, 1),
    ),
    cifar=(
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1.0, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ),
)
"""Mean, deviation and width in pixels of the noise, threshold, strength of water or width of the
edge of mud in pixels, and 1 for mud."""
