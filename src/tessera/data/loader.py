"""Batches as dicts of tensors, decoded by worker processes."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from tessera.data.augment import TrainTransform, at_level, upright_size
from tessera.data.dataset import Dataset
from tessera.data.device import DeviceTransform, WholeImage
from tessera.data.images import ImageError, decoding, upright
from tessera.data.mixing import mix
from tessera.data.preprocessing import Preprocessing
from tessera.data.sampling import WHOLE, Key, Part, image_rng, train_sampler
from tessera.recipe import Recipe

Batch = dict[str, Tensor]
"""image: float ``b c h w``, normalised; label: of the data's task; target: float ``b k``, where
mixed; row: int ``b``, places in the step's whole batch, in training; index: int ``b``, places in
the data, in evaluation."""

SUBSTITUTES = 8
"""Other images that are tried in the place of one that cannot be read."""


@dataclass
class Unreadable:
    """Images that could not be read, by index in the data, and when there are too many."""

    data: Dataset
    share: float
    """Of the images that may be unreadable."""
    found: dict[int, str] = field(default_factory=dict)
    """Message by index."""

    def add(self, errors: dict[int, str]) -> None:
        """Note what a batch could not read.

        Raises:
            ImageError: It is more than the share allows.
        """
        self.found.update(errors)
        if len(self.found) > self.share * len(self.data):
            some = "\n".join(f"  {message}" for message in list(self.found.values())[:5])
            more = f"\n  and {len(self.found) - 5} more" if len(self.found) > 5 else ""
            raise ImageError(
                f"{len(self.found)} of {len(self.data)} images cannot be read, "
                f"and data.bad_share={self.share:g} allows fewer:\n{some}{more}\n"
                "hint: `tessera doctor DATA` names them all and writes a list for --data.exclude"
            )

    def first(self) -> str:
        """Return the first message."""
        return next(iter(self.found.values()))


class Held:
    """Which image every worker process is reading, in memory that outlives the worker."""

    MOST = 256

    def __init__(self) -> None:
        self._indices = torch.full((self.MOST,), -1, dtype=torch.int64).share_memory_()

    def note(self, index: int) -> None:
        """Say, in a worker, what it is going to read."""
        worker = get_worker_info()
        if worker is not None and worker.id < self.MOST:
            self._indices[worker.id] = index

    def indices(self) -> list[int]:
        """Return what the workers read last."""
        return [index for index in self._indices.tolist() if index >= 0]


@dataclass(frozen=True)
class _Item:
    """An image from a worker; the errors are of images that it stands in for, or its own."""

    index: int
    pixels: Tensor | None
    errors: dict[int, str]
    key: Key = (0, 0, 0)
    """What its augmentation depends on; it differs from the sampler's for a substitute."""
    size: tuple[int, int] = (0, 0)
    """Width and height before anything was done to it."""


@dataclass(frozen=True)
class _Collated:
    """Images of equal size in one tensor each, with their places; and what could not be read."""

    stacks: list[tuple[Tensor, Tensor]]
    errors: dict[int, str]
    places: list[int]
    """Of the images that could be read, in the batch; keys and sizes are theirs as well."""
    keys: list[Key]
    sizes: list[tuple[int, int]]

    def pin_memory(self) -> "_Collated":
        """Called by the loader, so that copying to a GPU need not wait."""
        return replace(self, stacks=[(i, p.pin_memory()) for i, p in self.stacks])


class _TrainImages(TorchDataset[_Item]):
    def __init__(
        self,
        data: Dataset,
        transform: TrainTransform | WholeImage,
        seed: int,
        held: Held | None,
    ) -> None:
        self.data, self.transform, self.seed, self.held = data, transform, seed, held

    def __getitem__(self, key: Key) -> _Item:
        epoch, index, repeat = key
        errors: dict[int, str] = {}
        for attempt in range(SUBSTITUTES):
            new = epoch, index, repeat
            if self.held is not None:
                self.held.note(index)
            try:
                with decoding(self.data.where(index)), self.data.open(index) as image:
                    size = upright_size(image)
                    pixels = self.transform(image, image_rng(self.seed, new))
                    return _Item(index, pixels, errors, new, size)
            except ImageError as error:
                errors[index] = str(error)
            chance = np.random.default_rng((self.seed, epoch, key[1], repeat, attempt + 1))
            index = int(chance.integers(len(self.data)))
        return _Item(index, None, errors)


class _EvalImages(TorchDataset[_Item]):
    def __init__(self, data: Dataset, preprocessing: Preprocessing) -> None:
        self.data, self.preprocessing = data, preprocessing

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> _Item:
        try:
            with decoding(self.data.where(index)), self.data.open(index) as image:
                return _Item(index, self.preprocessing.pixels(upright(image)), {})
        except ImageError as error:
            return _Item(index, None, {index: str(error)})


def train_batches(
    data: Dataset,
    preprocessing: Preprocessing,
    recipe: Recipe,
    *,
    start: int,
    stop: int,
    device: torch.device,
    unreadable: Unreadable | None = None,
    held: Held | None = None,
    part: Part = WHOLE,
) -> Iterator[Batch]:
    """Yield the training batches of steps ``start`` to ``stop`` - 1, augmented, on the device.

    An image that cannot be read is noted, and another one takes its place.

    Args:
        part: Yield only the rows of one process, which are the same images as without it.

    Raises:
        ImageError: More images cannot be read than the recipe allows.
    """
    unreadable = unreadable or Unreadable(data, recipe.data.bad_share)
    augment = at_level(recipe.augment)
    sampler = train_sampler(data, recipe, start=start, stop=stop, part=part)
    kind = WholeImage if augment.on_device else TrainTransform
    images = _TrainImages(data, kind(preprocessing, augment), recipe.seed, held)
    on_device = DeviceTransform(preprocessing, augment)
    loader = DataLoader(
        images,
        batch_sampler=sampler,
        num_workers=worker_count(data, recipe.data.workers),
        worker_init_fn=_one_thread,
        generator=torch.Generator(),  # else making an iterator draws from the global one
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
    )
    labels = torch.from_numpy(data.labels)
    for step, items in enumerate(loader, start):
        unreadable.add(items.errors)
        if not items.stacks:
            raise ImageError(f"no image of step {step} can be read: {unreadable.first()}")
        ((index, pixels),) = items.stacks
        pixels = pixels.to(device, non_blocking=True)
        if augment.on_device:
            rngs = [image_rng(recipe.seed, key) for key in items.keys]
            image = on_device(pixels, items.sizes, rngs)
        else:
            image = preprocessing.normalise(pixels)
        rows = torch.tensor(sampler.rows)[items.places]
        batch = {"image": image, "label": labels[index].to(device), "row": rows}
        if augment.mixup or augment.cutmix:
            rng = np.random.default_rng((recipe.seed, step))
            batch["image"], batch["target"] = mix(
                batch["image"], as_targets(batch["label"], data), augment, rng
            )
        yield batch


def eval_batches(
    data: Dataset,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    workers: int | None,
    device: torch.device,
    unreadable: Unreadable | None = None,
    part: Part = WHOLE,
) -> Iterator[Batch]:
    """Yield every image once, prepared as for prediction; the batch's ``index`` says which.

    They come in order, but for images of native shape: those of one batch that are of equal size
    come together.

    Args:
        unreadable: Where images are noted that cannot be read, which are then left out; None
            allows no such image.
        part: Yield only every n-th image, so that n processes have each of them once.

    Raises:
        ImageError: More images cannot be read than are allowed.
    """
    unreadable = unreadable or Unreadable(data, 0.0)
    loader = DataLoader(
        _EvalImages(data, preprocessing),
        sampler=range(part[0], len(data), part[1]),
        batch_size=batch_size,
        num_workers=worker_count(data, workers),
        worker_init_fn=_one_thread,
        generator=torch.Generator(),  # else making an iterator draws from the global one
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
    )
    labels = torch.from_numpy(data.labels)
    for items in loader:
        unreadable.add(items.errors)
        for index, pixels in items.stacks:
            images = preprocessing.normalise(pixels.to(device, non_blocking=True))
            yield {"image": images, "label": labels[index].to(device), "index": index}


def as_targets(labels: Tensor, data: Dataset) -> Tensor:
    """Return labels as floats that can be blended, a row an image."""
    if data.task == "classify":
        return F.one_hot(labels, len(data.class_names)).float()
    return labels.float() if data.task == "multilabel" else labels.float()[:, None]


def worker_count(data: Dataset, wanted: int | None) -> int:
    """Return how many processes decode: none for images in memory, else up to one a core."""
    if wanted is not None:
        return wanted
    if data.images.in_memory:
        return 0
    return min(cores(), 8, max(1, len(data) // 64))


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _collate(items: list[_Item]) -> _Collated:
    """Stack the images of a batch that are of equal size; a worker's errors come as they are."""
    by_size: dict[torch.Size, list[_Item]] = {}
    errors: dict[int, str] = {}
    for item in items:
        errors.update(item.errors)
        if item.pixels is not None:
            by_size.setdefault(item.pixels.shape, []).append(item)
    stacks = [
        (
            torch.tensor([item.index for item in group]),
            torch.stack([item.pixels for item in group if item.pixels is not None]),
        )
        for group in by_size.values()
    ]
    places = [place for place, item in enumerate(items) if item.pixels is not None]
    keys, sizes = [items[i].key for i in places], [items[i].size for i in places]
    return _Collated(stacks, errors, places, keys, sizes)


def _one_thread(worker: int) -> None:
    """Keep workers from competing for the cores, and leave signals to the main process."""
    torch.set_num_threads(1)
    for number in (signal.SIGINT, signal.SIGTERM):  # which ends the workers when it is done
        signal.signal(number, signal.SIG_IGN)
