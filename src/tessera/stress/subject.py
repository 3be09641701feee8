"""One model under stress: its pixels in memory, and its answers to changed ones."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from tessera.checkpoint.artifact import LoadedModel
from tessera.data.dataset import Dataset
from tessera.data.images import ImageError, decoding, upright
from tessera.data.loader import Unreadable, cores
from tessera.data.preprocessing import Preprocessing
from tessera.evaluation.calibration import reliability, softmax
from tessera.robustness.cells import Grid
from tessera.robustness.normalised import Normalised
from tessera.robustness.salience import salience, salience_source

Change = Callable[[Tensor, slice], Tensor]
"""From pixels in [0, 1], ``b c h w``, and their places among the images, to other pixels."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """How a model did at one level of a test."""

    hits: list[int]
    """Right answers of every run."""
    images: int
    ece: float
    """Expected calibration error, the mean over the runs."""
    clean: float
    """Accuracy on the same images as they are; on DATA's of the same classes, where they differ."""
    extra: dict[str, float] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        return dict(self.__dict__)


@dataclass(kw_only=True)
class Subject:
    """A model, the images that it is stressed on, and all that a test may ask for."""

    name: str
    loaded: LoadedModel
    data: Dataset
    """Images that are measured, labelled as the model numbers the classes."""
    fitting: Dataset | None
    """Other images, from which a universal patch is made."""
    shift: Dataset | None = None
    """A second data set, of classes that the model knows."""
    eye: LoadedModel | None = None
    """The model whose attention is the salience; None is the model itself."""
    device: torch.device
    batch_size: int
    seed: int
    advance: Callable[[int], None] = lambda images: None

    def __post_init__(self) -> None:
        self.preprocessing = stackable(self.loaded.header.preprocessing)
        model = self.loaded.model.to(self.device).eval()
        self.net = self.wrap(model)
        self.keys = [int(row) for row in self.data.rows]

    @cached_property
    def pixels(self) -> UInt8[Tensor, "n c h w"]:
        """The images at the size that the model sees, before normalisation."""
        return read_pixels(self.data, self.preprocessing)

    def release(self) -> None:
        """Give the memory of the images back."""
        for name in ("pixels", "clean"):
            self.__dict__.pop(name, None)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images, in pixels."""
        return self.preprocessing.size

    def wrap(self, model: nn.Module) -> Normalised:
        """Put the model's own normalisation before it, or before a variant of it."""
        own = self.loaded.header.preprocessing
        return Normalised(model, own.mean, own.std).to(self.device).eval()

    @torch.no_grad()
    def answers(
        self,
        change: Change = lambda pixels, rows: pixels,
        *,
        images: int | None = None,
        net: nn.Module | None = None,
        cost: int = 1,
    ) -> Float[np.ndarray, "n k"]:
        """Return the logits of the first images after a change of their pixels.

        Args:
            cost: Passes through the model that an image takes, for the count of progress.
        """
        found = []
        for rows in self.batches(images):
            pixels = as_floats(self.pixels[rows], self.device)
            found.append((net or self.net)(change(pixels, rows)).float().cpu())
            self.advance(cost * (rows.stop - rows.start))
        return torch.cat(found).numpy()

    def batches(self, images: int | None = None) -> Iterator[slice]:
        """Cut the first images into batches."""
        count = self.count(images)
        for start in range(0, count, self.batch_size):
            yield slice(start, min(start + self.batch_size, count))

    def count(self, images: int | None) -> int:
        """Return how many images a limit leaves."""
        return len(self.data) if images is None else min(images, len(self.data))

    def found(self, runs: list[np.ndarray], *, clean: float | None = None, **extra: float) -> Found:
        """Turn the logits of several runs on the first images into numbers."""
        count = len(runs[0])
        true, hits, errors = self.data.labels[:count], [], []
        for logits in runs:
            correct = logits.argmax(axis=1) == true
            sure = softmax(logits, self.loaded.header.temperature or 1.0).max(axis=1)
            hits.append(int(correct.sum()))
            errors.append(reliability(sure, correct).ece)
        if clean is None:
            clean = float((self.clean[:count].argmax(axis=1) == true).mean())
        ece = float(np.mean(errors))
        return Found(hits=hits, images=count, ece=ece, clean=clean, extra=extra)

    @cached_property
    def clean(self) -> Float[np.ndarray, "n k"]:
        """Logits of the images as they are."""
        quiet = self.advance
        self.advance = lambda images: None  # they are counted when they are a level
        try:
            return self.answers()
        finally:
            self.advance = quiet

    def generators(self, what: str, rows: slice) -> list[torch.Generator]:
        """Return random numbers of each image, the same whatever images are beside it."""
        return [
            torch.Generator().manual_seed(self.rng(what, key).integers(2**62).item())
            for key in self.keys[rows]
        ]

    def rng(self, what: str, *numbers: int) -> np.random.Generator:
        """Return random numbers of a purpose."""
        return np.random.default_rng((self.seed, zlib.crc32(what.encode()), *numbers))

    def rngs(self, what: str, rows: slice) -> list[np.random.Generator]:
        """Return random numbers of a purpose for each image."""
        return [self.rng(what, key) for key in self.keys[rows]]

    @property
    def salience_of(self) -> str | None:
        """Say what the salience is; None where the model tells nothing."""
        source = salience_source((self.eye or self.loaded).model.config)
        if source is None or self.eye is None:
            return source
        return f"{source} of {self.eye.path.name}"

    @property
    def salience_heads(self) -> int:
        """Heads among which the salience may be chosen."""
        config = (self.eye or self.loaded).model.config
        return 1 if config.pool == "seq" else config.num_heads

    @torch.no_grad()
    def salience(self, head: int | None) -> tuple[Float[Tensor, "n m"], Grid]:
        """Return the salience of the patches of every image, and their grid."""
        eye = self.eye or self.loaded
        own = eye.header.preprocessing
        model = eye.model.to(self.device).eval()
        look = Normalised(model, own.mean, own.std).to(self.device)
        parts = []
        for rows in self.batches():
            pixels = as_floats(self.pixels[rows], self.device)
            if self.eye is not None:
                pixels = _as_seen(pixels, own)
            mass, grid = salience(model, look.normalise(pixels), head=head)
            parts.append(mass.float().cpu())
        return torch.cat(parts), grid

    def variant(
        self, *, preprocessing: Preprocessing | None = None, data: Dataset | None = None
    ) -> "Subject":
        """Return the same model before images prepared in another way, or before others."""
        prepared = preprocessing or self.preprocessing
        header = replace(self.loaded.header, preprocessing=prepared)
        loaded = replace(self.loaded, header=header)
        return replace(self, loaded=loaded, data=data or self.data)


def as_floats(pixels: UInt8[Tensor, "b c h w"], device: torch.device) -> Float[Tensor, "b c h w"]:
    """Map bytes to [0, 1]."""
    return pixels.to(device).float() / 255


def stackable(preprocessing: Preprocessing) -> Preprocessing:
    """Return a preprocessing whose images are all of one size: native shapes are squashed."""
    return (
        replace(preprocessing, crop="squash") if preprocessing.crop == "native" else preprocessing
    )


def readable(data: Dataset, bad_share: float) -> tuple[Dataset, tuple[str, ...]]:
    """Return the images that can be read, and a message for each other one.

    Raises:
        ImageError: More cannot be read than the share.
    """
    unreadable = Unreadable(data, bad_share)

    def error_of(index: int) -> str | None:
        try:
            with decoding(data.where(index)), data.open(index) as image:
                image.load()
        except ImageError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(cores()) as pool:
        errors = list(pool.map(error_of, range(len(data))))
    unreadable.add({i: error for i, error in enumerate(errors) if error is not None})
    kept = np.array([i for i, error in enumerate(errors) if error is None], dtype=np.int64)
    if not len(kept):
        raise ValueError("no image can be read")
    return data.subset(kept), tuple(unreadable.found.values())


def read_pixels(data: Dataset, preprocessing: Preprocessing) -> UInt8[Tensor, "n c h w"]:
    """Read all images at the size that the model sees, before normalisation."""

    def prepare(index: int) -> Tensor:
        with decoding(data.where(index)), data.open(index) as image:
            return preprocessing.pixels(upright(image))

    with ThreadPoolExecutor(cores()) as pool:
        return torch.stack(list(pool.map(prepare, range(len(data)))))


def draw_images(data: Dataset, images: int, seed: int) -> Dataset:
    """Draw images such that any first ones of them have every class by its share."""
    rng = np.random.default_rng(seed)
    place = np.empty(len(data))
    for label in np.unique(data.labels):
        members = rng.permutation(np.flatnonzero(data.labels == label))
        place[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return data.subset(np.argsort(place, kind="stable")[:images])


def _as_seen(pixels: Tensor, own: Preprocessing) -> Tensor:
    """The same pixels at the size and in the channels that another model takes."""
    if pixels.shape[1] != own.channels:
        grey = pixels.mean(dim=1, keepdim=True)
        pixels = grey.expand(-1, own.channels, -1, -1)
    if tuple(pixels.shape[-2:]) == own.size:
        return pixels
    resized = F.interpolate(pixels, size=own.size, mode="bicubic", antialias=True)
    return resized.clamp(0.0, 1.0)


def short_name(ref: str | Path) -> str:
    """Return what a model is called in tables and folders."""
    path = Path(ref)
    return path.stem if path.suffix == ".safetensors" else path.name or str(ref)


def unique_names(refs: Sequence[str | Path]) -> dict[str, str | Path]:
    """Give every model a name of its own."""
    found: dict[str, str | Path] = {}
    for ref in refs:
        name, number = short_name(ref), 2
        while name in found:
            name, number = f"{short_name(ref)} ({number})", number + 1
        found[name] = ref
    return found
