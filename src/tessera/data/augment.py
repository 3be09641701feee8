"""What is done to training images: random, but a pure function of (seed, epoch, index)."""

import math

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tessera.data.images import RESAMPLING, to_channels
from tessera.data.preprocessing import Preprocessing, to_tensor
from tessera.recipe import Augment


class TrainTransform:
    """Random crop, flip and small affine motions, to the size that evaluation has."""

    def __init__(self, preprocessing: Preprocessing, augment: Augment) -> None:
        self.preprocessing = preprocessing
        self.augment = augment

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> UInt8[Tensor, "c h w"]:
        """Change one image at random.

        Args:
            rng: Made for this image of this epoch; nothing else is drawn from.
        """
        a = self.augment
        if a.crop_scale is None:
            pixels = self.preprocessing.pixels(image)
        else:
            image = to_channels(image, self.preprocessing.channels)
            pixels = self._resized_crop(image, rng)
        if a.flip and rng.random() < a.flip:
            pixels = pixels.flip(-1)
        if a.rotate or a.zoom or a.shift:
            pixels = self._affine(pixels, rng)
        return pixels.contiguous()

    def _resized_crop(self, image: Image.Image, rng: np.random.Generator) -> Tensor:
        """A box of random area and shape, resized: the "Inception crop"."""
        assert self.augment.crop_scale is not None
        box = crop_box(image.size, self.augment.crop_scale, self.augment.crop_ratio, rng)
        pixels = to_tensor(image.crop(box))
        mode = self.preprocessing.interpolation
        if mode == "nearest":
            return F.interpolate(pixels[None], size=self.preprocessing.size, mode=mode)[0]
        return F.interpolate(pixels[None], size=self.preprocessing.size, mode=mode, antialias=True)[
            0
        ]

    def _affine(self, pixels: Tensor, rng: np.random.Generator) -> Tensor:
        """Rotate, zoom and shift about the centre in one resampling; black comes in."""
        a = self.augment
        angle = math.radians(rng.uniform(-a.rotate, a.rotate))
        scale = math.exp(rng.uniform(-1, 1) * math.log1p(a.zoom))
        height, width = pixels.shape[-2:]
        dx, dy = (rng.uniform(-a.shift, a.shift) * side for side in (width, height))
        cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
        cx, cy = width / 2, height / 2  # Pillow puts the centre of the first pixel at 0.5
        inverse = (  # from a pixel of the result to one of the source, in Pillow's order
            *(cos, sin, cx - cos * (cx + dx) - sin * (cy + dy)),
            *(-sin, cos, cy + sin * (cx + dx) - cos * (cy + dy)),
        )
        array = pixels[0].numpy() if pixels.shape[0] == 1 else pixels.permute(1, 2, 0).numpy()
        image = Image.fromarray(array)
        moved = image.transform(
            image.size, Image.Transform.AFFINE, inverse, resample=RESAMPLING["bilinear"]
        )
        return to_tensor(moved)


def crop_box(
    size: tuple[int, int],
    scale: tuple[float, float],
    ratio: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[int, int, int, int]:
    """Draw a box of random area and aspect (Szegedy et al., 2015), as torchvision does.

    Args:
        size: Width and height of the image in pixels.
        scale: Bounds of the box's share of the area.
        ratio: Bounds of width / height, drawn evenly in logarithm.

    Returns:
        Left, top, right and bottom in pixels.
    """
    width, height = size
    for _ in range(10):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    aspect = min(max(width / height, ratio[0]), ratio[1])  # fall back to the largest centre box
    w = min(width, max(1, round(height * aspect)))
    h = min(height, max(1, round(width / aspect)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def mixup(
    images: Float[Tensor, "b c h w"],
    labels: Int[Tensor, " b"],
    num_classes: int,
    alpha: float,
    rng: np.random.Generator,
) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b k"]]:
    """Blend every image with another of the batch (Zhang et al., 2018), one weight a batch.

    Returns:
        Images, and target probabilities with the same weights.
    """
    weight = float(rng.beta(alpha, alpha))
    order = torch.from_numpy(rng.permutation(images.shape[0])).to(images.device)
    targets = F.one_hot(labels, num_classes).to(images.dtype)
    blended = images.lerp(images[order], 1 - weight)
    return blended, targets.lerp(targets[order], 1 - weight)
