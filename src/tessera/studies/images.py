"""Which images every training of a study sees."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from tessera.data.dataset import Dataset
from tessera.data.sources import exclude, find_data
from tessera.data.splits import DataSplits
from tessera.recipe import Recipe

ROWS = "images.npz"
"""Rows of the source that each split has."""


def draw_nested(labels: Int[np.ndarray, " n"], count: int, seed: int) -> Int[np.ndarray, " m"]:
    """Draw images with the same mixture of classes as all, sorted.

    Fewer images of the same seed are some of the same images. Within a class the order is drawn;
    image i of n of its class comes at place (i + 1/2) / n, and those with the first places are
    taken. Every class keeps one as long as there are as many images as classes.

    Raises:
        ValueError: Not so many are there.
    """
    if not 0 < count <= len(labels):
        raise ValueError(f"{count} of {len(labels)} images cannot be drawn")
    generator = np.random.default_rng(seed)
    place = np.empty(len(labels))
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
        place[members[0]] = -1.0  # a class of few must not wait until half of all are taken
    order = np.lexsort((generator.random(len(labels)), place))
    return np.sort(order[:count])


def write_rows(path: Path, splits: DataSplits) -> None:
    """Write down which images each split has, so that the cut is made only once."""
    rows: dict[str, Any] = {name: data.rows for name, data in splits.splits.items()}
    np.savez(path, **rows)


def read_splits(spec: str, recipe: Recipe, path: Path, *, count: int, share: int) -> DataSplits:
    """Find the images again, and draw those that a training sees.

    Args:
        path: What ``write_rows`` wrote.
        count: Images drawn from the training split.
        share: Images drawn from these, with the same seed.
    """
    found = find_data(spec)
    if recipe.data.exclude is not None:
        found = exclude(found, recipe.data.exclude)
    with np.load(path, allow_pickle=False) as rows:
        splits = {
            name: _of_rows(found.splits.get(name, found["train"]), rows[name]) for name in rows
        }
    train = splits["train"]
    for wanted in (count, share):
        if wanted < len(train):
            train = train.subset(draw_nested(train.labels, wanted, recipe.seed))
    return DataSplits(spec, {**splits, "train": train})


def _of_rows(data: Dataset, rows: Int[np.ndarray, " m"]) -> Dataset:
    place = {int(row): i for i, row in enumerate(data.rows)}
    return data.subset(np.array([place[int(row)] for row in rows], dtype=np.int64))
