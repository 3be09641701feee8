"""What every objective is to the training loop."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from tessera.data.loader import Batch


class Objective(nn.Module, ABC):
    """What is being learnt: labels, masked pixels, a teacher's view.

    Owns the encoder and every head that it adds, so that its parameters are what is trained.
    """

    loss_unit: float = 1.0
    """Factor from the loss that is followed to the one that a measurement reports."""

    @abstractmethod
    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return named scalars, means over the batch.

        The gradient of ``"loss"`` is followed; the rest is logged.
        """

    def finish(self) -> None:
        """Change the weights in place so that the model answers as it is to be used."""

    def after_step(self, step: int) -> None:
        """Move what no gradient moves, such as a teacher."""
