"""Images of four easy classes, and a small ViT for them."""

import torch
from torch import Tensor, nn

from tessera.models.variants import parse
from tessera.models.vit import ViT


def quadrants(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images of 16 pixels, one quarter of which is brighter: its number is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    pixels = 0.4 * torch.rand(count, 3, 16, 16, generator=generator)
    for image, label in zip(pixels, labels.tolist(), strict=True):
        top, left = 8 * (label // 2), 8 * (label % 2)
        image[:, top : top + 8, left : left + 8] += 0.25
    return pixels, labels


class Pixels(nn.Module):
    """A ViT behind a normalisation of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.vit = ViT(parse("vit_mu_patch4", img_size=16, num_classes=4))

    def forward(self, x: Tensor) -> Tensor:
        return self.vit((x - 0.5) / 0.5)
