"""Training of the head alone, on features that are computed once."""

import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from tessera.checkpoint.artifact import write_atomically
from tessera.data.loader import Unreadable
from tessera.evaluation.linear_probe import features, fit_head
from tessera.training.run import Run

FEATURES = Path("checkpoints") / "features.npz"


def probe(run: Run) -> None:
    """Fit the head of a run's model, on features that are kept in its folder.

    Raises:
        ImageError: More images cannot be read than the recipe allows.
        ValueError: The data is not of one class an image.
    """
    if run.data.task != "classify":
        raise ValueError(
            "linear-probe fits one class an image, and the labels are not of that kind\n"
            "hint: leave --recipe linear-probe out"
        )
    began = time.perf_counter()
    path = run.folder / FEATURES
    if not path.exists():
        found: dict[str, np.ndarray] = {}
        for name in ("train", "val"):
            found[name], found[f"{name}_rows"] = features(
                run.model,
                run.data[name],
                run.header.preprocessing,
                device=run.device,
                batch_size=run.recipe.data.eval_batch_size,
                workers=run.recipe.data.workers,
                unreadable=Unreadable(run.data[name], run.recipe.data.bad_share),
            )
        write_atomically(path, lambda part: _save_arrays(part, found))
    with np.load(path, allow_pickle=False) as file:
        sides = [
            (file[name], run.data[name].labels[file[f"{name}_rows"]]) for name in ("train", "val")
        ]
    head = fit_head(sides[0], sides[1], len(run.data.class_names))
    linear = run.model.head
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(head.weight))
        linear.bias.copy_(torch.from_numpy(head.bias))
    p = run.progress
    p.seconds, p.images = time.perf_counter() - began, len(run.data["train"])
    run.state.step = run.stop = 1
    result = run.measure("val")
    run.console.print(f"head fitted on frozen features: C={head.strength:g}", highlight=False)
    run.save(result)


def _save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:  # given a name, numpy would add a suffix of its own
        np.savez(file, allow_pickle=False, **arrays)
