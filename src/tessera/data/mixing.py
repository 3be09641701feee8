"""Mixup and cutmix: batches in which every image is blended with another one.

The partner of image i is the i-th from the end. Batches are in random order, so that is as good as
a draw, and the parts of a batch that several processes hold can be cut so that partners meet.
"""

import math

import numpy as np
from jaxtyping import Float
from torch import Tensor

from tessera.recipe import Augment


def mix(
    images: Float[Tensor, "b c h w"],
    targets: Float[Tensor, "b k"],
    augment: Augment,
    rng: np.random.Generator,
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b k"]]:
    """Apply mixup or cutmix, or nothing, as the recipe says.

    Args:
        targets: Probabilities, labels that hold, or numbers; they are blended in proportion.
        rng: Made for this step; nothing else is drawn from.
    """
    if augment.mix_prob < 1 and rng.random() >= augment.mix_prob:
        return images, targets
    both = augment.mixup and augment.cutmix
    if augment.cutmix and (not both or rng.random() < augment.mix_switch):
        return cutmix(images, targets, augment.cutmix, rng)
    if augment.mixup:
        return mixup(images, targets, augment.mixup, rng)
    return images, targets


def mixup(
    images: Float[Tensor, "b c h w"],
    targets: Float[Tensor, "b k"],
    alpha: float,
    rng: np.random.Generator,
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b k"]]:
    """Blend every image with its partner (Zhang et al., 2018), one weight a batch.

    Returns:
        Images, and targets with the same weights.
    """
    weight = float(rng.beta(alpha, alpha))
    return images.lerp(images.flip(0), 1 - weight), targets.lerp(targets.flip(0), 1 - weight)


def cutmix(
    images: Float[Tensor, "b c h w"],
    targets: Float[Tensor, "b k"],
    alpha: float,
    rng: np.random.Generator,
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b k"]]:
    """Replace a box of every image by that of its partner (Yun et al., 2019), one box a batch.

    Returns:
        Images, and targets weighted by the areas that are left after the box is cut at the edges.
    """
    height, width = images.shape[-2:]
    side = math.sqrt(1 - float(rng.beta(alpha, alpha)))
    cut_h, cut_w = int(height * side), int(width * side)
    y, x = int(rng.integers(height)), int(rng.integers(width))
    top, bottom = max(y - cut_h // 2, 0), min(y + cut_h // 2, height)
    left, right = max(x - cut_w // 2, 0), min(x + cut_w // 2, width)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images.flip(0)[..., top:bottom, left:right]
    share = (bottom - top) * (right - left) / (height * width)
    return mixed, targets.lerp(targets.flip(0), share)
