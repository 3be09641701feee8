"""Images of four easy classes, and a small ViT for them."""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


@cache
def trained_model() -> Pixels:
    """Return a model that is right about nearly all of them."""
    model = Pixels()
    pixels, labels = quadrants(256, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(60):
        rows = torch.arange(64) + 64 * (step % 4)
        optimizer.zero_grad()
        F.cross_entropy(model(pixels[rows]), labels[rows]).backward()
        optimizer.step()
    return model.eval()
