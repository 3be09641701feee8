"""Batches as dicts of tensors; which images come when is a pure function of (seed, step)."""

import os
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from tessera.data.augment import TrainTransform, mixup
from tessera.data.dataset import Dataset, ImageFiles
from tessera.data.images import ImageError
from tessera.data.preprocessing import Preprocessing
from tessera.recipe import Recipe

Batch = dict[str, Tensor]
"""image: float ``b c h w``, normalised; label: int ``b``; target: float ``b k``, where mixed."""

Key = tuple[int, int]
"""Epoch and index of an image: all that its augmentation depends on, apart from the seed."""


class StepSampler(Sampler[list[Key]]):
    """Batches from one endless stream of shuffled passes over the images, by step number.

    Step s holds places s * batch_size to (s + 1) * batch_size of the stream, so nothing is dropped
    at the end of a pass, and a run that starts at step s sees what it would have seen.
    """

    def __init__(self, size: int, batch_size: int, *, seed: int, start: int, stop: int) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.start, self.stop = start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        order: dict[int, np.ndarray] = {}
        for step in range(self.start, self.stop):
            places = range(step * self.batch_size, (step + 1) * self.batch_size)
            epochs = [place // self.size for place in places]
            order = {e: order[e] if e in order else self._order(e) for e in set(epochs)}
            yield [
                (epoch, int(order[epoch][place % self.size]))
                for epoch, place in zip(epochs, places, strict=True)
            ]

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.size)


Item = tuple[Tensor, int] | ImageError
"""Pixels and class; or, from a worker, why there are none."""


class _TrainImages(TorchDataset[Item]):
    def __init__(self, data: Dataset, transform: TrainTransform, seed: int) -> None:
        self.data, self.transform, self.seed = data, transform, seed

    def __getitem__(self, key: Key) -> Item:
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        try:
            return self.transform(self.data.read(index), rng), int(self.data.labels[index])
        except ImageError as error:
            return error


class _EvalImages(TorchDataset[Item]):
    def __init__(self, data: Dataset, preprocessing: Preprocessing) -> None:
        self.data, self.preprocessing = data, preprocessing

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Item:
        try:
            return self.preprocessing.pixels(self.data.read(index)), int(self.data.labels[index])
        except ImageError as error:
            return error


def train_batches(
    data: Dataset,
    preprocessing: Preprocessing,
    recipe: Recipe,
    *,
    start: int,
    stop: int,
    device: torch.device,
) -> Iterator[Batch]:
    """Yield the training batches of steps ``start`` to ``stop`` - 1, augmented, on the device.

    Raises:
        ImageError: An image cannot be read.
    """
    sampler = StepSampler(
        len(data), recipe.data.batch_size, seed=recipe.seed, start=start, stop=stop
    )
    images = _TrainImages(data, TrainTransform(preprocessing, recipe.augment), recipe.seed)
    loader = DataLoader(
        images,
        batch_sampler=sampler,
        num_workers=worker_count(data, recipe.data.workers),
        worker_init_fn=_one_thread,
        generator=torch.Generator(),  # else making an iterator draws from the global one
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
    )
    for step, items in enumerate(loader, start):
        batch = _to_device(items, preprocessing, device)
        if recipe.augment.mixup:
            rng = np.random.default_rng((recipe.seed, step))
            batch["image"], batch["target"] = mixup(
                batch["image"], batch["label"], len(data.class_names), recipe.augment.mixup, rng
            )
        yield batch


def eval_batches(
    data: Dataset,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    workers: int | None,
    device: torch.device,
) -> Iterator[Batch]:
    """Yield every image once, in order, prepared as for prediction.

    Raises:
        ImageError: An image cannot be read.
    """
    loader = DataLoader(
        _EvalImages(data, preprocessing),
        batch_size=batch_size,
        num_workers=worker_count(data, workers),
        worker_init_fn=_one_thread,
        generator=torch.Generator(),  # else making an iterator draws from the global one
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
    )
    for items in loader:
        yield _to_device(items, preprocessing, device)


def worker_count(data: Dataset, wanted: int | None) -> int:
    """Return how many processes decode: none for images in memory, else up to one a core."""
    if wanted is not None:
        return wanted
    if not isinstance(data.images, ImageFiles):
        return 0
    return min(os.cpu_count() or 1, 8, max(1, len(data) // 64))


def _collate(items: list[Item]) -> tuple[Tensor, Tensor] | ImageError:
    """Stack a batch; pass the first error on as it is, since a worker's traceback helps nobody."""
    good = [item for item in items if not isinstance(item, ImageError)]
    if len(good) < len(items):
        return next(item for item in items if isinstance(item, ImageError))
    return torch.stack([p for p, _ in good]), torch.tensor([label for _, label in good])


def _to_device(
    items: tuple[Tensor, Tensor] | ImageError, preprocessing: Preprocessing, device: torch.device
) -> Batch:
    if isinstance(items, ImageError):
        raise items
    pixels, labels = items
    pixels = pixels.to(device, non_blocking=True)
    return {"image": preprocessing.normalise(pixels), "label": labels.to(device)}


def _one_thread(worker: int) -> None:
    """Keep workers from competing with each other for the cores."""
    torch.set_num_threads(1)
