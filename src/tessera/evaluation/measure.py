"""Run a model over a split, and measure what its task asks for."""

import time
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import nn

from tessera.data.dataset import Dataset, Task
from tessera.data.loader import Batch, Unreadable, eval_batches
from tessera.data.preprocessing import Preprocessing
from tessera.data.sampling import WHOLE, Part
from tessera.devices import gather_from_all, in_lockstep
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
    part: Part = WHOLE,
    on_batch: Callable[[int], None] = lambda images: None,
) -> Measured:
    """Run a model over every image of a split once, in evaluation mode and float32.

    Args:
        bad_share: Share of the images that may be unreadable; they are left out, and named in the
            result.
        part: Which process of how many this is: each answers for some images, and all get the
            measurement of all of them. The model may want all processes to run it together.
        on_batch: Called with the number of images done since the last call.

    Raises:
        ImageError: More images cannot be read than that.
        ValueError: The split has no images.
    """
    if not len(data):
        raise ValueError(f"the {split} split has no images to measure\nhint: choose another split")
    start = time.perf_counter()
    unreadable = Unreadable(data, bad_share)
    batches = eval_batches(
        data,
        preprocessing,
        batch_size=batch_size,
        workers=workers,
        device=device,
        unreadable=unreadable,
        part=part,
    )
    idle = torch.zeros(1, preprocessing.channels, *preprocessing.size, device=device)
    rows, logits = _answers(model, batches, idle, on_batch)
    places, found = _of_all_processes(rows, logits, unreadable)
    if not len(places):
        raise ValueError(f"no image of the {split} split can be read")
    return RESULTS[data.task](
        split=split,
        class_names=data.class_names,
        logits=found,
        labels=data.labels[places],
        seconds=time.perf_counter() - start,
        rows=places,
        unreadable=tuple(unreadable.found.values()),
    )


def _answers(
    model: nn.Module, batches: Iterable[Batch], idle: torch.Tensor, on_batch: Callable[[int], None]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return places and logits, a piece a batch; ``idle`` is what to run while others have more."""
    rows, logits = [], []
    was_training = model.training
    try:
        model.eval()
        for batch in in_lockstep(batches):
            if batch is None:
                model(idle)
                continue
            logits.append(model(batch["image"]).float().cpu().numpy())
            rows.append(batch["index"].numpy())
            on_batch(len(rows[-1]))
    finally:
        model.train(was_training)
    return rows, logits


def _of_all_processes(
    rows: list[np.ndarray], logits: list[np.ndarray], unreadable: Unreadable
) -> tuple[np.ndarray, np.ndarray]:
    """Return the places of all images in order, and what the model answered for them."""
    found = gather_from_all((rows, logits, dict(unreadable.found)))
    for _, _, errors in found:
        unreadable.add(errors)
    places = [piece for theirs, _, _ in found for piece in theirs]
    if not places:
        return np.empty(0, np.int64), np.empty((0, 0), np.float32)
    order = np.argsort(np.concatenate(places))
    answers = [piece for _, theirs, _ in found for piece in theirs]
    return np.concatenate(places)[order], np.concatenate(answers)[order]
