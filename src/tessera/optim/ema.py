"""An average of the weights over the steps of training."""

import torch
from torch import Tensor, nn


class Ema:
    """Exponential moving average of a model's weights (Polyak and Juditsky, 1992).

    Early on the decay is (1 + t) / (10 + t), so that the first weights are soon forgotten.

    Args:
        decay: Share of the average that a step keeps, in the long run.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.average = {name: t.detach().clone() for name, t in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model by one step."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        for name, tensor in model.state_dict().items():
            self.average[name].lerp_(tensor, 1 - decay)

    def state(self) -> dict[str, int | dict[str, Tensor]]:
        """Return all that ``restore`` needs."""
        return {"steps": self.steps, "average": self.average}

    def restore(self, steps: int, average: dict[str, Tensor]) -> None:
        """Go on from what ``state`` returned."""
        self.steps, self.average = steps, average
