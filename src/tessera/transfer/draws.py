"""The data of a suite: found before any work begins, and the images that each seed draws."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from PIL import Image

from tessera.data.dataset import Dataset
from tessera.data.sources import find_data
from tessera.data.stored import Images
from tessera.evaluation.few_shot import draw_shots
from tessera.transfer.suite import Suite, Task


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """The images of a task."""

    task: Task
    train: Dataset
    val: Dataset | None
    """The data's own validation split, unless that is what is measured."""
    test: Dataset
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> dict[str, str]:
        """What tells these images from any others."""
        parts = {"train": self.train, "val": self.val, self.task.split: self.test}
        return {name: part.fingerprint() for name, part in parts.items() if part is not None}


class Draw(NamedTuple):
    """Images to train on and to tune on: places in the training and in the tuning source."""

    train: Dataset
    tuning: Dataset


def find_tasks(suite: Suite) -> list[TaskData]:
    """Find the data of every task, and make sure that every draw can be made.

    Raises:
        ValueError: Some cannot; one message names every such task.
    """
    found, problems = [], []
    for task in suite.tasks:
        try:
            data = _find(task)
            for seed in suite.seeds:
                _check_draw(data, suite, seed)
            found.append(data)
        except ValueError as error:
            problems.append(f"task {task.name}: {error}")
    if problems:
        raise ValueError("\n".join(problems))
    return found


def _find(task: Task) -> TaskData:
    splits = find_data(task.data)
    if splits.task != "classify":
        raise ValueError(f"{task.data} is labelled for {splits.task}, and transfer classifies")
    if task.split == "train":
        raise ValueError("split = 'train' is trained on\nhint: name the split to measure")
    test = splits[task.split]
    val = splits.splits.get("val") if task.split != "val" else None
    return TaskData(task=task, train=splits["train"], val=val, test=test, notes=splits.notes)


def _check_draw(data: TaskData, suite: Suite, seed: int) -> None:
    if suite.method == "few-shot":
        counts = data.train.class_counts()
        shots = suite.few_shot.shots
        if counts.min() < shots:
            scarce = data.train.class_names[int(counts.argmin())]
            raise ValueError(
                f"{shots} shots, and class {scarce!r} has {counts.min()} training images\n"
                f"hint: set shots = {counts.min()} in [few-shot], or add images"
            )
        return
    draw = draw_images(data, suite, seed)
    if len(np.unique(draw.train.labels)) < 2:
        raise ValueError(
            f"the {suite.train_images} images of seed {seed} are all of one class\n"
            "hint: set a larger train_images"
        )


def draw_images(data: TaskData, suite: Suite, seed: int) -> Draw:
    """Draw the images of one seed: uniformly, as VTAB does, and no group on both sides.

    Those to tune on come from the data's own validation split where it has one.

    Raises:
        ValueError: There are too few.
    """
    order = _shuffled(data.train, seed)
    chosen = order[: suite.train_images]
    source = data.train if data.val is None else data.val
    rest = order[suite.train_images :] if data.val is None else _shuffled(data.val, seed)
    if data.val is None and data.train.groups is not None:
        rest = rest[~np.isin(data.train.groups[rest], data.train.groups[chosen])]
    tuning = rest[: suite.val_images]
    if len(chosen) < suite.train_images or len(tuning) < suite.val_images:
        wanted = f"{suite.train_images} + {suite.val_images}"
        have = f"{len(data.train)} training images"
        have += "" if data.val is None else f" and {len(data.val)} for validation"
        raise ValueError(
            f"{wanted} images are wanted, and {data.task.data} has {have}\n"
            "hint: set smaller train_images and val_images in the suite"
        )
    return Draw(data.train.subset(np.sort(chosen)), source.subset(np.sort(tuning)))


class JoinedImages(Images):
    """The images of one source, and behind them those of another."""

    def __init__(self, first: Images, second: Images) -> None:
        self.first, self.second = first, second
        self.in_memory = first.in_memory and second.in_memory

    def _at(self, index: int) -> tuple[Images, int]:
        size = len(self.first)
        return (self.first, index) if index < size else (self.second, index - size)

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def name(self, index: int) -> str:
        images, place = self._at(index)
        return images.name(place)

    def where(self, index: int) -> str:
        images, place = self._at(index)
        return images.where(place)

    def fingerprint(self, index: int) -> bytes:
        images, place = self._at(index)
        return images.fingerprint(place)

    def open(self, index: int) -> Image.Image:
        images, place = self._at(index)
        return images.open(place)

    def encoded(self, index: int) -> bytes | None:
        images, place = self._at(index)
        return images.encoded(place)


def join(draw: Draw) -> Dataset:
    """Return both parts as one data set, those to tune on last."""
    one, two = draw
    same = one.images is two.images
    images = one.images if same else JoinedImages(one.images, two.images)
    behind = two.rows if same else two.rows + len(one.images)
    return Dataset(
        images,
        np.concatenate([one.rows, behind]),
        np.concatenate([one.labels, two.labels]),
        one.class_names,
    )


def shot_rows(data: TaskData, suite: Suite) -> Int[np.ndarray, " n"]:
    """Return every training image that some seed of the few-shot method draws, sorted."""
    draws = [
        draw_shots(data.train.labels, len(data.train.class_names), suite.few_shot.shots, seed)
        for seed in suite.seeds
    ]
    return np.unique(np.concatenate(draws))


def _shuffled(data: Dataset, seed: int) -> Int[np.ndarray, " n"]:
    """All images in an order that depends on the seed, those of a group one after another."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(data))
    if data.groups is None:
        return order
    _, numbers = np.unique(data.groups, return_inverse=True)
    place = rng.permutation(numbers.max() + 1)
    return order[np.argsort(place[numbers[order]], kind="stable")]
