"""Parts that share nothing, have the same mixture, and one class map by name."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.data.dataset import Dataset, Task
from tessera.data.splits import (
    BANDS,
    ClassMapError,
    DataSplits,
    partition,
    strata,
    stratified_split,
    unite,
)
from tessera.data.stored import ImageArrays

LABELS = st.lists(st.integers(0, 4), min_size=1, max_size=60)
SHARES = st.lists(st.integers(1, 9), min_size=2, max_size=6).map(
    lambda weights: [weight / sum(weights) for weight in weights]
)
SEEDS = st.integers(0, 5)


@st.composite
def grouped(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels and groups; images of one group mostly, but not always, are of one class."""
    count = draw(st.integers(1, 60))
    groups = np.array(draw(st.lists(st.integers(0, 12), min_size=count, max_size=count)))
    labels = groups % 3
    for place in draw(st.lists(st.integers(0, count - 1), max_size=5)):
        labels[place] = draw(st.integers(0, 3))
    return labels, groups


@given(labels=LABELS, shares=SHARES, seed=SEEDS)
def test_every_part_has_its_share_of_every_class_within_rounding(
    labels: list[int], shares: list[float], seed: int
) -> None:
    parts = partition(np.array(labels), shares, seed=seed)
    assert parts.shape == (len(labels),)
    assert set(parts.tolist()) <= set(range(len(shares)))
    for label, count in Counter(labels).items():
        got = Counter(parts[np.array(labels) == label].tolist())
        for part, share in enumerate(shares):
            assert abs(got[part] - share * count) <= 1


@given(labels=LABELS, shares=SHARES, seed=SEEDS)
def test_classes_of_odd_sizes_do_not_all_round_in_favour_of_one_part(
    labels: list[int], shares: list[float], seed: int
) -> None:
    if len(shares) == 2:
        return  # there each class keeps an image on either side, which comes first
    sizes = np.bincount(partition(np.array(labels), shares, seed=seed), minlength=len(shares))
    # Measured over 20,000 random cases of up to six parts and five classes: 0.955 at most.
    assert np.abs(sizes - np.array(shares) * len(labels)).max() < 1.5


@settings(max_examples=120)
@given(data=grouped(), shares=SHARES, seed=SEEDS)
def test_no_group_is_in_two_parts_and_every_image_is_in_one(
    data: tuple[np.ndarray, np.ndarray], shares: list[float], seed: int
) -> None:
    labels, groups = data
    parts = partition(labels, shares, groups=groups, seed=seed)
    assert ((parts >= 0) & (parts < len(shares))).all()
    for group in set(groups.tolist()):
        assert len(set(parts[groups == group].tolist())) == 1


@given(data=grouped(), shares=SHARES, seed=SEEDS)
def test_the_same_images_are_always_cut_the_same_way(
    data: tuple[np.ndarray, np.ndarray], shares: list[float], seed: int
) -> None:
    labels, groups = data
    once = partition(labels, shares, groups=groups, seed=seed)
    again = partition(labels.copy(), tuple(shares), groups=groups.copy(), seed=seed)
    np.testing.assert_array_equal(once, again)
    # Nor does it matter which numbers the classes and groups go by.
    other = partition(labels * 7 - 3, shares, groups=groups * 5 + 100, seed=seed)
    np.testing.assert_array_equal(once, other)


def test_another_seed_cuts_in_another_way() -> None:
    labels = np.arange(200) % 4
    assert (partition(labels, (0.5, 0.5)) != partition(labels, (0.5, 0.5), seed=1)).any()


def test_groups_of_one_image_are_as_good_as_none() -> None:
    labels = np.arange(60) % 4
    np.testing.assert_array_equal(
        partition(labels, (0.8, 0.2), groups=np.arange(60)[::-1].copy()),
        partition(labels, (0.8, 0.2)),
    )


@settings(max_examples=150)
@given(data=grouped(), fraction=st.sampled_from([0.05, 0.15, 0.3, 0.5, 0.8]), seed=SEEDS)
def test_a_class_is_on_both_sides_unless_one_group_holds_it(
    data: tuple[np.ndarray, np.ndarray], fraction: float, seed: int
) -> None:
    groups = data[1]
    labels = groups % 3  # else two classes of one group may want it on different sides
    rest, cut = stratified_split(labels, fraction, groups=groups, seed=seed)
    for label in set(labels.tolist()):
        if len(set(groups[labels == label].tolist())) > 1:
            assert label in labels[rest]
            assert label in labels[cut]


@pytest.mark.parametrize("patients", [2, 3, 4, 7])
def test_of_few_patients_one_is_held_out(patients: int) -> None:
    groups = np.repeat(np.arange(patients), 20)
    labels = np.arange(len(groups)) % 2  # every patient has both findings
    rest, cut = stratified_split(labels, 0.15, groups=groups)
    assert len(set(groups[cut].tolist())) == 1
    assert len(rest) + len(cut) == len(groups)


def test_a_patient_of_many_images_is_not_held_out_for_a_small_share() -> None:
    groups = np.array([0] * 60 + [1] * 30 + [2] * 6 + [3] * 4)
    _, cut = stratified_split(np.zeros(100, dtype=np.int64), 0.1, groups=groups)
    assert set(groups[cut].tolist()) <= {2, 3}


@pytest.mark.parametrize("fraction", [0.01, 0.15, 0.5, 0.99])
def test_a_class_of_two_images_has_one_on_either_side(fraction: float) -> None:
    labels = np.array([0] * 50 + [1] * 2)
    rest, cut = stratified_split(labels, fraction)
    assert (labels[rest] == 1).sum() == (labels[cut] == 1).sum() == 1


def test_one_group_can_not_be_cut() -> None:
    rest, cut = stratified_split(np.zeros(10, dtype=np.int64), 0.3, groups=np.ones(10, np.int64))
    assert (len(rest), len(cut)) == (10, 0)


@given(labels=LABELS, folds=st.integers(2, 6), seed=SEEDS)
def test_folds_cover_all_images_once_and_differ_by_little(
    labels: list[int], folds: int, seed: int
) -> None:
    parts = partition(np.array(labels), [1 / folds] * folds, seed=seed)
    validated = np.concatenate([np.flatnonzero(parts == fold) for fold in range(folds)])
    assert sorted(validated.tolist()) == list(range(len(labels)))
    if folds > 2:
        sizes = np.bincount(parts, minlength=folds)
        assert sizes.max() - sizes.min() <= 1
    for label, count in Counter(labels).items():
        if count > 1:  # then no fold has all of it, so that training always knows it
            assert len(set(parts[np.array(labels) == label].tolist())) > 1


def test_folds_of_patients_have_about_the_same_size_and_mixture() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(100), rng.integers(1, 12, 100))
    labels = (groups % 10 < 3).astype(np.int64)  # 30 % are ill
    parts = partition(labels, [0.2] * 5, groups=groups)
    for fold in range(5):
        inside = parts == fold
        assert inside.mean() == pytest.approx(0.2, abs=0.01)  # measured 0.002
        assert labels[inside].mean() == pytest.approx(labels.mean(), abs=0.02)  # measured 0.0063


def test_the_stratum_of_a_class_is_the_class() -> None:
    assert strata(np.array([2, 0, 2]), "classify").tolist() == [2, 0, 2]


def test_the_stratum_of_several_labels_is_the_rarest() -> None:
    rows = [[1, 0, 1], [1, 1, 0], [1, 0, 0], [1, 0, 1], [0, 0, 0]]
    numbers = strata(np.array(rows, dtype=bool), "multilabel")
    assert numbers.tolist() == [2, 1, 0, 2, 3]  # the last one, without labels, is by itself


def test_no_labels_at_all_are_one_stratum() -> None:
    assert strata(np.zeros((3, 0), dtype=bool), "multilabel").tolist() == [0, 0, 0]
    assert strata(np.zeros((0, 2), dtype=bool), "multilabel").shape == (0,)


def test_the_stratum_of_a_number_is_its_tenth() -> None:
    rng = np.random.default_rng(0)
    values = np.exp(rng.normal(size=200) * 3).astype(np.float32)
    numbers = strata(values, "regress")
    assert np.bincount(numbers).tolist() == [200 // BANDS] * BANDS
    for band in range(BANDS - 1):
        assert values[numbers == band].max() < values[numbers == band + 1].min()
    assert set(strata(np.arange(3.0), "regress").tolist()) <= set(range(BANDS))


def test_large_numbers_are_held_out_as_often_as_small_ones() -> None:
    values = np.arange(1000, dtype=np.float32) ** 3
    _, cut = stratified_split(values, 0.2, task="regress")
    assert len(cut) == 200
    assert [int((cut // 100 == tenth).sum()) for tenth in range(10)] == [20] * 10


def test_a_rare_label_among_several_is_on_both_sides() -> None:
    labels = np.zeros((100, 3), dtype=bool)
    labels[:, 0] = True
    labels[::2, 1] = True
    labels[[10, 60], 2] = True
    rest, cut = stratified_split(labels, 0.1, task="multilabel")
    assert labels[rest][:, 2].sum() == labels[cut][:, 2].sum() == 1


def part(labels: list[int], names: tuple[str, ...]) -> Dataset:
    count = len(labels)
    pixels = np.zeros((count, 2, 2), dtype=np.uint8)
    return Dataset(ImageArrays(pixels, "toy/"), np.arange(count), np.array(labels, int), names)


def several(rows: list[list[int]], names: tuple[str, ...]) -> Dataset:
    labels = np.array(rows, dtype=bool).reshape(len(rows), len(names))
    pixels = np.zeros((len(rows), 2, 2), dtype=np.uint8)
    return Dataset(
        ImageArrays(pixels, "toy/"), np.arange(len(rows)), labels, names, task="multilabel"
    )


def words(data: DataSplits, split: str) -> list[str]:
    return [data[split].label_text(i) for i in range(len(data[split]))]


ABC = ("ant", "bee", "cat")


def test_a_class_that_a_split_lacks_does_not_shift_the_others() -> None:
    splits = {"train": part([0, 1, 2], ABC), "val": part([0, 1, 1], ("ant", "cat"))}
    data = unite("toy", splits)
    assert words(data, "val") == ["ant", "cat", "cat"]
    assert data["val"].labels.tolist() == [0, 2, 2]
    assert data["val"].class_names == data.class_names == ABC
    assert data.notes == ("the val split has no image of bee",)


def test_a_class_that_training_lacks_is_an_error_that_names_it() -> None:
    splits = {
        "train": part([0, 1], ("bee", "cat")),
        "val": part([0, 1, 2], ABC),
        "test": part([1, 0, 1], ("dog", "cat")),
    }
    with pytest.raises(ClassMapError) as caught:
        unite("toy", splits)
    assert str(caught.value).splitlines() == [
        "the val split of toy has classes that the training images do not: ant",
        "the test split of toy has classes that the training images do not: dog",
        "hint: training has bee, cat",
    ]
    rest = caught.value.rest
    assert words(rest, "val") == ["bee", "cat"]
    assert words(rest, "test") == ["cat", "cat"]
    assert rest["test"].labels.tolist() == [1, 1]


def test_a_class_without_training_images_is_left_out_with_a_note_not_a_shift() -> None:
    splits = {"train": part([0, 2, 2], ABC), "val": part([2, 0], ABC)}
    data = unite("toy", splits, ["found so"])
    assert data.class_names == ("ant", "cat")
    assert words(data, "val") == ["cat", "ant"]
    assert data.notes == ("found so", "classes without training images are left out: bee")


def test_a_class_in_val_that_training_names_but_has_no_image_of_is_an_error() -> None:
    splits = {"train": part([0, 2], ABC), "val": part([1], ABC)}
    with pytest.raises(ClassMapError, match="training images do not: bee"):
        unite("toy", splits)


@given(
    train=st.permutations(ABC),
    val=st.permutations([*ABC, "dog"]),
    labels=st.lists(st.sampled_from(ABC), min_size=1, max_size=9),
)
def test_whatever_the_order_of_names_an_image_keeps_its_class(
    train: list[str], val: list[str], labels: list[str]
) -> None:
    splits = {
        "val": part([val.index(label) for label in labels], tuple(val)),
        "train": part([0, 1, 2], tuple(train)),
    }
    data = unite("toy", splits)
    assert list(data.splits) == ["train", "val"]
    assert words(data, "val") == labels
    assert words(data, "train") == list(train)


def test_several_labels_are_united_by_name_too() -> None:
    splits = {
        "train": several([[1, 1, 0], [0, 0, 0], [0, 0, 1]], ABC),
        "test": several([[1, 1], [0, 1]], ("cat", "ant")),
    }
    data = unite("toy", splits)
    assert words(data, "test") == ["ant|cat", "ant"]
    assert data["test"].labels.shape == (2, 3)
    assert data.notes == ("the test split has no image of bee",)
    extra = {**splits, "val": several([[1, 1], [1, 0]], ("ant", "wasp"))}
    with pytest.raises(ClassMapError, match=r"val split .*do not: wasp") as caught:
        unite("toy", extra)
    assert words(caught.value.rest, "val") == ["ant"]


def test_one_label_is_enough_where_an_image_may_have_none() -> None:
    assert unite("toy", {"train": several([[1], [0]], ("ant",))}).class_names == ("ant",)
    with pytest.raises(ValueError, match=r"0 classes \(none\); at least 1 is"):
        unite("toy", {"train": several([[0], [0]], ("ant",))})


def test_numbers_need_no_classes() -> None:
    labels = np.array([1.5, 2.5], dtype=np.float32)
    pixels = np.zeros((2, 2, 2), dtype=np.uint8)
    data = Dataset(ImageArrays(pixels, "toy/"), np.arange(2), labels, ("age",), task="regress")
    united = unite("toy", {"test": data, "train": data})
    assert list(united.splits) == ["train", "test"]
    assert (united.task, united.class_names, united.notes) == ("regress", ("age",), ())
    with pytest.raises(ValueError, match="train split of toy has no images"):
        unite("toy", {"train": data.subset(np.arange(0))})


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({}, "toy has no split, but no training images\nhint: name one split train"),
        ({"val": [0, 1], "test": [0, 1]}, "toy has val, test, but no training images\nhint: "),
        ({"train": [0, 1], "val": []}, "the val split of toy has no images\nhint: fill or remove"),
        ({"train": []}, r"toy has training images of 0 classes \(none\); at least 2 are needed"),
        ({"train": [1, 1]}, r"images of 1 classes \(only 'bee'\); at least 2 are needed\nhint: "),
    ],
)
def test_splits_that_can_not_be_trained_on_are_refused(
    splits: dict[str, list[int]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        unite("toy", {name: part(labels, ABC) for name, labels in splits.items()})


def test_two_classes_of_one_name_are_refused_since_they_would_become_one() -> None:
    names = ("crane", "maillot", "tench", "crane", "maillot")  # as in lists of ImageNet's classes
    with pytest.raises(ValueError, match=r"names two classes crane, and two maillot\nhint: "):
        unite("toy", {"train": part([0, 1, 2, 3, 4], names)})


@pytest.mark.parametrize("task", ["multilabel", "regress"])
def test_splits_of_different_tasks_are_refused(task: Task) -> None:
    val = several([[1, 0, 0]], ABC)
    if task == "regress":
        labels = np.zeros(1, dtype=np.float32)
        val = Dataset(val.images, np.arange(1), labels, ("age",), task="regress")
    with pytest.raises(
        ValueError, match=f"train split .* to classify, .*val split to {task}\nhint: "
    ):
        unite("toy", {"train": part([0, 1], ABC), "val": val})
