"""Which images come when is a function of (seed, step); how they are read changes nothing."""

from collections import Counter
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tessera.data.dataset import Dataset, ImageArrays, ImageFiles
from tessera.data.images import ImageError
from tessera.data.loader import Batch, StepSampler, eval_batches, train_batches, worker_count
from tessera.data.preprocessing import Preprocessing
from tessera.recipe import Augment, Data, Recipe

CPU = torch.device("cpu")
PREPARE = Preprocessing(size=(16, 16))


@pytest.fixture
def folder(tmp_path: Path) -> Dataset:
    """Thirteen files of different sizes in two classes."""
    rng = np.random.default_rng(0)
    names = [f"{k:02}.png" for k in range(13)]
    for k, name in enumerate(names):
        pixels = rng.integers(0, 256, (20 + k, 30 - k, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / name)
    labels = np.arange(13) % 2
    return Dataset(ImageFiles(tmp_path, names), np.arange(13), labels, ("even", "odd"))


def recipe(workers: int, **augment: Any) -> Recipe:
    return Recipe(
        seed=5,
        data=Data(batch_size=4, workers=workers),
        augment=Augment(crop_scale=(0.3, 1.0), flip=0.5, rotate=10.0, shift=0.1, **augment),
    )


def train(data: Dataset, recipe: Recipe, start: int = 0, stop: int = 5) -> list[Batch]:
    return list(train_batches(data, PREPARE, recipe, start=start, stop=stop, device=CPU))


def evaluate(data: Dataset, workers: int, batch_size: int = 5) -> list[Batch]:
    return list(eval_batches(data, PREPARE, batch_size=batch_size, workers=workers, device=CPU))


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


sizes = st.integers(1, 40)


@given(size=sizes, batch_size=st.integers(1, 50), seed=st.integers(0, 99))
def test_every_pass_shows_every_image_once(size: int, batch_size: int, seed: int) -> None:
    steps = -(-3 * size // batch_size)  # three passes, rounded up
    keys = list(chain(*StepSampler(size, batch_size, seed=seed, start=0, stop=steps)))
    assert len(keys) == steps * batch_size
    for epoch in range(3):
        shown = Counter(index for e, index in keys if e == epoch)
        assert shown == Counter(range(size))
    assert all(a[0] <= b[0] for a, b in pairwise(keys)), "a pass ends before the next begins"


@given(size=sizes, batch_size=st.integers(1, 50), start=st.integers(0, 20), seed=st.integers(0, 9))
def test_a_run_that_starts_later_sees_what_it_would_have_seen(
    size: int, batch_size: int, start: int, seed: int
) -> None:
    whole = list(StepSampler(size, batch_size, seed=seed, start=0, stop=25))
    tail = StepSampler(size, batch_size, seed=seed, start=start, stop=25)
    assert list(tail) == whole[start:]
    assert len(tail) == 25 - start
    assert list(tail) == list(tail)


def test_passes_and_seeds_have_orders_of_their_own() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batch = next(iter(StepSampler(50, 50, seed=seed, start=epoch, stop=epoch + 1)))
        return [index for _, index in batch]

    orders = [order(0, 0), order(0, 1), order(1, 0)]
    assert len({tuple(o) for o in orders}) == 3
    assert list(range(50)) not in orders


def test_the_number_of_workers_changes_no_bit_of_training(folder: Dataset) -> None:
    assert_same(train(folder, recipe(0, mixup=0.3)), train(folder, recipe(2, mixup=0.3)))


def test_the_number_of_workers_changes_no_bit_of_evaluation(folder: Dataset) -> None:
    assert_same(evaluate(folder, 0), evaluate(folder, 2))


def test_training_batches_of_a_later_start_are_the_tail_of_all(folder: Dataset) -> None:
    assert_same(train(folder, recipe(0, mixup=0.3))[3:], train(folder, recipe(0, mixup=0.3), 3))


def test_a_batch_holds_normalised_images_labels_and_soft_targets_where_mixed(
    folder: Dataset,
) -> None:
    plain, mixed = train(folder, recipe(0))[0], train(folder, recipe(0, mixup=0.3))[0]
    assert set(plain) == {"image", "label"}
    assert plain["image"].shape == (4, 3, 16, 16)
    assert plain["image"].dtype == torch.float32
    assert plain["image"].min() >= -1
    assert plain["image"].max() <= 1
    assert set(mixed) == {"image", "label", "target"}
    assert mixed["target"].shape == (4, 2)
    assert torch.equal(mixed["label"], plain["label"])


def test_labels_belong_to_their_images() -> None:
    levels = np.arange(9, dtype=np.uint8) * 20
    pixels = np.broadcast_to(levels[:, None, None], (9, 16, 16)).copy()
    data = Dataset(ImageArrays(pixels, "grey/"), np.arange(9), np.arange(9), tuple("abcdefghi"))
    plain = Recipe(data=Data(batch_size=4))
    for batch in [*train(data, plain), *evaluate(data, 0)]:
        grey = (batch["image"].mean(dim=(1, 2, 3)) + 1) / 2 * 255
        assert torch.equal((grey / 20).round().long(), batch["label"])


def test_an_image_is_augmented_anew_in_every_pass() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 20, 20, 3), dtype=np.uint8)
    data = Dataset(ImageArrays(pixels, "one/"), np.arange(1), np.array([0]), ("x",))
    one = Recipe(data=Data(batch_size=1), augment=Augment(crop_scale=(0.1, 0.9)))
    first, second = (batch["image"] for batch in train(data, one, 0, 2))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_named_without_a_traceback(folder: Dataset, workers: int) -> None:
    assert isinstance(folder.images, ImageFiles)
    bad = folder.images.path(7)
    bad.write_bytes(bad.read_bytes()[:200])
    for read in (lambda: train(folder, recipe(workers)), lambda: evaluate(folder, workers)):
        with pytest.raises(ImageError) as caught:
            read()
        message = str(caught.value)
        assert str(bad) in message
        assert "Traceback" not in message
        assert "worker" not in message
        assert message.count("\n") <= 1


@pytest.mark.parametrize("batch_size", [1, 5, 13, 99])
def test_evaluation_shows_every_image_once_and_in_order(folder: Dataset, batch_size: int) -> None:
    batches = evaluate(folder, 0, batch_size)
    images = torch.cat([batch["image"] for batch in batches])
    expected = torch.stack([PREPARE(folder.read(i)) for i in range(13)])
    assert torch.equal(images, expected)
    assert torch.cat([batch["label"] for batch in batches]).tolist() == folder.labels.tolist()
    assert [batch["image"].shape[0] for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)


@pytest.mark.parametrize("workers", [0, 1])
def test_reading_images_leaves_the_global_generator_where_it_was(
    folder: Dataset, workers: int
) -> None:
    before = torch.get_rng_state()
    train(folder, recipe(workers), 0, 1)
    evaluate(folder, workers)
    assert torch.equal(torch.get_rng_state(), before)


def test_workers_are_for_files(folder: Dataset) -> None:
    images, zeros = ImageArrays(np.zeros((999, 2, 2), np.uint8), ""), np.zeros(999, dtype=np.int64)
    arrays = Dataset(images, zeros, zeros, ("x",))
    assert worker_count(arrays, None) == 0
    assert worker_count(arrays, 3) == 3
    assert worker_count(folder, 0) == 0
    assert worker_count(folder, None) == 1
