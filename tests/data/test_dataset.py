"""Labelled images as one type, and the cut between what is trained on and what is not."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tessera.data.dataset import Dataset
from tessera.data.splits import stratified_split
from tessera.data.stored import ImageArrays, ImageFiles

NAMES = ("ant", "bee", "cat")


def make_dataset(count: int = 6) -> Dataset:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, 4, 5, 3), dtype=np.uint8)
    return Dataset(ImageArrays(pixels, "toy/"), np.arange(count), np.arange(count) % 3, NAMES)


@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=80),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 3),
)
def test_a_split_cuts_every_class_and_loses_nothing(
    labels: list[int], fraction: float, seed: int
) -> None:
    numbers = np.array(labels)
    rest, cut = stratified_split(numbers, fraction, seed=seed)
    assert sorted([*rest, *cut]) == list(range(len(labels)))
    assert list(rest) == sorted(rest)
    assert list(cut) == sorted(cut)
    taken = Counter(numbers[cut].tolist())
    for label, count in Counter(labels).items():
        wanted = min(max(round(count * fraction), 1), count - 1)  # one at least on either side
        assert taken[label] == wanted


def test_a_split_is_the_same_for_the_same_labels_and_another_for_another_seed() -> None:
    labels = np.repeat([0, 1], 50)
    first, again = stratified_split(labels, 0.3), stratified_split(labels, 0.3)
    np.testing.assert_array_equal(first[1], again[1])
    assert list(stratified_split(labels, 0.3, seed=1)[1]) != list(first[1])


def test_a_split_does_not_take_the_first_images_of_a_class() -> None:
    _, cut = stratified_split(np.zeros(100, dtype=np.int64), 0.2)
    assert list(cut) != list(range(20))


def test_a_class_of_one_image_stays_in_the_rest() -> None:
    rest, cut = stratified_split(np.array([0, 0, 1]), 0.9)
    assert 2 in rest
    assert len(cut) == 1


def test_an_image_is_read_and_named_by_its_row() -> None:
    part = make_dataset().subset(np.array([4, 1]))
    assert len(part) == 2
    assert [part.name(i) for i in (0, 1)] == ["toy/4", "toy/1"]
    assert part.labels.tolist() == [1, 1]
    whole = make_dataset()
    assert part.read(0).tobytes() == whole.read(4).tobytes()
    assert part.subset(np.array([1])).name(0) == "toy/1"


def test_files_are_read_and_named_relative_to_their_root(tmp_path: Path) -> None:
    (tmp_path / "ant").mkdir()
    Image.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / "ant" / "a.png")
    images = ImageFiles(tmp_path, ["ant/a.png"])
    assert len(images) == 1
    assert images.name(0) == "ant/a.png"
    assert images.path(0) == tmp_path / "ant" / "a.png"
    assert images.read(0).getpixel((0, 0)) == (1, 2, 3)


def test_classes_are_renumbered_by_name() -> None:
    data = make_dataset()
    other = data.relabel(("cat", "dog", "bee", "ant"))
    before = [data.class_names[label] for label in data.labels]
    after = [other.class_names[label] for label in other.labels]
    assert before == after
    assert other.labels.tolist() == [3, 2, 0, 3, 2, 0]


def test_the_same_names_leave_the_data_alone() -> None:
    data = make_dataset()
    assert data.relabel(NAMES) is data


def test_a_class_that_the_model_lacks_is_named_only_where_an_image_has_it() -> None:
    data = make_dataset()
    with pytest.raises(ValueError, match=r"does not know: cat\nhint: .*ant, bee"):
        data.relabel(("ant", "bee"))
    without_cats = data.subset(np.flatnonzero(data.labels != 2))
    assert without_cats.relabel(("bee", "ant")).labels.tolist() == [1, 0, 1, 0]


def test_the_fingerprint_is_the_same_for_the_same_images() -> None:
    assert make_dataset().fingerprint() == make_dataset().fingerprint()
    assert len(make_dataset().fingerprint()) == 16


def test_the_fingerprint_changes_with_a_pixel_a_label_a_name_and_the_order() -> None:
    data = make_dataset()
    pixels = data.images.pixels.copy() if isinstance(data.images, ImageArrays) else None
    assert pixels is not None
    pixels[5, 3, 4, 2] ^= 1
    labels = data.labels.copy()
    labels[0] = 1
    changed = [
        Dataset(ImageArrays(pixels, "toy/"), data.rows, data.labels, NAMES),
        Dataset(data.images, data.rows, labels, NAMES),
        Dataset(data.images, data.rows, data.labels, ("ant", "bee", "dog")),
        data.subset(np.arange(6)[::-1].copy()),
        data.subset(np.arange(5)),
    ]
    prints = {part.fingerprint() for part in (data, *changed)}
    assert len(prints) == 1 + len(changed)


def test_the_fingerprint_of_files_changes_when_a_file_does(tmp_path: Path) -> None:
    for name, width in (("a.png", 3), ("b.png", 4)):
        Image.new("RGB", (width, 2)).save(tmp_path / name)
    data = Dataset(
        ImageFiles(tmp_path, ["a.png", "b.png"]), np.arange(2), np.array([0, 1]), ("x", "y")
    )
    before = data.fingerprint()
    Image.effect_noise((9, 9), 50).save(tmp_path / "b.png")
    assert data.fingerprint() != before


def test_the_fingerprint_tells_where_one_image_ends_and_the_next_begins(tmp_path: Path) -> None:
    def one(sizes: tuple[int, int], labels: tuple[int, int]) -> str:
        folder = tmp_path / f"{sizes}{labels}"
        folder.mkdir()
        for name, size in zip("ab", sizes, strict=True):
            (folder / name).write_bytes(b"x" * size)
        names = tuple(f"{k:02}" for k in range(30))
        images = ImageFiles(folder, ["a", "b"])
        return Dataset(images, np.arange(2), np.array(labels), names).fingerprint()

    assert one((1, 5), (0, 21)) != one((12, 5), (0, 1))


def test_a_file_name_that_is_no_utf_8_has_a_fingerprint(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")  # as an old archive unpacks on Linux
    try:
        Image.new("RGB", (3, 2)).save(tmp_path / name)
    except OSError:
        pytest.skip("this file system takes no such names")
    data = Dataset(ImageFiles(tmp_path, [name]), np.arange(1), np.array([0]), ("x",))
    assert data.read(0).size == (3, 2)
    assert len(data.fingerprint()) == 16
