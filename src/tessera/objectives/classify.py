"""Supervised classification with one label an image."""

from torch import Tensor, nn
from torch.nn import functional as F

from tessera.data.loader import Batch
from tessera.objectives.base import Objective


class Classify(Objective):
    """Cross-entropy of the logits (paper, section 4.1).

    Args:
        label_smoothing: Probability mass spread over all classes (Szegedy et al., 2016).
    """

    def __init__(self, model: nn.Module, *, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        logits = self.model(batch["image"])
        target = batch.get("target", batch["label"])
        loss = F.cross_entropy(logits.float(), target, label_smoothing=self.label_smoothing)
        hits = (logits.argmax(dim=-1) == batch["label"]).float()
        return {"loss": loss, "accuracy": hits.mean()}
