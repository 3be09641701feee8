"""Which images come when: a pure function of (seed, step), whatever processes read them."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from tessera.data.dataset import Dataset
from tessera.data.splits import strata
from tessera.recipe import Recipe

Part = tuple[int, int]
"""Which process of how many: each reads its own part of every batch."""

WHOLE: Part = (0, 1)

Key = tuple[int, int, int]
"""Epoch, index and repetition of an image: all that its augmentation depends on, but the seed."""


class StepSampler(Sampler[list[Key]]):
    """Batches from one endless stream of shuffled passes over the images, by step number.

    Step s holds places s * batch_size to (s + 1) * batch_size of the stream, so nothing is dropped
    at the end of a pass, and a run that starts at step s sees what it would have seen.

    Args:
        weights: Chance of every image to be drawn, with replacement; None takes each once a pass.
        repeats: How often an image stands in a row, each time with another augmentation.
        part: Only the rows of this process, ``rows_of``.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        *,
        seed: int,
        start: int,
        stop: int,
        weights: np.ndarray | None = None,
        repeats: int = 1,
        part: Part = WHOLE,
    ) -> None:
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.start, self.stop = start, stop
        self.weights, self.repeats = weights, repeats
        self.rows = rows_of(batch_size, part)

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[Key]]:
        order: dict[int, np.ndarray] = {}
        for step in range(self.start, self.stop):
            turns = [divmod(step * self.batch_size + row, self.repeats) for row in self.rows]
            epochs = [turn // self.size for turn, _ in turns]
            order = {e: order[e] if e in order else self._order(e) for e in set(epochs)}
            yield [
                (epoch, int(order[epoch][turn % self.size]), repeat)
                for epoch, (turn, repeat) in zip(epochs, turns, strict=True)
            ]

    def _order(self, epoch: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, epoch))
        if self.weights is None:
            return rng.permutation(self.size)
        return rng.choice(self.size, self.size, p=self.weights)


def rows_of(batch_size: int, part: Part) -> list[int]:
    """Return the rows of a batch that a process has.

    Row i and the i-th from the end, which ``data.mixing`` blends, are always in one part, at such
    places that they are each other's i-th from the end there as well.
    """
    rank, world_size = part
    pairs = (batch_size + 1) // 2
    first, last = (pairs * r // world_size for r in (rank, rank + 1))
    front = range(first, last)
    return [*front, *(batch_size - 1 - i for i in reversed(front) if 2 * i != batch_size - 1)]


def image_rng(seed: int, key: Key) -> np.random.Generator:
    """Return the numbers that decide how an image is augmented."""
    return np.random.default_rng((seed, *key))


def train_sampler(
    data: Dataset, recipe: Recipe, *, start: int, stop: int, part: Part = WHOLE
) -> StepSampler:
    """Return which images come in steps ``start`` to ``stop`` - 1."""
    return StepSampler(
        len(data),
        recipe.data.images_per_step,
        seed=recipe.seed,
        start=start,
        stop=stop,
        weights=balancing(data) if recipe.data.balanced else None,
        repeats=recipe.augment.repeats,
        part=part,
    )


def balancing(data: Dataset) -> np.ndarray:
    """Return the chance of every image such that all classes are drawn equally often."""
    numbers = strata(data.labels, data.task)
    chance = 1 / np.bincount(numbers)[numbers]
    return chance / chance.sum()
