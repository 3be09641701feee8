"""DATA: the embedded digits, and folders as people really keep them."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tessera.data.holdout import load_data
from tessera.data.splits import DataSplits
from tessera.recipe import Data

FIRST_TEST_ROWS = [5, 9, 12, 14, 16, 17, 19, 23, 24, 34]


def make_tree(root: Path, folders: dict[str, int]) -> Path:
    """Write so many tiny images into each folder, every one of another colour."""
    number = 0
    for folder, count in folders.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for k in range(count):
            number += 1
            colour = (number % 256, number // 256, 7)
            Image.new("RGB", (4, 4), colour).save(root / folder / f"{k}.png")
    return root


def by_class(data: DataSplits, split: str) -> dict[str, int]:
    part = data[split]
    return dict(Counter(part.class_names[label] for label in part.labels))


def test_digits_are_1797_images_and_the_splits_share_none_and_miss_none() -> None:
    digits = load_data("digits")
    assert list(digits.splits) == ["train", "val", "test"]
    rows = np.concatenate([part.rows for part in digits.splits.values()])
    assert sorted(rows.tolist()) == list(range(1797))
    assert digits.class_names == tuple("0123456789")
    assert digits["test"].read(0).size == (8, 8)


def test_the_test_split_of_digits_is_a_fifth_of_every_class_and_always_the_same() -> None:
    digits = load_data("digits")
    everything = np.concatenate([part.labels for part in digits.splits.values()])
    for label in range(10):
        wanted = round(0.2 * int((everything == label).sum()))
        assert int((digits["test"].labels == label).sum()) == wanted
    # Published numbers are measured on these rows: they may not move.
    assert digits["test"].rows[:10].tolist() == FIRST_TEST_ROWS
    assert len(digits["test"]) == 359
    other = load_data("digits", Data(val_fraction=0.5))
    np.testing.assert_array_equal(other["test"].rows, digits["test"].rows)


def test_the_brightest_digit_pixel_is_white() -> None:
    digits = load_data("digits")
    levels = {level for i in range(100) for level in digits["train"].read(i).get_flattened_data()}
    assert (min(levels), max(levels), len(levels)) == (0, 255, 17)


def test_the_fingerprint_of_digits_is_stable_and_tells_the_splits_apart() -> None:
    first, again = load_data("digits"), load_data("digits")
    prints = {name: part.fingerprint() for name, part in first.splits.items()}
    assert prints == {name: part.fingerprint() for name, part in again.splits.items()}
    assert len(set(prints.values())) == 3


def test_digits_say_that_validation_was_cut_from_training() -> None:
    digits = load_data("digits", Data(val_fraction=0.1))
    total = len(digits["train"]) + len(digits["val"])
    assert f"{len(digits['val'])} of {total} training images" in digits.notes[-1]
    assert len(digits["val"]) == pytest.approx(0.1 * total, abs=5)  # rounding, once a class


def test_the_word_digits_is_the_embedded_data_and_a_path_is_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tree(tmp_path / "digits", {"ant": 3, "bee": 3})
    monkeypatch.chdir(tmp_path)
    assert len(load_data("digits").class_names) == 10
    assert load_data("./digits").class_names == ("ant", "bee")


def test_a_folder_of_class_folders_is_cut_in_two(tmp_path: Path) -> None:
    data = load_data(str(make_tree(tmp_path, {"bee": 20, "ant": 10})), Data(val_fraction=0.2))
    assert data.class_names == ("ant", "bee")
    assert by_class(data, "train") == {"ant": 8, "bee": 16}
    assert by_class(data, "val") == {"ant": 2, "bee": 4}
    assert "6 of 30 training images" in data.notes[0]
    names = {data[split].name(i) for split in data.splits for i in range(len(data[split]))}
    assert len(names) == 30
    with pytest.raises(ValueError, match=r"no split 'test'\nhint: it has train, val"):
        data["test"]


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
@pytest.mark.parametrize("train", ["train", "training", "Train"])
def test_split_folders_go_by_their_usual_names(train: str, val: str, tmp_path: Path) -> None:
    folders = {f"{train}/ant": 4, f"{train}/bee": 3, f"{val}/ant": 2, f"{val}/bee": 1}
    data = load_data(str(make_tree(tmp_path, {**folders, "test/bee": 1, "test/ant": 2})))
    assert list(data.splits) == ["train", "val", "test"]
    assert by_class(data, "train") == {"ant": 4, "bee": 3}
    assert by_class(data, "val") == {"ant": 2, "bee": 1}
    assert by_class(data, "test") == {"ant": 2, "bee": 1}
    assert data.notes == ()


def test_validation_is_cut_where_only_training_and_test_lie(tmp_path: Path) -> None:
    folders = {"train/ant": 10, "train/bee": 10, "test/ant": 2, "test/bee": 2}
    data = load_data(str(make_tree(tmp_path, folders)), Data(val_fraction=0.2))
    assert {name: len(part) for name, part in data.splits.items()} == {
        "train": 16,
        "val": 4,
        "test": 4,
    }


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    data = load_data(str(make_tree(tmp_path, {"train": 3, "car": 3, "plane": 3})))
    assert data.class_names == ("car", "plane", "train")


def test_images_in_folders_below_a_class_are_of_that_class(tmp_path: Path) -> None:
    data = load_data(str(make_tree(tmp_path, {"ant/2023/may": 3, "ant": 1, "bee/wild": 2})))
    assert data.class_names == ("ant", "bee")
    assert sum(by_class(data, split)["ant"] for split in ("train", "val")) == 4


def test_hidden_folders_and_files_are_left_out(tmp_path: Path) -> None:
    make_tree(tmp_path, {"ant": 2, "bee": 2, ".ipynb_checkpoints": 2, "ant/.thumbs": 2})
    (tmp_path / "ant" / "0.png").rename(tmp_path / "ant" / ".hidden.png")
    data = load_data(str(tmp_path))
    assert data.class_names == ("ant", "bee")
    assert len(data["train"]) + len(data["val"]) == 3


def test_files_that_are_no_images_are_counted_in_a_note(tmp_path: Path) -> None:
    make_tree(tmp_path, {"ant": 2, "bee": 2})
    for name in ("notes.txt", "labels.csv"):
        (tmp_path / "ant" / name).write_text("x", encoding="utf-8")
    data = load_data(str(tmp_path))
    assert any("2 files" in note and "no images" in note for note in data.notes)
    assert len(data["train"]) + len(data["val"]) == 4


def test_images_beside_the_class_folders_are_mentioned(tmp_path: Path) -> None:
    make_tree(tmp_path, {"ant": 4, "bee": 4, ".": 3})
    notes = " ".join(load_data(str(tmp_path)).notes)
    assert "3 " in notes, "three images belong to no class, and nobody says so"


def test_a_class_folder_without_images_is_mentioned(tmp_path: Path) -> None:
    data = load_data(str(make_tree(tmp_path, {"ant": 2, "bee": 2, "cat": 0})))
    assert data.class_names == ("ant", "bee")
    assert any("cat" in note for note in data.notes)


def test_a_class_missing_from_validation_does_not_shift_the_others(tmp_path: Path) -> None:
    folders = {"train/ant": 2, "train/bee": 2, "train/cat": 2, "val/ant": 1, "val/cat": 1}
    data = load_data(str(make_tree(tmp_path, folders)))
    assert data["val"].class_names == data["train"].class_names == ("ant", "bee", "cat")
    assert data["val"].labels.tolist() == [0, 2]
    assert [data["val"].name(i) for i in range(2)] == ["val/ant/0.png", "val/cat/0.png"]


def test_labels_go_with_the_folder_that_an_image_lies_in(tmp_path: Path) -> None:
    data = load_data(str(make_tree(tmp_path, {"bee": 7, "ant": 9, "cat": 5})))
    for part in data.splits.values():
        for i in range(len(part)):
            assert part.name(i).startswith(data.class_names[part.labels[i]] + "/")


def test_a_class_that_training_lacks_is_named(tmp_path: Path) -> None:
    folders = {"train/ant": 2, "train/bee": 2, "val/ant": 1, "val/wasp": 1}
    with pytest.raises(ValueError, match=r"(?s)val.*training images do not: wasp\nhint: .*bee"):
        load_data(str(make_tree(tmp_path, folders)))


def test_the_order_of_files_does_not_depend_on_the_file_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = str(make_tree(tmp_path, {"ant": 12, "bee/wild": 6, "bee/tame": 6}))
    before = {name: part.fingerprint() for name, part in load_data(spec).splits.items()}
    walk = os.walk

    def reversed_walk(top: Path) -> Iterator[tuple[str, list[str], list[str]]]:
        for parent, inner, names in walk(top):
            inner.sort(reverse=True)
            yield parent, inner, sorted(names, reverse=True)

    monkeypatch.setattr("os.walk", reversed_walk)
    after = {name: part.fingerprint() for name, part in load_data(spec).splits.items()}
    assert after == before


def test_no_such_folder_is_named_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"(?s)no data at '.*nowhere'\nhint: .*folder.*digits"):
        load_data(str(tmp_path / "nowhere"))


def test_a_file_is_no_data(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png is a file of an unknown kind\nhint: "):
        load_data(str(tmp_path / "a.png"))


@pytest.mark.parametrize("folders", [{}, {"ant": 3}, {"ant": 3, "bee": 0}, {"train/ant": 3}])
def test_fewer_than_two_classes_are_refused(folders: dict[str, int], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"of [01] classes.*; at least 2 are needed\nhint: "):
        load_data(str(make_tree(tmp_path, folders)))


def test_images_without_class_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"of 0 classes.*; at least 2 are needed\nhint: "):
        load_data(str(make_tree(tmp_path, {".": 3})))


def test_a_data_set_without_a_train_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has test, val but no train folder"):
        load_data(str(make_tree(tmp_path, {"test/ant": 1, "val/ant": 1, "val/bee": 1})))


def test_two_folders_for_one_split_are_refused(tmp_path: Path) -> None:
    folders = {"train/ant": 2, "train/bee": 2, "val/ant": 1, "valid/ant": 1}
    with pytest.raises(ValueError, match=r"two folders for the val split: val and valid"):
        load_data(str(make_tree(tmp_path, folders)))


def test_a_split_without_images_is_refused(tmp_path: Path) -> None:
    folders = {"train/ant": 2, "train/bee": 2, "val/ant": 0}
    with pytest.raises(ValueError, match=r"the val split of .* has no images\nhint: "):
        load_data(str(make_tree(tmp_path, folders)))


def test_too_few_images_to_cut_validation_from_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="validation"):
        load_data(str(make_tree(tmp_path, {"ant": 1, "bee": 1})))
