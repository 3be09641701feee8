"""Supervised learning of several labels an image, each of which holds or not."""

from torch import Tensor, nn
from torch.nn import functional as F

from tessera.data.loader import Batch
from tessera.objectives.base import Objective


class MultiLabel(Objective):
    """Binary cross-entropy, a mean over images and labels.

    Args:
        label_smoothing: Moves targets from 0 and 1 towards a half by so much of the way.
        class_weights: Factor on the loss of every label where it holds.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        model: nn.Module,
        *,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.model(batch["image"]).float()
        target = batch.get("target", batch["label"].float())
        target = target * (1 - self.label_smoothing) + self.label_smoothing / 2
        loss = F.binary_cross_entropy_with_logits(logits, target, pos_weight=self.class_weights)
        return {"loss": loss}
