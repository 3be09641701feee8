"""Convolutions whose kernels are standardised, and the norms that go with them."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 32
"""Groups of every GroupNorm in BiT (Kolesnikov et al., 2019, section 3)."""


class Epsilons(NamedTuple):
    """Where a code adds its small numbers: w / (sqrt(var + inside) + outside)."""

    inside: float
    outside: float
    norm: float
    """Added to the variance in GroupNorm."""


EPSILONS: dict[str, Epsilons] = {
    "paper": Epsilons(0.0, 1e-5, 1e-6),  # google-research/vision_transformer, models_resnet.py
    "bit": Epsilons(1e-10, 0.0, 1e-5),  # google-research/big_transfer
    "timm": Epsilons(1e-8, 0.0, 1e-5),  # timm, and transformers after it
}
"""The published codes differ in nothing else, but by enough to show in the fourth digit."""


def standardise(
    weight: Float[Tensor, "o i kh kw"], epsilons: Epsilons
) -> Float[Tensor, "o i kh kw"]:
    """Give every filter mean 0 and standard deviation 1 over its inputs and places.

    Qiao et al. (2019), "Weight Standardization"; the variance is the biased one.
    """
    variance, mean = torch.var_mean(weight, dim=(1, 2, 3), correction=0, keepdim=True)
    return (weight - mean) / ((variance + epsilons.inside).sqrt() + epsilons.outside)


class StdConv2d(nn.Conv2d):
    """A convolution without bias that standardises its kernel whenever it runs.

    Args:
        same: Pad as XLA's SAME does, by the size of the input and the odd pixel at the end;
            otherwise by half the kernel on either side, which differs where the stride is 2.
        form: A key of ``EPSILONS``.
    """

    def __init__(
        self,
        in_chans: int,
        out_chans: int,
        kernel_size: int,
        *,
        stride: int = 1,
        same: bool = False,
        form: str = "paper",
    ) -> None:
        padding = 0 if same else kernel_size // 2
        super().__init__(in_chans, out_chans, kernel_size, stride, padding, bias=False)
        self.same = same
        self.epsilons = EPSILONS[form]

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        if self.same:
            x = pad_same(x, self.kernel_size[0], self.stride[0])
        weight = standardise(self.weight, self.epsilons)
        return F.conv2d(x, weight, None, self.stride, self.padding)


def pad_same(
    x: Float[Tensor, "b c h w"], kernel_size: int, stride: int, value: float = 0.0
) -> Float[Tensor, "b c h2 w2"]:
    """Pad so that ceil(side / stride) windows fit, the odd pixel at the bottom and the right."""
    pads: list[int] = []
    for side in (x.shape[-1], x.shape[-2]):
        total = max((-(-side // stride) - 1) * stride + kernel_size - side, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads, value=value)


def make_group_norm(channels: int, form: str) -> nn.GroupNorm:
    """Build GroupNorm (Wu and He, 2018) with BiT's 32 groups."""
    return nn.GroupNorm(GROUPS, channels, eps=EPSILONS[form].norm)
