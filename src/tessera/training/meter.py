"""Means of what the steps between two looks at the validation images report."""

import torch
from torch import Tensor


class Meter:
    """Sums named scalars on the device, which is waited for only when means are asked for."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.sums: dict[str, Tensor] = {}
        self.steps = 0
        self._first_bad = torch.full((), -1, device=self.device)

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Add the numbers of a step."""
        for name, value in metrics.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        bad = ~torch.isfinite(metrics["loss"].detach())
        self._first_bad = torch.where(bad & (self._first_bad < 0), self.steps, self._first_bad)
        self.steps += 1

    def means(self) -> dict[str, float]:
        """Return the mean of every number over the steps so far."""
        return {name: float(value) / self.steps for name, value in self.sums.items()}

    def steps_since_bad(self) -> int:
        """Return how many steps ago the loss was first not finite, the last step being 1."""
        return self.steps - int(self._first_bad)
