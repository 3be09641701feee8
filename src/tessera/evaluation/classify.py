"""Measure a classifier on a split of a data set."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import nn

from tessera.data.dataset import Dataset
from tessera.data.loader import eval_batches
from tessera.data.preprocessing import Preprocessing
from tessera.evaluation.metrics import (
    ClassMetrics,
    Interval,
    confusion_matrix,
    macro_f1,
    per_class,
    top_k_hits,
    wilson,
)


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a model answered for every image of a split, and the numbers that follow."""

    split: str
    class_names: tuple[str, ...]
    logits: Float[np.ndarray, "n k"]
    labels: Int[np.ndarray, " n"]
    seconds: float
    """Wall-clock time for reading and answering all images."""

    @property
    def predicted(self) -> Int[np.ndarray, " n"]:
        return self.logits.argmax(axis=1)

    @property
    def probabilities(self) -> Float[np.ndarray, "n k"]:
        shifted = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        return shifted / shifted.sum(axis=1, keepdims=True)

    @property
    def confusion(self) -> Int[np.ndarray, "k k"]:
        return confusion_matrix(self.labels, self.predicted, len(self.class_names))

    @property
    def accuracy(self) -> Interval:
        return wilson(int((self.predicted == self.labels).sum()), len(self.labels))

    @property
    def top5(self) -> Interval | None:
        """Top-5 accuracy; None where there are no more than 5 classes."""
        if len(self.class_names) <= 5:
            return None
        return wilson(top_k_hits(self.logits, self.labels, 5), len(self.labels))

    @property
    def classes(self) -> list[ClassMetrics]:
        return per_class(self.confusion)

    @property
    def macro_f1(self) -> float:
        return macro_f1(self.classes)

    @property
    def loss(self) -> float:
        """Mean cross-entropy of the true classes, in nats."""
        # From logits, since the probability of a class that is far behind rounds to 0.
        shifted = self.logits - self.logits.max(axis=1, keepdims=True)
        own = np.take_along_axis(shifted, self.labels[:, None], axis=1)[:, 0]
        return float((np.log(np.exp(shifted).sum(axis=1)) - own).mean())


@torch.inference_mode()
def measure(
    model: nn.Module,
    data: Dataset,
    preprocessing: Preprocessing,
    *,
    split: str,
    device: torch.device,
    batch_size: int = 256,
    workers: int | None = None,
    on_batch: Callable[[int], None] = lambda images: None,
) -> Result:
    """Run a model over every image of a split once, in evaluation mode and float32.

    Args:
        on_batch: Called with the number of images done since the last call.

    Raises:
        ImageError: An image cannot be read.
        ValueError: The split has no images.
    """
    if not len(data):
        raise ValueError(f"the {split} split has no images to measure\nhint: choose another split")
    was_training = model.training
    model.eval()
    start = time.perf_counter()
    logits = []
    batches = eval_batches(
        data, preprocessing, batch_size=batch_size, workers=workers, device=device
    )
    try:
        for batch in batches:
            logits.append(model(batch["image"]).float().cpu().numpy())
            on_batch(batch["image"].shape[0])
    finally:
        model.train(was_training)
    return Result(
        split=split,
        class_names=data.class_names,
        logits=np.concatenate(logits),
        labels=data.labels,
        seconds=time.perf_counter() - start,
    )
