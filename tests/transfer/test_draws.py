"""What each seed draws, and that nothing it is tuned or measured on is trained on."""

from dataclasses import replace

import numpy as np
import pytest

from tessera.data.dataset import Dataset
from tessera.data.stored import ImageArrays
from tessera.transfer.draws import TaskData, draw_images, find_tasks, join, shot_rows
from tessera.transfer.suite import FewShot, Suite, Task

TASK = Task(name="toy", data="toy")
SUITE = Suite(name="s", tasks=(TASK,), train_images=30, val_images=10)


def images(count: int, seed: int = 0, groups: np.ndarray | None = None) -> Dataset:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, 4, 4, 3), dtype=np.uint8)
    rows = rng.permutation(count)
    labels = rng.permutation(np.arange(count) % 2)
    return Dataset(ImageArrays(pixels, f"{seed}/"), rows, labels, ("a", "b"), groups=groups)


def toy(val: Dataset | None = None, groups: np.ndarray | None = None) -> TaskData:
    return TaskData(task=TASK, train=images(60, groups=groups), val=val, test=images(20, seed=9))


def names(data: Dataset) -> list[str]:
    return [data.name(i) for i in range(len(data))]


def test_the_draw_has_the_wanted_sizes_and_nothing_twice() -> None:
    draw = draw_images(toy(), SUITE, seed=0)
    assert (len(draw.train), len(draw.tuning)) == (30, 10)
    assert len(set(names(draw.train) + names(draw.tuning))) == 40
    again, other = draw_images(toy(), SUITE, seed=0), draw_images(toy(), SUITE, seed=1)
    assert names(again.train) == names(draw.train)
    assert names(other.train) != names(draw.train)


def test_both_parts_together_are_the_final_training_images() -> None:
    draw = draw_images(toy(), SUITE, seed=0)
    both = join(draw)
    assert names(both) == names(draw.train) + names(draw.tuning)
    assert both.labels.tolist() == [*draw.train.labels, *draw.tuning.labels]


def test_the_datas_own_validation_split_is_tuned_on() -> None:
    data = toy(val=images(25, seed=5))
    draw = draw_images(data, SUITE, seed=0)
    assert all(name.startswith("5/") for name in names(draw.tuning))
    both = join(draw)
    assert names(both) == names(draw.train) + names(draw.tuning)
    for place in (0, 35):
        part, index = (draw.train, place) if place < 30 else (draw.tuning, place - 30)
        assert both.read(place).tobytes() == part.read(index).tobytes()
        assert both.where(place) == part.where(index)
    assert len(both.fingerprint()) == 16


def test_no_group_is_on_both_sides() -> None:
    groups = np.arange(60) // 4
    data = toy(groups=groups)
    for seed in range(5):
        draw = draw_images(data, SUITE, seed)
        assert draw.train.groups is not None
        assert draw.tuning.groups is not None
        assert not set(draw.train.groups) & set(draw.tuning.groups)


def test_too_few_images_are_refused_before_any_work() -> None:
    suite = Suite(name="s", tasks=(Task(name="d", data="digits"), Task(name="e", data="nowhere")))
    with pytest.raises(ValueError, match="task e: no data at 'nowhere'") as caught:
        find_tasks(replace(suite, train_images=5000))
    assert "task d: 5000 + 200 images are wanted, and digits has 1438" in str(caught.value)


def test_a_class_with_too_few_images_for_the_shots_is_refused() -> None:
    suite = Suite(
        name="s",
        method="few-shot",
        tasks=(Task(name="d", data="digits"),),
        few_shot=FewShot(shots=200),
    )
    with pytest.raises(ValueError, match=r"200 shots, and class '\d' has 1\d\d training images"):
        find_tasks(suite)


def test_the_rows_of_the_shots_are_those_of_every_seed() -> None:
    suite = replace(SUITE, method="few-shot", few_shot=FewShot(shots=3), seeds=(0, 1))
    rows = shot_rows(toy(), suite)
    assert 6 <= len(rows) <= 12
    assert (np.diff(rows) > 0).all()
