"""Noise of every pixel on its own; the same at every size."""

import numpy as np

from tessera.robustness.corruptions.corruption import Corruption, Picture


def gaussian_noise(image: Picture, sigma: float, scale: float, rng: np.random.Generator) -> Picture:
    """Add normal noise of one deviation to every value, as an amplifier in the dark does."""
    return image + np.float32(sigma) * rng.standard_normal(image.shape, np.float32)


def shot_noise(image: Picture, photons: float, scale: float, rng: np.random.Generator) -> Picture:
    """Count photons: a value v becomes Poisson(v * photons) / photons."""
    counts = rng.poisson(image * np.float32(photons)).astype(np.float32)
    return counts / np.float32(photons)


def impulse_noise(image: Picture, amount: float, scale: float, rng: np.random.Generator) -> Picture:
    """Set a share of all values to 0 or 1, half of them each: salt and pepper in colour."""
    draw = rng.random(image.shape, np.float32)
    noisy = np.where(draw < amount / 2, np.float32(0), image)
    return np.where(draw > 1 - amount / 2, np.float32(1), noisy)


def speckle_noise(image: Picture, sigma: float, scale: float, rng: np.random.Generator) -> Picture:
    """Add normal noise in proportion to the value, so that black stays black."""
    return image + image * np.float32(sigma) * rng.standard_normal(image.shape, np.float32)


GAUSSIAN_NOISE = Corruption(
    apply=gaussian_noise,
    imagenet=(0.08, 0.12, 0.18, 0.26, 0.38),
    cifar=(0.04, 0.06, 0.08, 0.09, 0.10),
)
SHOT_NOISE = Corruption(
    apply=shot_noise,
    imagenet=(60.0, 25.0, 12.0, 5.0, 3.0),
    cifar=(500.0, 250.0, 100.0, 75.0, 50.0),
)
IMPULSE_NOISE = Corruption(
    apply=impulse_noise,
    imagenet=(0.03, 0.06, 0.09, 0.17, 0.27),
    cifar=(0.01, 0.02, 0.03, 0.05, 0.07),
)
SPECKLE_NOISE = Corruption(
    apply=speckle_noise,
    imagenet=(0.15, 0.2, 0.35, 0.45, 0.6),
    cifar=(0.06, 0.1, 0.12, 0.16, 0.2),
)
