"""An average of the weights over the steps of training."""

import torch
from torch import nn


class Average:
    """Average of a model's weights over steps (Polyak and Juditsky, 1992).

    With a decay it is exponential. Early on that decay is (1 + t) / (10 + t), so that the first
    weights are soon forgotten. Without one it is the plain mean.

    Args:
        decay: Share of the average that a step keeps, in the long run; None for the plain mean.
        start: Step from which on weights count, from 0.
    """

    def __init__(self, model: nn.Module, decay: float | None, *, start: int = 0) -> None:
        self.decay, self.start = decay, start
        self.steps = 0
        self.weights = {name: t.detach().clone() for name, t in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move the average towards the model after a step, counted from 0."""
        if step < self.start:
            return
        mean = self.steps / (1 + self.steps)
        keep = mean if self.decay is None else min(self.decay, _early(self.steps))
        self.steps += 1
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                self.weights[name].lerp_(tensor, 1 - keep)
            else:  # how many batches a batch norm has seen
                self.weights[name].copy_(tensor)


def _early(steps: int) -> float:
    return (1 + steps) / (10 + steps)
