"""Labelled images as one type, whatever they come from."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tessera.data.images import open_image


class Images(ABC):
    """A sequence of images that are read when asked for."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def read(self, index: int) -> Image.Image:
        """Return one image, upright, of any size and mode."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Return what a person would call this image, such as its path."""

    @abstractmethod
    def fingerprint(self, index: int) -> bytes:
        """Return bytes that change when the image does, cheap enough for all images."""


class ImageFiles(Images):
    """Files below a folder.

    Args:
        paths: Relative to ``root``.
    """

    def __init__(self, root: Path, paths: Sequence[str]) -> None:
        self.root = root
        self.paths = np.array(paths, dtype=np.str_)  # flat: a list of str costs far more

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Image.Image:
        return open_image(self.path(index))

    def name(self, index: int) -> str:
        return str(self.paths[index])

    def path(self, index: int) -> Path:
        """Return where the file lies."""
        return self.root / str(self.paths[index])

    def fingerprint(self, index: int) -> bytes:
        return os.fsencode(f"{self.paths[index]}:{self.path(index).stat().st_size}")


class ImageArrays(Images):
    """Images held in memory.

    Args:
        pixels: uint8, ``n h w`` or ``n h w c``.
        prefix: Beginning of every name, before the number.
    """

    def __init__(self, pixels: np.ndarray, prefix: str) -> None:
        self.pixels = pixels
        self.prefix = prefix

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])

    def name(self, index: int) -> str:
        return f"{self.prefix}{index}"

    def fingerprint(self, index: int) -> bytes:
        return bytes(self.pixels[index].tobytes())


@dataclass(frozen=True)
class Dataset:
    """Some of the images of a source, with a class each.

    Args:
        rows: Which images of the source, as indices.
        labels: One class number a row, into ``class_names``.
    """

    images: Images
    rows: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def read(self, index: int) -> Image.Image:
        """Return one image, upright, of any size and mode."""
        return self.images.read(int(self.rows[index]))

    def name(self, index: int) -> str:
        """Return what a person would call this image."""
        return self.images.name(int(self.rows[index]))

    def subset(self, indices: np.ndarray) -> "Dataset":
        """Return some of these images, in the order given."""
        return Dataset(self.images, self.rows[indices], self.labels[indices], self.class_names)

    def relabel(self, class_names: tuple[str, ...]) -> "Dataset":
        """Number the classes as another list of names does.

        Raises:
            ValueError: An image is of a class that the list does not have.
        """
        if class_names == self.class_names:
            return self
        present = {self.class_names[label] for label in np.unique(self.labels)}
        unknown = sorted(present - set(class_names))
        if unknown:
            raise ValueError(
                f"the data has classes that the model does not know: {', '.join(unknown)}\n"
                f"hint: the model knows {', '.join(class_names)}"
            )
        numbers = {name: k for k, name in enumerate(class_names)}
        table = np.array([numbers.get(name, -1) for name in self.class_names], dtype=np.int64)
        return Dataset(self.images, self.rows, table[self.labels], class_names)

    def fingerprint(self) -> str:
        """Return a hash of the images, their classes and their order."""
        digest = hashlib.sha256(os.fsencode("\n".join(self.class_names)))
        for row, label in zip(self.rows, self.labels, strict=True):
            image = self.images.fingerprint(int(row))
            digest.update(b"%d:%d:" % (label, len(image)) + image)
        return digest.hexdigest()[:16]


def stratified_split(
    labels: np.ndarray, fraction: float, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Cut a share of every class off, the same for the same labels, fraction and seed.

    Every class of at least two images keeps one on either side.

    Returns:
        Sorted indices of the rest and of the share.
    """
    generator = np.random.default_rng(seed)
    share: list[np.ndarray] = []
    for label in np.unique(labels):
        members = generator.permutation(np.flatnonzero(labels == label))
        count = round(len(members) * fraction)
        share.append(members[: min(max(count, 1), len(members) - 1)])
    cut = np.sort(np.concatenate(share)) if share else np.empty(0, dtype=np.int64)
    return np.setdiff1d(np.arange(len(labels)), cut), cut
