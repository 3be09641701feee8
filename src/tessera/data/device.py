"""Augmentation of whole batches on the training device, for processors that cannot keep up.

The same motions are drawn from the same numbers as in ``augment``; only the resampling differs: one
bilinear look-up does crop, flip and moves together.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tessera.data.augment import Motion, draw_motion
from tessera.data.images import upright
from tessera.data.policies import random_erasing
from tessera.data.preprocessing import Preprocessing
from tessera.recipe import Augment

FINER = 1.5
"""How much finer than the result images are sent to the device, since crops magnify them."""


class WholeImage:
    """What workers do for a batch that is augmented on the device: decode, and press into a size.

    Where nothing is cropped, an image is prepared as for evaluation.
    """

    def __init__(self, preprocessing: Preprocessing, augment: Augment) -> None:
        self.preprocessing = preprocessing
        if augment.crop_scale is not None:
            height, width = (math.ceil(side * FINER) for side in preprocessing.size)
            self.preprocessing = Preprocessing(
                size=(height, width),
                channels=preprocessing.channels,
                crop="squash",
                interpolation=preprocessing.interpolation,
                mean=preprocessing.mean,
                std=preprocessing.std,
                background=preprocessing.background,
            )

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> UInt8[Tensor, "c h w"]:
        """Prepare one image; nothing is drawn."""
        return self.preprocessing.pixels(upright(image))


class DeviceTransform:
    """Crop, flip, move and erase a batch, to the size that evaluation has."""

    def __init__(self, preprocessing: Preprocessing, augment: Augment) -> None:
        self.preprocessing = preprocessing
        self.augment = augment

    def __call__(
        self,
        pixels: UInt8[Tensor, "b c h w"],
        sizes: Sequence[tuple[int, int]],
        rngs: Sequence[np.random.Generator],
    ) -> Float[Tensor, "b c h2 w2"]:
        """Return augmented and normalised images.

        Args:
            pixels: Whole images, on the device.
            sizes: Width and height that each had before, on which the crop depends.
            rngs: One an image.
        """
        motions = [draw_motion(s, self.augment, rng) for s, rng in zip(sizes, rngs, strict=True)]
        height, width = self.preprocessing.size
        if any(m.box or m.flip or m.moves for m in motions) or pixels.shape[-2:] != (height, width):
            pairs = zip(motions, sizes, strict=True)
            maps = np.stack([inverse_map(m, s, height / width) for m, s in pairs])
            pixels = _look_up(pixels.float(), torch.from_numpy(maps).float(), (height, width))
        if self.augment.erasing:
            share = self.augment.erasing
            mean, std = self.preprocessing.mean, self.preprocessing.std
            erased = [
                random_erasing(image, rng, share, mean=mean, std=std)
                for image, rng in zip(pixels, rngs, strict=True)
            ]
            pixels = torch.stack(erased)
        return self.preprocessing.normalise(pixels)


def inverse_map(
    motion: Motion, size: tuple[int, int], aspect: float = 1.0
) -> Float[np.ndarray, "2 3 3"]:
    """Return two maps of points of the result, both as matrices over (x, y, 1) in [0, 1].

    The first leads to the cropped image, outside of which all is black; the second on to the whole.

    Args:
        size: Width and height of the image at full size, which the box refers to.
        aspect: Height over width of the result.
    """
    cos, sin = math.cos(motion.angle) / motion.scale, math.sin(motion.angle) / motion.scale
    dx, dy = motion.shift
    centre, back = np.eye(3), np.eye(3)
    centre[:2, 2] = -0.5 - dx, -0.5 - dy
    back[:2, 2] = 0.5
    turn = np.array([[cos, sin * aspect, 0], [-sin / aspect, cos, 0], [0, 0, 1.0]])
    to_crop = back @ turn @ centre
    left, top, right, bottom = motion.box or (0, 0, *size)
    x, y = (right - left) / size[0], (bottom - top) / size[1]
    to_whole = np.array([[x, 0, left / size[0]], [0, y, top / size[1]], [0, 0, 1]])
    if motion.flip:
        to_whole = to_whole @ np.array([[-1, 0, 1], [0, 1, 0], [0, 0, 1.0]])
    return np.stack([to_crop, to_whole])


def _look_up(images: Tensor, maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Read every pixel of the results where its map says, as bytes."""
    height, width = size
    maps = maps.to(images.device)
    ys, xs = (torch.arange(side, device=images.device) + 0.5 for side in (height, width))
    grid = torch.stack(
        [
            (xs / width).expand(height, width),
            (ys / height)[:, None].expand(height, width),
            torch.ones(height, width, device=images.device),
        ]
    )
    cropped = torch.einsum("bij,jhw->bihw", maps[:, 0], grid)
    whole = torch.einsum("bij,bjhw->bhwi", maps[:, 1], cropped)[..., :2]
    found = F.grid_sample(
        images, whole * 2 - 1, mode="bilinear", padding_mode="border", align_corners=False
    )
    inside = ((cropped[:, :2] >= 0) & (cropped[:, :2] <= 1)).all(dim=1, keepdim=True)
    return torch.where(inside, found.round(), torch.zeros((), device=found.device)).byte()
