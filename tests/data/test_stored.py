"""Where images lie: names in little memory, files anywhere, and a list of what to leave out."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tessera.data.dataset import Dataset
from tessera.data.images import ImageError
from tessera.data.sources import exclude, find_data
from tessera.data.splits import ClassMapError, DataSplits
from tessera.data.stored import FlatStrings, ImageArrays, ImageFiles, Images

NAMES = st.lists(st.text() | st.binary().map(os.fsdecode), max_size=12)
"""Any text, and any file name that Linux may have, with bytes that are no UTF-8 as surrogates."""


@given(names=NAMES)
def test_flat_strings_are_equal_to_the_list(names: list[str]) -> None:
    flat = FlatStrings(iter(names))
    assert len(flat) == len(names)
    assert list(flat) == names
    assert list(reversed(flat)) == names[::-1]
    assert [flat[i] for i in range(-len(names), len(names))] == names + names
    assert all(name in flat for name in names)


@given(
    names=NAMES,
    start=st.none() | st.integers(-15, 15),
    stop=st.none() | st.integers(-15, 15),
    step=st.sampled_from([None, 1, 2, -1, -3]),
)
def test_slices_are_those_of_the_list(
    names: list[str], start: int | None, stop: int | None, step: int | None
) -> None:
    place = slice(start, stop, step)
    assert FlatStrings(names)[place] == names[place]


@pytest.mark.parametrize("index", [3, -4, 100])
def test_beyond_the_end_is_an_index_error(index: int) -> None:
    with pytest.raises(IndexError):
        FlatStrings(["a", "b", "c"])[index]


def test_a_million_paths_take_less_than_70_megabytes() -> None:
    count = 20_000
    paths = [f"train/n{k % 1000:08}/{'x' * 24}_{k:010}.JPEG" for k in range(count)]
    assert {len(path) for path in paths} == {56}
    paths = [path[:50] for path in paths]
    flat = FlatStrings(paths)
    # 50 bytes and an end of 8 each; Python's own strings take 99 bytes and 8 for the list.
    assert flat.nbytes * 1_000_000 / count < 70e6
    assert flat.nbytes >= 50 * count
    assert flat[count - 1] == paths[-1]


def test_files_are_found_by_relative_and_by_absolute_paths(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "other").mkdir()
    for width, name in enumerate(("root/a.png", "other/b.png"), 3):
        Image.new("RGB", (width, 2)).save(tmp_path / name)
    absolute = str(tmp_path / "other" / "b.png")
    images = ImageFiles(tmp_path / "root", ["a.png", absolute, "../other/b.png"])
    assert [images.read(i).width for i in range(3)] == [3, 4, 4]
    with images.open(1) as image:
        assert image.size == (4, 2)
    assert [images.name(i) for i in range(3)] == ["a.png", absolute, "../other/b.png"]
    assert images.where(0) == str(tmp_path / "root" / "a.png")
    assert images.where(1) == absolute
    assert images.path(1) == Path(absolute)
    assert images.encoded(1) == images.encoded(2) == Path(absolute).read_bytes()
    assert images.fingerprint(0).endswith(b":%d" % (tmp_path / "root" / "a.png").stat().st_size)


def test_a_missing_file_has_a_fingerprint_and_is_named_when_it_is_read(tmp_path: Path) -> None:
    images = ImageFiles(tmp_path, ["gone.png"])
    assert images.fingerprint(0) == b"gone.png:-1"
    readers: list[Callable[[int], object]] = [images.read, images.open, images.encoded]
    for read in readers:
        with pytest.raises(ImageError, match=rf"no such image: {tmp_path}/gone\.png"):
            read(0)


def test_an_image_whose_pixels_are_damaged_is_named_when_they_are_wanted(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 50).save(tmp_path / "a.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    images = ImageFiles(tmp_path, ["a.png"])
    with images.open(0) as image:
        assert image.size == (64, 64)
    with pytest.raises(ImageError, match=rf"{tmp_path}/a\.png cannot be decoded: "):
        images.read(0)


def test_arrays_are_images_in_memory() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 5), dtype=np.uint8)
    images: Images = ImageArrays(pixels, "toy/")
    assert images.in_memory
    assert images.encoded(1) is None
    assert (images.name(2), images.where(2)) == ("toy/2", "toy/2")
    np.testing.assert_array_equal(np.asarray(images.read(2)), pixels[2])
    assert images.fingerprint(0) != images.fingerprint(1)


@pytest.fixture
def animals(tmp_path: Path) -> DataSplits:
    """Six images for training and two for validation, in class folders."""
    folders = {"train/ant": 4, "train/bee": 2, "val/ant": 1, "val/bee": 1}
    for folder, count in folders.items():
        (tmp_path / "animals" / folder).mkdir(parents=True)
        for k in range(count):
            Image.new("RGB", (4 + k, 4)).save(tmp_path / "animals" / folder / f"{k}.png")
    return find_data(str(tmp_path / "animals"))


def left_out(data: DataSplits, folder: Path, text: str) -> DataSplits:
    path = folder / "exclude.csv"
    path.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
    return exclude(data, path)


def names(data: Dataset) -> list[str]:
    return [data.name(i) for i in range(len(data))]


def test_named_images_are_left_out_of_every_split(animals: DataSplits, tmp_path: Path) -> None:
    text = "image,kind\ntrain/ant/1.png,empty\nval/bee/0.png,leak\ntrain/ant/3.png,\n"
    data = left_out(animals, tmp_path, text)
    assert names(data["train"]) == [
        *("train/ant/0.png", "train/ant/2.png"),
        *("train/bee/0.png", "train/bee/1.png"),
    ]
    assert data["train"].labels.tolist() == [0, 0, 1, 1]
    assert names(data["val"]) == ["val/ant/0.png"]
    assert data.notes == (
        "3 images left out, which exclude.csv names",
        "the val split has no image of bee",
    )
    assert len(animals["train"]) == 6


@pytest.mark.parametrize(
    "text",
    [
        "kind,image\r\nempty,train/ant/1.png\r\n",
        "\ufeffimage\ntrain/ant/1.png\n\n",
        'image,detail\n"train/ant/1.png","a, b"\n',
        "image,kind\ntrain/ant/1.png\n",
        "image\ntrain/ant/1.png\ntrain/ant/1.png\n",
    ],
)
def test_the_list_may_come_from_anywhere(text: str, animals: DataSplits, tmp_path: Path) -> None:
    data = left_out(animals, tmp_path, text)
    assert "train/ant/1.png" not in names(data["train"])
    assert len(data["train"]) == 5
    assert data.notes == ("1 images left out, which exclude.csv names",)


def test_what_was_said_of_the_data_before_is_not_said_twice(
    animals: DataSplits, tmp_path: Path
) -> None:
    once = left_out(animals, tmp_path, "image\nval/bee/0.png\n")
    twice = left_out(once, tmp_path, "image\ntrain/ant/0.png\n")
    assert twice.notes == (
        "1 images left out, which exclude.csv names",
        "the val split has no image of bee",
    )


def test_names_that_are_not_in_the_data_are_counted(animals: DataSplits, tmp_path: Path) -> None:
    data = left_out(animals, tmp_path, "image\ntrain/ant/1.png\nold.png\nolder.png\n")
    assert data.notes == (
        "1 images left out, which exclude.csv names (2 of its names are not in the data)",
    )


def test_a_name_that_is_no_utf_8_is_left_out_too(tmp_path: Path) -> None:
    broken = "caf\udce9.png"
    pixels = np.zeros((3, 2, 2), dtype=np.uint8)
    images = ImageFiles(tmp_path, [broken, "b.png", "c.png"])
    assert len(images) == len(pixels)
    whole = Dataset(images, np.arange(3), np.array([0, 0, 1]), ("ant", "bee"))
    data = left_out(DataSplits("toy", {"train": whole}), tmp_path, f"image\n{broken}\n")
    assert names(data["train"]) == ["b.png", "c.png"]


def test_a_class_that_loses_all_its_images_is_left_out_with_a_note(
    animals: DataSplits, tmp_path: Path
) -> None:
    (tmp_path / "animals" / "train" / "cat").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "animals" / "train" / "cat" / "0.png")
    data = left_out(find_data(animals.spec), tmp_path, "image\ntrain/cat/0.png\n")
    assert data.class_names == data["val"].class_names == ("ant", "bee")
    assert "classes without training images are left out: cat" in data.notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image\nval/ant/0.png\nval/bee/0.png\n", "the val split of .* has no images"),
        ("image\n" + "".join(f"train/ant/{k}.png\n" for k in range(4)), "1 classes"),
        ("file\ntrain/ant/0.png\n", r"exclude\.csv has no column image\nhint: .*doctor"),
        ("", r"exclude\.csv has no column image\nhint: "),
        ('image\n"' + "x" * 200_000, r"exclude\.csv is no valid table: field"),
    ],
)
def test_what_can_not_be_left_out_is_said(
    text: str, message: str, animals: DataSplits, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        left_out(animals, tmp_path, text)


def test_a_class_that_only_validation_is_left_with_is_an_error(
    animals: DataSplits, tmp_path: Path
) -> None:
    cat = tmp_path / "animals"
    for folder in ("train/cat", "val/cat"):
        (cat / folder).mkdir()
        Image.new("RGB", (4, 4)).save(cat / folder / "0.png")
    with pytest.raises(ClassMapError, match=r"val split .* do not: cat"):
        left_out(find_data(animals.spec), tmp_path, "image\ntrain/cat/0.png\n")


def test_a_missing_list_is_named(animals: DataSplits, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no list of images to leave out at .*none\.csv"):
        exclude(animals, tmp_path / "none.csv")
