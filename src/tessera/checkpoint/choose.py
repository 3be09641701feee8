"""Which published weights to start from, when the user leaves it to us."""

import os

from huggingface_hub import constants

from tessera.checkpoint.rules import CheckpointError
from tessera.checkpoint.weights import Weights, is_cached, published

CANDIDATES = {
    "tiny": "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "small": "vit_small_patch16_224.augreg_in21k_ft_in1k",
    "base": "vit_base_patch16_224.augreg2_in21k_ft_in1k",
}
"""Permissively licensed, supervised on ImageNet-21k, smallest first."""


def choose(images: int, device: str, *, offline: bool = False) -> tuple[Weights, str]:
    """Pick weights for so many training images on such a device, and say why.

    A GPU affords the base model; so many images on a processor only the tiny one. Without network
    the largest that is in the cache and no larger is taken, else the smallest that is there.

    Raises:
        CheckpointError: None is in the cache, and none may be fetched.
    """
    cores = os.cpu_count() or 1
    if device == "cuda":
        size, why = "base", "a GPU affords it"
    elif device == "mps" or (cores >= 8 and images < 20_000):
        size, why = "small", f"a fair size for {images:,} images on this machine"
    else:
        size, why = "tiny", f"the size that {cores} cores train in minutes"
    records = {name: published()[weights] for name, weights in CANDIDATES.items()}
    if not offline and not constants.HF_HUB_OFFLINE:
        return records[size], why
    order = list(CANDIDATES)
    wanted = order.index(size)
    for name in (*reversed(order[: wanted + 1]), *order[wanted + 1 :]):
        if is_cached(records[name]):
            return records[name], f"{why}, and in the cache" if name == size else "in the cache"
    raise CheckpointError(
        "no pretrained weights are in the cache, and fetching is off\n"
        "hint: give a file with --weights, allow the network, or say --weights none to train from "
        "scratch, which needs many thousands of images"
    )
