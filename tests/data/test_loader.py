"""Which images come when is a function of (seed, step); how they are read changes nothing."""

from collections import Counter
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tessera.data.dataset import Dataset
from tessera.data.images import ImageError
from tessera.data.loader import Batch, Unreadable, eval_batches, train_batches, worker_count
from tessera.data.preprocessing import Preprocessing
from tessera.data.sampling import StepSampler, balancing
from tessera.data.stored import ImageArrays, ImageFiles
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
        shown = Counter(index for e, index, _ in keys if e == epoch)
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
        return [index for _, index, _ in batch]

    orders = [order(0, 0), order(0, 1), order(1, 0)]
    assert len({tuple(o) for o in orders}) == 3
    assert list(range(50)) not in orders


def test_the_number_of_workers_changes_no_bit_of_training(folder: Dataset) -> None:
    batches = train(folder, recipe(0, mixup=0.3))
    for workers in (1, 2):
        assert_same(batches, train(folder, recipe(workers, mixup=0.3)))


def test_the_number_of_workers_changes_no_bit_of_evaluation(folder: Dataset) -> None:
    assert_same(evaluate(folder, 0), evaluate(folder, 2))


def test_training_batches_of_a_later_start_are_the_tail_of_all(folder: Dataset) -> None:
    assert_same(train(folder, recipe(0, mixup=0.3))[3:], train(folder, recipe(0, mixup=0.3), 3))


def test_a_batch_holds_normalised_images_labels_and_soft_targets_where_mixed(
    folder: Dataset,
) -> None:
    plain, mixed = train(folder, recipe(0))[0], train(folder, recipe(0, mixup=0.3))[0]
    assert set(plain) == {"image", "label", "row"}
    assert plain["image"].shape == (4, 3, 16, 16)
    assert plain["image"].dtype == torch.float32
    assert plain["image"].min() >= -1
    assert plain["image"].max() <= 1
    assert set(mixed) == {"image", "label", "row", "target"}
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


def spoil(folder: Dataset, *indices: int) -> list[Path]:
    assert isinstance(folder.images, ImageFiles)
    paths = [folder.images.path(i) for i in indices]
    for path in paths:
        path.write_bytes(path.read_bytes()[:200])
    return paths


@pytest.mark.parametrize("workers", [0, 2])
def test_more_bad_images_than_allowed_are_named_without_a_traceback(
    folder: Dataset, workers: int
) -> None:
    (bad,) = spoil(folder, 7)
    strict = replace(recipe(workers), data=Data(batch_size=4, workers=workers, bad_share=0.05))
    for read in (lambda: train(folder, strict), lambda: evaluate(folder, workers)):
        with pytest.raises(ImageError) as caught:
            read()
        message = str(caught.value)
        assert str(bad) in message
        assert "1 of 13" in message
        assert "doctor" in message
        assert "Traceback" not in message
        assert "worker" not in message


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_noted_and_another_takes_its_place(folder: Dataset, workers: int) -> None:
    clean = train(folder, recipe(0), 0, 7)
    places = [i for batch in StepSampler(13, 4, seed=5, start=0, stop=7) for _, i, _ in batch]
    (bad,) = spoil(folder, 7)
    noted = Unreadable(folder, 0.1)
    options = replace(recipe(workers), data=Data(batch_size=4, workers=workers, bad_share=0.1))
    found = list(
        train_batches(folder, PREPARE, options, start=0, stop=7, device=CPU, unreadable=noted)
    )
    assert list(noted.found) == [7]
    assert str(bad) in noted.found[7]
    images = torch.cat([batch["image"] for batch in found])
    before = torch.cat([batch["image"] for batch in clean])
    same = [torch.equal(a, b) for a, b in zip(images, before, strict=True)]
    assert same == [place != 7 for place in places], "all but the bad one are as they were"


def test_in_evaluation_a_bad_image_is_left_out_and_the_others_keep_their_places(
    folder: Dataset,
) -> None:
    before = torch.cat([batch["image"] for batch in evaluate(folder, 0)])
    spoil(folder, 0, 7)
    noted = Unreadable(folder, 0.2)
    batches = list(
        eval_batches(folder, PREPARE, batch_size=4, workers=0, device=CPU, unreadable=noted)
    )
    index = torch.cat([batch["index"] for batch in batches])
    assert index.tolist() == [i for i in range(13) if i not in (0, 7)]
    assert torch.equal(torch.cat([batch["image"] for batch in batches]), before[index])
    assert torch.cat([b["label"] for b in batches]).tolist() == folder.labels[index].tolist()
    assert sorted(noted.found) == [0, 7]


def test_images_that_are_all_bad_end_a_run_even_if_all_may_be(folder: Dataset) -> None:
    spoil(folder, *range(13))
    options = replace(recipe(0), data=Data(batch_size=4, workers=0, bad_share=1.0))
    with pytest.raises(ImageError, match="no image of step 0"):
        train(folder, options)


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


def test_repeats_are_neighbours_with_augmentations_of_their_own() -> None:
    keys = list(chain(*StepSampler(10, 6, seed=0, start=0, stop=5, repeats=3)))
    assert [repeat for _, _, repeat in keys] == [0, 1, 2] * 10
    assert all(a[1] == b[1] for a, b in pairwise(keys) if b[2] > 0)
    assert Counter(index for _, index, _ in keys) == dict.fromkeys(range(10), 3)


def test_balanced_drawing_shows_rare_classes_as_often_as_common_ones() -> None:
    labels = np.repeat([0, 1, 2], [900, 90, 10])
    pixels = ImageArrays(np.zeros((1000, 2, 2), np.uint8), "")
    data = Dataset(pixels, np.arange(1000), labels, ("a", "b", "c"))
    sampler = StepSampler(1000, 100, seed=0, start=0, stop=100, weights=balancing(data))
    shown = Counter(int(labels[index]) for batch in sampler for _, index, _ in batch)
    # 10,000 draws of chance 1/3: 4 standard deviations are 189.
    assert all(abs(shown[k] - 10_000 / 3) < 189 for k in range(3))
