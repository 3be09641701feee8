"""Random numbers of dropout that depend on the image, not on how a batch is cut into parts.

With a key, number j of row i is a hash of (key, i, j). So the same images get the same masks
whether one process sees them all or several see some, at once or in micro-batches. Without a key,
which is what a training loop of one's own has, PyTorch's generator draws them.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

FRACTION = 1 << 24
"""Numbers are multiples of 1 / FRACTION, which float32 holds exactly."""


class Noisy(nn.Module):
    """A module that draws random numbers in training, one row an image."""

    key: Tensor
    """Two numbers that seed this module."""
    rows: Tensor
    """Place in the whole batch of every image that is here."""

    def __init__(self) -> None:
        super().__init__()
        self.is_keyed = False
        for name, size in (("key", 2), ("rows", 0)):  # real ones, even in a model without storage
            zeros = torch.zeros(size, dtype=torch.int32, device="cpu")
            self.register_buffer(name, zeros, persistent=False)

    def uniform(self, x: Float[Tensor, "b *d"], count: int) -> Float[Tensor, "b {count}"]:
        """Return ``count`` numbers in [0, 1) for every image of ``x``."""
        if not self.is_keyed:
            return torch.rand(x.shape[0], count, device=x.device)
        return hashed(self.key, self.rows, count)


class Dropout(Noisy):
    """Dropout (Srivastava et al., 2014): zero with probability ``rate``, else 1 / (1 - rate)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Float[Tensor, "b *d"]) -> Float[Tensor, "b *d"]:
        if not self.training or self.rate == 0:
            return x
        kept = self.uniform(x, x[0].numel()) >= self.rate
        return x * kept.view(x.shape).to(x.dtype).div_(1 - self.rate)


def key_noise(module: nn.Module, seed: int, rows: Int[Tensor, " b"]) -> None:
    """Give every noisy module inside a key of its own, until the next call.

    Args:
        seed: Of the step.
        rows: Place in the whole batch of every image that comes next.
    """
    noisy = [m for m in module.modules() if isinstance(m, Noisy)]
    keys = torch.empty(len(noisy), 2, dtype=torch.int32)
    keys.random_(generator=torch.Generator().manual_seed(seed))
    places = rows.to(torch.int32)
    for part, key in zip(noisy, keys, strict=True):
        part.is_keyed = True
        part.key.copy_(key)
        part.rows = places.to(part.key.device)


def hashed(
    key: Int[Tensor, " two"], rows: Int[Tensor, " b"], count: int
) -> Float[Tensor, "b {count}"]:
    """Return numbers in [0, 1) that are a hash of key, row and column."""
    columns = torch.arange(count, dtype=torch.int32, device=rows.device)
    first = _mix(rows ^ key[0])[:, None]
    bits = _mix(first ^ _mix(columns ^ key[1])[None, :])
    return ((bits >> 8) & (FRACTION - 1)).to(torch.float32) / FRACTION


def _mix(x: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """Scatter the bits of 32-bit integers (the constants are Chris Wellons', lowbias32, 2018)."""
    x = (x ^ ((x >> 16) & 0xFFFF)) * 0x7FEB352D
    x = (x ^ ((x >> 15) & 0x1FFFF)) * -0x7B935975  # 0x846CA68B as a signed number
    return x ^ ((x >> 16) & 0xFFFF)
