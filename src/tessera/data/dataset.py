"""Labelled images as one type, whatever they come from."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from PIL import Image

from tessera.data.stored import Images

Task = Literal["classify", "multilabel", "regress"]
"""What is asked of an image: its one class, all labels that hold, or a number."""

TASKS: tuple[Task, ...] = get_args(Task)


@dataclass(frozen=True)
class Dataset:
    """Some of the images of a source, with their labels.

    Args:
        rows: Which images of the source, as indices.
        labels: One entry a row: for ``classify`` a class number into ``class_names``; for
            ``multilabel`` a row of booleans, one a class; for ``regress`` a float.
        class_names: What the outputs of a model mean; for ``regress`` the name of the number.
        groups: Images of one number come from one thing, such as a patient, and belong on one side
            of a split; None where the source does not say.
    """

    images: Images
    rows: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    task: Task = "classify"
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> Image.Image:
        """Return one image, upright, of any size and mode.

        Raises:
            ImageError: It cannot be read.
        """
        return self.images.read(int(self.rows[index]))

    def open(self, index: int) -> Image.Image:
        """Return one image whose pixels are not decoded yet, as it is stored.

        Raises:
            ImageError: Nothing is there, or no image.
        """
        return self.images.open(int(self.rows[index]))

    def name(self, index: int) -> str:
        """Return what a person would call this image."""
        return self.images.name(int(self.rows[index]))

    def where(self, index: int) -> str:
        """Return the name for messages, from which the image can be found."""
        return self.images.where(int(self.rows[index]))

    def label_text(self, index: int) -> str:
        """Return the label as a person would write it."""
        label = self.labels[index]
        if self.task == "regress":
            return f"{label:g}"
        if self.task == "multilabel":
            return "|".join(self.class_names[k] for k in np.flatnonzero(label))
        return self.class_names[label]

    def subset(self, indices: np.ndarray) -> "Dataset":
        """Return some of these images, in the order given."""
        groups = None if self.groups is None else self.groups[indices]
        return replace(self, rows=self.rows[indices], labels=self.labels[indices], groups=groups)

    def class_counts(self) -> np.ndarray:
        """Return the number of images of every class; for ``regress`` all of them."""
        if self.task == "classify":
            return np.bincount(self.labels, minlength=len(self.class_names))
        return self.labels.sum(axis=0) if self.task == "multilabel" else np.array([len(self)])

    def relabel(self, class_names: tuple[str, ...]) -> "Dataset":
        """Number the classes as another list of names does.

        Raises:
            ValueError: An image is of a class that the list does not have.
        """
        if class_names == self.class_names or self.task == "regress":
            return self
        counts = self.class_counts()
        present = {name for name, count in zip(self.class_names, counts, strict=True) if count}
        unknown = sorted(present - set(class_names))
        if unknown:
            raise ValueError(
                f"the data has classes that the model does not know: {', '.join(unknown)}\n"
                f"hint: the model knows {', '.join(class_names)}"
            )
        numbers: Mapping[str, int] = {name: k for k, name in enumerate(class_names)}
        table = np.array([numbers.get(name, -1) for name in self.class_names], dtype=np.int64)
        if self.task == "classify":
            return replace(self, labels=table[self.labels], class_names=class_names)
        labels = np.zeros((len(self), len(class_names)), dtype=bool)
        kept = np.flatnonzero(table >= 0)
        labels[:, table[kept]] = self.labels[:, kept]
        return replace(self, labels=labels, class_names=class_names)

    def fingerprint(self) -> str:
        """Return a hash of the images, their labels and their order."""
        digest = hashlib.sha256(os.fsencode("\n".join(self.class_names)))
        for row, label in zip(self.rows, self.labels, strict=True):
            image = self.images.fingerprint(int(row))
            text = b"%d" % label if self.task == "classify" else label.tobytes()
            digest.update(text + b":%d:" % len(image) + image)
        return digest.hexdigest()[:16]
