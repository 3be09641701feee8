"""A model whose input are pixels: normalisation is its first layer."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Normalised(nn.Module):
    """Logits of pixels in [0, 1], so that a change of n/255 means the same for every model.

    An attack that works on normalised images has another budget in every channel, and leaves the
    range of real images; so attacks, blackened patches and corruptions all act before this.

    Args:
        mean: Subtracted from the pixels, a number a channel, as ``Preprocessing`` has it.
        std: Divides after that.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(tuple(mean)).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(tuple(std)).view(-1, 1, 1))

    def forward(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        return self.model(self.normalise(pixels))

    def normalise(self, pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """Return what the model itself takes."""
        return (pixels - self.mean) / self.std
