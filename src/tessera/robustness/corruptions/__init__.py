"""The 15 corruptions of ImageNet-C and its 4 extras, at the size of the image, from one seed.

Published by Hendrycks and Dietterich (2019), "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations", section 3 and their generator. Two of its tables are kept as they
are: ImageNet-C for images of 224 pixels and CIFAR-C for images of 32. By the short side of the
image,

- at most 64 pixels: the table of CIFAR-C, lengths in pixels times side / 32;
- above that: the table of ImageNet-C, lengths in pixels times side / 224.

So a blur is as wide as the published one relative to the image, and at 32 and 224 pixels it is the
published one. What is drawn (snow, frost, fog, spatter, elastic) is drawn at 32 or 224 pixels on
the short side and stretched over the image. Noise and colours are per pixel at every size.
"""

from difflib import get_close_matches

import numpy as np
from jaxtyping import UInt8

from tessera.robustness.corruptions import blur, digital, noise, weather
from tessera.robustness.corruptions.corruption import Corruption

CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": noise.GAUSSIAN_NOISE,
    "shot_noise": noise.SHOT_NOISE,
    "impulse_noise": noise.IMPULSE_NOISE,
    "defocus_blur": blur.DEFOCUS_BLUR,
    "glass_blur": blur.GLASS_BLUR,
    "motion_blur": blur.MOTION_BLUR,
    "zoom_blur": blur.ZOOM_BLUR,
    "snow": weather.SNOW,
    "frost": weather.FROST,
    "fog": weather.FOG,
    "brightness": digital.BRIGHTNESS,
    "contrast": digital.CONTRAST,
    "elastic_transform": digital.ELASTIC_TRANSFORM,
    "pixelate": digital.PIXELATE,
    "jpeg_compression": digital.JPEG_COMPRESSION,
    "speckle_noise": noise.SPECKLE_NOISE,
    "gaussian_blur": blur.GAUSSIAN_BLUR,
    "spatter": weather.SPATTER,
    "saturate": digital.SATURATE,
}
"""The 15 standard corruptions in the published order, then the 4 extras."""

STANDARD: tuple[str, ...] = tuple(CORRUPTIONS)[:15]
EXTRA: tuple[str, ...] = tuple(CORRUPTIONS)[15:]
SEVERITIES = (1, 2, 3, 4, 5)


def corrupt(
    image: UInt8[np.ndarray, "h w 3"], name: str, severity: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "h w 3"]:
    """Corrupt one RGB image of any size, without changing it.

    The result is a function of the arguments and the state of the generator, which moves on. A grey
    image is given as three equal channels; what comes back may have colours.

    Args:
        name: a key of ``CORRUPTIONS``.
        severity: 1 to 5.

    Raises:
        ValueError: an unknown name, or a severity that is none of the five.
    """
    if name not in CORRUPTIONS:
        close = get_close_matches(name, CORRUPTIONS, n=1)
        guess = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(
            f"unknown corruption {name!r}\nhint: {guess}known: {', '.join(CORRUPTIONS)}"
        )
    if severity not in SEVERITIES:
        raise ValueError(
            f"severity {severity} of {name} is not published\nhint: give one of 1, 2, 3, 4, 5"
        )
    corruption = CORRUPTIONS[name]
    level, scale = corruption.at(severity, min(image.shape[:2]))
    values = corruption.apply(image.astype(np.float32) / 255, level, scale, rng)
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)
