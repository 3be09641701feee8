"""Sharpness-aware minimisation: the gradient is taken where the loss near the weights is worst."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def uphill(parameters: Iterable[nn.Parameter], rho: float) -> Iterator[None]:
    """Move parameters by rho g / |g| for a while, and put them back exactly.

    That is the worst point within a ball of radius rho, to first order (Foret et al., 2021,
    equation 2). The norm is that of the whole gradient.

    Args:
        parameters: Those that have a gradient are moved.
        rho: Radius, in units of the weights; greater than 0.
    """
    moved = [p for p in parameters if p.grad is not None]
    gradients = [p.grad for p in moved if p.grad is not None]
    kept = [p.detach().clone() for p in moved]
    with torch.no_grad():
        norm = nn.utils.get_total_norm(gradients)
        for p, gradient in zip(moved, gradients, strict=True):
            p.add_(gradient * (rho / (norm + 1e-12)))
    yield
    with torch.no_grad():
        for p, old in zip(moved, kept, strict=True):
            p.copy_(old)
