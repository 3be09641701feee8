"""Supervised classification with one label an image."""

from torch import Tensor, nn
from torch.nn import functional as F

from tessera.data.loader import Batch
from tessera.objectives.base import Objective


class Classify(Objective):
    """Cross-entropy of the logits (paper, section 4.1).

    Args:
        label_smoothing: Probability mass spread over all classes (Szegedy et al., 2016).
        class_weights: Factor on the loss of every class, with mean 1 over the training images.
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
        logits = self.model(batch["image"])
        target = batch.get("target", batch["label"])
        each = F.cross_entropy(
            logits.float(),
            target,
            weight=self.class_weights,
            label_smoothing=self.label_smoothing,
            reduction="none",  # a weighted mean would not add up over micro-batches
        )
        hits = (logits.argmax(dim=-1) == batch["label"]).float()
        return {"loss": each.mean(), "accuracy": hits.mean()}
