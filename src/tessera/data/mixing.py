"""Mixup and cutmix: batches in which every image is blended with another one."""

import math

import numpy as np
import torch
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
    """Blend every image with another of the batch (Zhang et al., 2018), one weight a batch.

    Returns:
        Images, and targets with the same weights.
    """
    weight = float(rng.beta(alpha, alpha))
    order = torch.from_numpy(rng.permutation(images.shape[0])).to(images.device)
    return images.lerp(images[order], 1 - weight), targets.lerp(targets[order], 1 - weight)


def cutmix(
    images: Float[Tensor, "b c h w"],
    targets: Float[Tensor, "b k"],
    alpha: float,
    rng: np.random.Generator,
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b k"]]:
    """Replace a box of every image by that of another one (Yun et al., 2019), one box a batch.

    Returns:
        Images, and targets weighted by the areas that are left after the box is cut at the edges.
    """
    height, width = images.shape[-2:]
    side = math.sqrt(1 - float(rng.beta(alpha, alpha)))
    cut_h, cut_w = int(height * side), int(width * side)
    y, x = int(rng.integers(height)), int(rng.integers(width))
    order = torch.from_numpy(rng.permutation(images.shape[0])).to(images.device)
    top, bottom = max(y - cut_h // 2, 0), min(y + cut_h // 2, height)
    left, right = max(x - cut_w // 2, 0), min(x + cut_w // 2, width)
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = images[order][..., top:bottom, left:right]
    share = (bottom - top) * (right - left) / (height * width)
    return mixed, targets.lerp(targets[order], share)
