"""Run a model over a split, and measure what its task asks for."""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from tessera.data.dataset import Dataset, Task
from tessera.data.loader import Unreadable, eval_batches
from tessera.data.preprocessing import Preprocessing
from tessera.evaluation.base import Measured
from tessera.evaluation.classify import Result
from tessera.evaluation.multilabel import MultiLabelResult
from tessera.evaluation.regress import RegressionResult

RESULTS: dict[Task, type[Measured]] = {
    "classify": Result,
    "multilabel": MultiLabelResult,
    "regress": RegressionResult,
}


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
    bad_share: float = 0.0,
    on_batch: Callable[[int], None] = lambda images: None,
) -> Measured:
    """Run a model over every image of a split once, in evaluation mode and float32.

    Args:
        bad_share: Share of the images that may be unreadable; they are left out, and named in the
            result.
        on_batch: Called with the number of images done since the last call.

    Raises:
        ImageError: More images cannot be read than that.
        ValueError: The split has no images.
    """
    if not len(data):
        raise ValueError(f"the {split} split has no images to measure\nhint: choose another split")
    was_training = model.training
    model.eval()
    start = time.perf_counter()
    rows, logits = [], []
    unreadable = Unreadable(data, bad_share)
    batches = eval_batches(
        data,
        preprocessing,
        batch_size=batch_size,
        workers=workers,
        device=device,
        unreadable=unreadable,
    )
    try:
        for batch in batches:
            logits.append(model(batch["image"]).float().cpu().numpy())
            rows.append(batch["index"].numpy())
            on_batch(len(rows[-1]))
    finally:
        model.train(was_training)
    if not rows:
        raise ValueError(f"no image of the {split} split can be read")
    places = np.concatenate(rows)
    order = np.argsort(places)
    return RESULTS[data.task](
        split=split,
        class_names=data.class_names,
        logits=np.concatenate(logits)[order],
        labels=data.labels[places[order]],
        seconds=time.perf_counter() - start,
        rows=places[order],
        unreadable=tuple(unreadable.found.values()),
    )
