"""Where images lie: each a sequence that reads an image when asked for it, and no sooner."""

import os
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
from PIL import Image

from tessera.data.images import decoding, open_lazily, upright


class FlatStrings(Sequence[str]):
    """Strings in one block of bytes: a million paths take their length and 8 bytes each."""

    def __init__(self, values: Iterable[str]) -> None:
        block, ends = bytearray(), array("q", [0])
        for value in values:
            block += os.fsencode(value)
            ends.append(len(block))
        self._block, self._ends = bytes(block), np.frombuffer(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        place = range(len(self))[index]  # raises IndexError, and counts from the end
        return os.fsdecode(self._block[self._ends[place] : self._ends[place + 1]])

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    @property
    def nbytes(self) -> int:
        """Return how much memory the strings take."""
        return len(self._block) + self._ends.nbytes


class Images(ABC):
    """A sequence of images that are read when asked for."""

    in_memory: bool = False
    """Whether decoding costs nothing, so that worker processes would not help."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """Return what a person would call this image, such as its path."""

    def where(self, index: int) -> str:
        """Return the name for messages, from which the image can be found."""
        return self.name(index)

    @abstractmethod
    def fingerprint(self, index: int) -> bytes:
        """Return bytes that change when the image does, cheap enough for all images."""

    @abstractmethod
    def open(self, index: int) -> Image.Image:
        """Return an image whose size is known and whose pixels are not decoded yet.

        Decode it inside ``decoding``.

        Raises:
            ImageError: Nothing is there, or no image.
        """

    @abstractmethod
    def encoded(self, index: int) -> bytes | None:
        """Return the file as it is stored, or None for pixels held in memory.

        Raises:
            ImageError: Nothing is there.
        """

    def read(self, index: int) -> Image.Image:
        """Return one image, decoded and upright, of any size and mode.

        Raises:
            ImageError: It is missing, truncated, too large, or no image.
        """
        with decoding(self.where(index)), self.open(index) as image:
            return upright(image)


class ImageFiles(Images):
    """Files below a folder.

    Args:
        paths: Relative to ``root``, or absolute.
    """

    def __init__(self, root: Path, paths: Iterable[str]) -> None:
        self.root = root
        self.paths = FlatStrings(paths)
        self._start = str(root) + os.sep  # joining strings is 20 times as fast as joining paths

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        return self.paths[index]

    def where(self, index: int) -> str:
        path = self.paths[index]
        return path if path.startswith(os.sep) else self._start + path

    def path(self, index: int) -> Path:
        """Return where the file lies."""
        return self.root / self.paths[index]

    def fingerprint(self, index: int) -> bytes:
        path = self.paths[index]
        try:
            size = Path(self.where(index)).stat().st_size
        except OSError:
            size = -1  # missing: it is named when it is read
        return os.fsencode(f"{path}:{size}")

    def open(self, index: int) -> Image.Image:
        path = self.where(index)
        return open_lazily(path, path)

    def encoded(self, index: int) -> bytes:
        with decoding(self.where(index)):
            return self.path(index).read_bytes()


class ImageArrays(Images):
    """Images held in memory.

    Args:
        pixels: uint8, ``n h w`` or ``n h w c``.
        prefix: Beginning of every name, before the number.
    """

    in_memory = True

    def __init__(self, pixels: np.ndarray, prefix: str) -> None:
        self.pixels = pixels
        self.prefix = prefix

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, index: int) -> str:
        return f"{self.prefix}{index}"

    def fingerprint(self, index: int) -> bytes:
        return bytes(self.pixels[index].tobytes())

    def open(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])

    def encoded(self, index: int) -> None:
        return None
