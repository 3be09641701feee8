"""Supervised learning of a number an image."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tessera.data.loader import Batch
from tessera.objectives.base import Objective


class Regress(Objective):
    """Mean squared error of numbers that are standardised while the model learns.

    Args:
        mean: Of the training labels.
        std: Their standard deviation; greater than 0.
    """

    def __init__(self, model: nn.Module, *, mean: float, std: float) -> None:
        super().__init__()
        self.model = model
        self.mean, self.std = mean, std
        self.loss_unit = std**2

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        answer = self.model(batch["image"]).float()[:, 0]
        target = batch["target"][:, 0] if "target" in batch else batch["label"]
        error = F.mse_loss(answer, (target.float() - self.mean) / self.std)
        return {"loss": error}

    @torch.no_grad()
    def finish(self) -> None:
        """Fold mean and deviation into the head, whose answers then have the labels' unit."""
        head = self.model.head
        assert isinstance(head, nn.Linear)
        head.weight.mul_(self.std)
        head.bias.mul_(self.std).add_(self.mean)
