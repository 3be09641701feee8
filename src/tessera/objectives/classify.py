"""Supervised classification with one label an image."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tessera.data.loader import Batch
from tessera.objectives.base import Objective

Loss = Literal["cross-entropy", "bce"]


class LabelLoss(nn.Module):
    """Cross-entropy of logits (paper, section 4.1), or binary cross-entropy for each class.

    The binary one is summed over the classes, as Beyer et al. (2020, "Are we done with ImageNet?")
    and Steiner et al. (2021) do it.

    Args:
        kind: Which of them.
        label_smoothing: Probability mass spread over all classes (Szegedy et al., 2016).
        class_weights: Factor on the loss of every class, with mean 1 over the training images.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        kind: Loss = "cross-entropy",
        *,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.kind: Loss = kind
        self.label_smoothing = label_smoothing
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(self, logits: Float[Tensor, "b k"], batch: Batch) -> dict[str, Tensor]:
        """Return loss and accuracy, means over the batch."""
        target = batch.get("target", batch["label"])
        each = LOSSES[self.kind](logits.float(), target, self.class_weights, self.label_smoothing)
        hits = (logits.argmax(dim=-1) == batch["label"]).float()
        return {"loss": each.mean(), "accuracy": hits.mean()}


class Classify(Objective):
    """What the labels say, and nothing else."""

    def __init__(self, model: nn.Module, labels: LabelLoss | None = None) -> None:
        super().__init__()
        self.model = model
        self.labels = labels or LabelLoss()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        numbers: dict[str, Tensor] = self.labels(self.model(batch["image"]), batch)
        return numbers


def _softmax(logits: Tensor, target: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
    """Return the loss of every image: a weighted mean would not add up over micro-batches."""
    return F.cross_entropy(
        logits, target, weight=weights, label_smoothing=smoothing, reduction="none"
    )


def _binary(logits: Tensor, target: Tensor, weights: Tensor | None, smoothing: float) -> Tensor:
    count = logits.shape[1]
    wanted = target if target.ndim == 2 else F.one_hot(target, count).float()
    wanted = wanted * (1 - smoothing) + smoothing / count
    each = F.binary_cross_entropy_with_logits(logits, wanted, weight=weights, reduction="none")
    return each.sum(dim=1)


LOSSES = {"cross-entropy": _softmax, "bce": _binary}
"""Loss of every image, by the names of a recipe."""
