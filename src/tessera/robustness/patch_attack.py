"""A square of free pixels that is made to mislead: one for all images, or one for each.

Naseer et al. (2021), section 3.4, with the universal patch of Brown et al. (2017), "Adversarial
Patch", and FGSM and PGD for the patch of a single image.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from tessera.robustness.attacks import ascend, uniform

AREAS = (0.05, 0.15, 0.25)
"""Share of the image that the patch covers."""

RUNS = 5
"""Universal patches that are made, each from another start, and averaged."""

PGD_STEPS = 5
"""Of the patch of a single image; FGSM takes one."""

STEPS, BATCH, STEP = 50, 32, 0.1
"""A universal patch: gradient steps, images of each, and the first step's size, which falls
linearly to 0. The paper does not state its own."""


def patch_side(area: float, size: tuple[int, int]) -> int:
    """Return the side, in pixels, of the square that covers a share of the image.

    Raises:
        ValueError: The share is not in (0, 1], or such a square is longer than the image.
    """
    side = max(1, round(math.sqrt(area * size[0] * size[1]))) if 0 < area <= 1 else 0
    if not 1 <= side <= min(size):
        raise ValueError(
            f"a patch of {area:g} of an image of {size[0]}x{size[1]} pixels is no square within it"
        )
    return side


def draw_corners(
    size: tuple[int, int], side: int, rngs: Sequence[np.random.Generator]
) -> Int[Tensor, "b 2"]:
    """Draw where the upper left corner of each image's patch is, uniformly."""
    ends = [length - side + 1 for length in size]
    return torch.tensor([[int(rng.integers(end)) for end in ends] for rng in rngs])


def place_patch(
    pixels: Float[Tensor, "b c h w"],
    patch: Float[Tensor, "#b c s s"],
    corners: Int[Tensor, "b 2"],
) -> Float[Tensor, "b c h w"]:
    """Lay a patch over each image; a gradient flows back into the patch.

    Args:
        patch: One for all images, or one for each.
        corners: Row and column of its upper left pixel.
    """
    batch, _, height, width = pixels.shape
    side = patch.shape[-1]
    rows, cols = _within(corners.to(pixels.device), height, width)
    index = (
        torch.arange(batch, device=pixels.device)
        if patch.shape[0] > 1
        else torch.zeros(batch, dtype=torch.long, device=pixels.device)
    )
    spread = patch[
        index[:, None, None],
        :,
        rows.clamp(0, side - 1)[:, :, None],
        cols.clamp(0, side - 1)[:, None, :],
    ]  # b h w c
    return torch.where(
        inside_patch(corners, side, (height, width)).to(pixels.device),
        spread.permute(0, 3, 1, 2),
        pixels,
    )


def inside_patch(
    corners: Int[Tensor, "b 2"], side: int, size: tuple[int, int]
) -> Bool[Tensor, "b 1 h w"]:
    """Return which pixels of each image its patch covers."""
    rows, cols = _within(corners, *size)
    down, across = ((part >= 0) & (part < side) for part in (rows, cols))
    return (down[:, :, None] & across[:, None, :])[:, None]


def universal_patch(
    model: nn.Module,
    pixels: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    rng: np.random.Generator,
    *,
    side: int,
    steps: int = STEPS,
    target: int | None = None,
) -> Float[Tensor, "1 c s s"]:
    """Make one patch that misleads on many images, wherever it lies.

    Begins with noise and climbs the cross-entropy of random images, the patch at random places, by
    signs of the gradient.

    Args:
        pixels: Images to learn from; accuracy is then measured on others.
        target: Class that the model shall answer; None for any but the true one.
    """
    channels, height, width = pixels.shape[1:]
    noise = rng.random((1, channels, side, side), dtype=np.float32)
    patch = torch.from_numpy(noise).to(pixels)
    if target is not None:
        labels = torch.full_like(labels, target)
    sign = 1.0 if target is None else -1.0
    for number in range(steps):
        rows = torch.from_numpy(rng.permutation(pixels.shape[0])[:BATCH])
        corners = draw_corners((height, width), side, [rng] * rows.shape[0])
        with torch.enable_grad():
            patch.requires_grad_()
            shown = place_patch(pixels[rows.to(pixels.device)], patch, corners)
            loss = F.cross_entropy(model(shown), labels[rows.to(labels.device)])
            (gradient,) = torch.autograd.grad(loss, patch)
        size = sign * STEP * (1 - number / steps)
        patch = (patch.detach() + size * gradient.sign()).clamp(0.0, 1.0)
    return patch.detach()


def patch_of_image(
    model: nn.Module,
    pixels: Float[Tensor, "b c h w"],
    labels: Int[Tensor, " b"],
    generators: Sequence[torch.Generator],
    corners: Int[Tensor, "b 2"],
    *,
    side: int,
    steps: int,
    targeted: bool = False,
) -> Float[Tensor, "b c h w"]:
    """Change the pixels under the patch of every image, as far as [0, 1] goes.

    One step is FGSM: from the image, a step of 1. More are PGD: from noise under the patch, steps
    of 1/4, which is eps / 4 for the whole range.

    Args:
        labels: The true classes, or with ``targeted`` those that the model shall answer.
        generators: Random numbers of every image.
    """
    height, width = pixels.shape[-2:]
    inside = inside_patch(corners, side, (height, width)).to(pixels.device)
    start = pixels
    if steps > 1:
        start = torch.where(inside, uniform(pixels.shape, generators, pixels), pixels)
    step = 1.0 if steps == 1 else 0.25
    return ascend(
        model,
        pixels,
        labels,
        start=start,
        eps=1.0,
        step=step,
        steps=steps,
        inside=inside,
        targeted=targeted,
    )


def _within(corners: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Rows and columns of all pixels, counted from each image's corner."""
    rows = torch.arange(height, device=corners.device) - corners[:, :1]
    cols = torch.arange(width, device=corners.device) - corners[:, 1:]
    return rows, cols
