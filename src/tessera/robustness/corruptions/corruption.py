"""What one corruption is: a function and two published tables of its levels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

Picture = Float32[np.ndarray, "h w 3"]
"""RGB in [0, 1]."""

Apply = Callable[[Picture, Any, float, np.random.Generator], Picture]
"""Picture, level, scale of lengths, generator -> picture, which may leave [0, 1]."""

CIFAR_SIDE, IMAGENET_SIDE = 32, 224
"""Short sides, in pixels, that the two tables were published for."""
CIFAR_UP_TO = 64
"""Longest short side, in pixels, that takes the table of CIFAR-C."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Corruption:
    """One corruption at five severities, for small images and for others."""

    apply: Apply
    imagenet: tuple[Any, ...]
    """Levels by severity, for images of 224 pixels."""
    cifar: tuple[Any, ...]
    """Levels by severity, for images of 32 pixels."""

    def at(self, severity: int, side: int) -> tuple[Any, float]:
        """Return the level for images of a short side in pixels, and the scale of its lengths."""
        if side <= CIFAR_UP_TO:
            return self.cifar[severity - 1], side / CIFAR_SIDE
        return self.imagenet[severity - 1], side / IMAGENET_SIDE
