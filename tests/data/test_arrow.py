"""Parquet as the Hub keeps it and folders from ``save_to_disk``: images and labels as stored."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tessera.data import arrow
from tessera.data.holdout import load_data
from tessera.data.images import ImageError
from tessera.data.sources import find_data
from tessera.data.splits import DataSplits
from tessera.errors import RunError
from tessera.recipe import Data as DataSettings


def pixels(number: int) -> np.ndarray:
    """Another image for every number."""
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (5, 4 + number % 7, 3), dtype=np.uint8)


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(number)).save(file, "PNG")
    return file.getvalue()


def structs(numbers: list[int]) -> list[dict[str, Any]]:
    """Images as the Hub stores them."""
    return [{"bytes": png(n), "path": f"{n}.png"} for n in numbers]


def features(**known: dict[str, Any]) -> dict[str, Any]:
    """What the library ``datasets`` writes into the metadata of a schema."""
    return {"image": {"_type": "Image"}, **known}


def class_label(*names: str) -> dict[str, Any]:
    return {"names": list(names), "_type": "ClassLabel"}


def write(
    path: Path,
    labels: list[Any],
    told: dict[str, Any] | None = None,
    *,
    first: int = 0,
    label: str = "label",
    images: Any = None,
) -> Path:
    """Write a parquet file of so many images, and the features if there are any."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers = list(range(first, first + len(labels)))
    table = pa.table({"image": structs(numbers) if images is None else images, label: labels})
    if told is not None:
        metadata = json.dumps({"info": {"features": told}})
        table = table.replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, path)
    return path


def words(data: DataSplits, split: str = "train") -> list[str]:
    return [data[split].label_text(i) for i in range(len(data[split]))]


LABELS: dict[str, tuple[list[Any], dict[str, Any] | None, str, tuple[str, ...], list[str]]] = {
    "names of a ClassLabel": (
        [2, 0, 2, 1],
        features(label=class_label("wasp", "ant", "bee")),
        "classify",
        ("wasp", "ant", "bee"),
        ["bee", "wasp", "bee", "ant"],
    ),
    "a ClassLabel of another name": (
        [1, 0],
        features(label={"dtype": "string", "_type": "Value"}, species=class_label("ant", "bee")),
        "classify",
        ("ant", "bee"),
        ["bee", "ant"],
    ),
    "words": (["bee", "ant", "bee"], None, "classify", ("ant", "bee"), ["bee", "ant", "bee"]),
    "whole numbers": ([10, 2, 10], None, "classify", ("2", "10"), ["10", "2", "10"]),
    "truth": ([True, False], None, "classify", ("False", "True"), ["True", "False"]),
    "numbers of a Value": (
        [7, 3],
        features(label={"dtype": "int64", "_type": "Value"}),
        "classify",
        ("3", "7"),
        ["7", "3"],
    ),
    "lists of a ClassLabel": (
        [[0, 2], [], [1]],
        features(label={"feature": class_label("red", "bee", "ant"), "_type": "Sequence"}),
        "multilabel",
        ("red", "bee", "ant"),
        ["red|ant", "", "bee"],
    ),
    "lists of numbers": ([[10, 2], [2], []], None, "multilabel", ("2", "10"), ["2|10", "2", ""]),
    "lists of which the first is empty": (
        [[], ["bee", "ant"]],
        None,
        "multilabel",
        ("ant", "bee"),
        ["", "ant|bee"],
    ),
    "fractions": ([0.5, -2.0, 7.0], None, "regress", ("label",), ["0.5", "-2", "7"]),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_every_kind(kind: str, tmp_path: Path) -> None:
    values, told, task, names, wanted = LABELS[kind]
    column = "species" if "another name" in kind else "label"
    data = find_data(str(write(tmp_path / "a.parquet", values, told, label=column)))
    assert (data.task, data.class_names, words(data)) == (task, names, wanted)
    assert data["train"].labels.dtype == {"classify": np.int64, "multilabel": bool}.get(
        data.task, np.float32
    )


def test_images_are_read_back_bit_by_bit(tmp_path: Path) -> None:
    train = find_data(str(write(tmp_path / "a.parquet", ["x", "y", "x"])))["train"]
    for k in range(3):
        np.testing.assert_array_equal(np.asarray(train.read(k)), pixels(k))
        assert train.images.encoded(k) == png(k)
        assert train.open(k).size == (4 + k, 5)
    assert train.name(1) == "a.parquet/train:1:1.png"


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_images_may_be_plain_bytes(kind: Any, tmp_path: Path) -> None:
    images = pa.array([png(3), png(4)], kind)
    train = find_data(str(write(tmp_path / "a.parquet", ["x", "y"], images=images)))["train"]
    np.testing.assert_array_equal(np.asarray(train.read(1)), pixels(4))
    assert train.name(1) == "a.parquet/train:1"


@pytest.mark.parametrize("column", ["img", "jpg", "png", "picture"])
def test_the_column_of_images_goes_by_its_usual_names(column: str, tmp_path: Path) -> None:
    table = pa.table({column: structs([0, 1]), "fine_label": [0, 1], "id": [5, 6]})
    pq.write_table(table, tmp_path / "a.parquet")
    data = find_data(str(tmp_path / "a.parquet"))
    assert words(data) == ["0", "1"]
    assert data["train"].read(1).size == (5, 5)


def test_of_two_columns_of_classes_the_usual_name_is_taken(tmp_path: Path) -> None:
    told = features(coarse_label=class_label("insect"), fine_label=class_label("ant", "bee"))
    table = pa.table({"image": structs([0, 1]), "coarse_label": [0, 0], "fine_label": [1, 0]})
    metadata = json.dumps({"info": {"features": told}})
    pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), tmp_path / "a.parquet")
    assert words(find_data(str(tmp_path / "a.parquet"))) == ["bee", "ant"]


LAYOUTS = {
    "shards": {
        "train-00000-of-00002.parquet": "train",
        "train-00001-of-00002.parquet": "train",
        "test-00000-of-00001.parquet": "test",
    },
    "in data/": {
        "data/train-00000-of-00001.parquet": "train",
        "data/validation-00000-of-00001.parquet": "val",
    },
    "a folder a split": {
        "train/0000.parquet": "train",
        "valid/0000.parquet": "val",
        "test/0000.parquet": "test",
    },
    "converted by the Hub": {
        "default/partial-train/0000.parquet": "train",
        "default/partial-test/0000.parquet": "test",
    },
    "plain": {"train.parquet": "train", "Val.parquet": "val", "TEST.parquet": "test"},
    "no split named": {"0000.parquet": "train", "0001.parquet": "train"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("top", ["flowers", "test_set"])  # what DATA itself is called says nothing
def test_shards_belong_to_the_split_that_their_names_say(
    layout: str, top: str, tmp_path: Path
) -> None:
    wanted: dict[str, list[str]] = {}
    for number, (name, split) in enumerate(sorted(LAYOUTS[layout].items())):
        write(tmp_path / top / name, ["ant", "bee"], first=10 * number)
        wanted.setdefault(split, []).extend([f"{10 * number}.png", f"{10 * number + 1}.png"])
    data = find_data(str(tmp_path / top))
    found = {
        split: [part.name(i).rpartition(":")[2] for i in range(len(part))]
        for split, part in data.splits.items()
    }
    assert found == wanted
    for split, part in data.splits.items():
        for i in range(len(part)):
            number = int(part.name(i).rpartition(":")[2].removesuffix(".png"))
            np.testing.assert_array_equal(np.asarray(part.read(i)), pixels(number))
            assert part.name(i).startswith(f"{top}/{split}:")


def test_splits_have_one_class_map_by_name(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", ["ant", "bee", "cat"])
    write(tmp_path / "test.parquet", ["cat", "ant"])
    data = find_data(str(tmp_path))
    assert data["test"].labels.tolist() == [2, 0]
    assert data.notes == ("the test split has no image of bee",)


def test_the_fingerprint_changes_with_an_image(tmp_path: Path) -> None:
    def fingerprint(image: bytes) -> str:
        path = write(tmp_path / "a.parquet", ["x", "y"], images=[png(0), image])
        return find_data(str(path))["train"].fingerprint()

    image = bytes(50_000)
    changed = [image[:100] + b"!" + image[101:], image[:-100] + b"!" + image[-99:], image[1:]]
    prints = [fingerprint(image), *map(fingerprint, changed)]
    assert len(set(prints)) == 4
    assert fingerprint(image) == prints[0]


PROBLEMS: dict[str, tuple[dict[str, list[Any]], dict[str, Any] | None, str]] = {
    "no images": ({"label": [0, 1]}, None, "columns label\nhint: it needs an image and a label"),
    "no labels": ({"image": [b"x"]}, None, "columns image\nhint: it needs an image and a label"),
    "missing labels": ({"image": [b"x", b"y"], "label": [1, None]}, None, "1 rows have no label"),
    "missing words": ({"image": [b"x"] * 3, "label": ["a", None, None]}, None, "2 rows have no"),
    "missing numbers": (
        {"image": [b"x", b"y"], "value": [1.5, float("nan")]},
        None,
        "1 rows have no value",
    ),
    "a hole in a list": (
        {"image": [b"x", b"y"], "label": [[1, None], [2]]},
        None,
        "1 rows have no label",
    ),
    "a number beyond the names": (
        {"image": [b"x", b"y"], "label": [0, 2]},
        features(label=class_label("ant", "bee")),
        "split train: label 2 is none of its 2 class names",
    ),
    "labels that are held back": (
        {"image": [b"x", b"y"], "label": [0, -1]},
        features(label=class_label("ant", "bee")),
        "label -1 is none of its 2 class names\nhint: .*held back",
    ),
    "paths for images": (
        {"image": ["a.png", "b.png"], "label": [0, 1]},
        None,
        "column image holds string\nhint: it must hold encoded images",
    ),
    "structs without bytes": (
        {"image": [{"path": "a.png"}], "label": [0]},
        None,
        "column image holds struct<path: string>\nhint: ",
    ),
    "fractions in lists": ({"image": [b"x"], "label": [[0.0, 1.0]]}, None, "label holds list<.*"),
    "structs": ({"image": [b"x"], "label": [{"a": 1}]}, None, "label .*struct.*\nhint: "),
    "one class": ({"image": [b"x", b"y"], "label": [3, 3]}, None, "1 classes .only '3'"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_what_is_wrong_with_the_columns_is_named(problem: str, tmp_path: Path) -> None:
    columns, told, message = PROBLEMS[problem]
    table = pa.table(columns)
    if told:
        metadata = json.dumps({"info": {"features": told}})
        table = table.replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=message) as caught:
        find_data(str(tmp_path / "a.parquet"))
    assert "a.parquet" in str(caught.value)


@pytest.mark.parametrize("damage", ["text", "empty", "truncated", "middle"])
def test_a_file_that_is_no_parquet_is_named(damage: str, tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", ["ant", "bee"])
    file = write(tmp_path / "train-1.parquet", ["ant", "bee"])
    whole = file.read_bytes()
    file.write_bytes(
        {
            "text": b"image,label\n",
            "empty": b"",
            "truncated": whole[:-100],
            "middle": whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :],
        }[damage]
    )
    with pytest.raises(ValueError, match=r"train-1\.parquet cannot be read as parquet: ") as caught:
        find_data(str(tmp_path))
    assert "train-0" not in str(caught.value)


def test_shards_of_different_columns_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", ["ant", "bee"])
    write(tmp_path / "train-1.parquet", [0, 1])
    with pytest.raises(
        ValueError, match=r"train-0\.parquet, .*train-1\.parquet cannot be .* was different"
    ):
        find_data(str(tmp_path))


@pytest.mark.parametrize(
    "image", [{"bytes": None, "path": "far/away.jpg"}, {"bytes": b"", "path": None}, None]
)
def test_a_row_without_an_image_is_named_when_it_is_read(
    image: dict[str, Any] | None, tmp_path: Path
) -> None:
    images = [image, {"bytes": b"no image", "path": "b.png"}, structs([3])[0]]
    train = find_data(str(write(tmp_path / "a.parquet", ["x", "y", "x"], images=images)))["train"]
    with pytest.raises(ImageError, match=r"a\.parquet/train:0.* holds no bytes"):
        train.read(0)
    with pytest.raises(ImageError, match=r"a\.parquet/train:1:b\.png is no image"):
        train.read(1)
    np.testing.assert_array_equal(np.asarray(train.read(2)), pixels(3))
    assert len(train.fingerprint()) == 16


@pytest.fixture
def unpacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No parquet is small enough for the memory; where the unpacked files go."""
    monkeypatch.setattr(arrow, "IN_MEMORY", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tessera" / "unpacked"


def shards(folder: Path) -> str:
    told = features(label=class_label("ant", "bee"))
    write(folder / "train-0.parquet", [0, 1] * 20, told)
    write(folder / "train-1.parquet", [1, 1], told, first=40)
    write(folder / "test.parquet", [1], told, first=50)
    return str(folder)


def test_a_large_parquet_is_unpacked_once_to_a_file_that_is_mapped(
    unpacking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = shards(tmp_path / "data")
    before = pa.total_allocated_bytes()
    data = find_data(spec)
    assert pa.total_allocated_bytes() - before < 1000, "mapped, not held in memory"
    files = sorted(unpacking.iterdir())
    assert [file.suffix for file in files] == [".arrow", ".arrow"], "one a split, nothing half done"
    assert words(data) == ["ant", "bee"] * 20 + ["bee", "bee"]
    for place, number in [(0, 0), (39, 39), (41, 41)]:
        np.testing.assert_array_equal(np.asarray(data["train"].read(place)), pixels(number))
    np.testing.assert_array_equal(np.asarray(data["test"].read(0)), pixels(50))

    def never(*_: Any) -> None:
        raise AssertionError("unpacked again")

    monkeypatch.setattr(arrow, "_unpack", never)
    again = find_data(spec)
    assert again["train"].fingerprint() == data["train"].fingerprint()
    assert sorted(unpacking.iterdir()) == files


def test_the_same_data_comes_from_memory_and_from_the_unpacked_file(
    unpacking: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = shards(tmp_path / "data")
    mapped = find_data(spec)
    monkeypatch.setattr(arrow, "IN_MEMORY", 2**31)
    held = find_data(spec)
    for split, part in held.splits.items():
        assert part.fingerprint() == mapped[split].fingerprint()
        assert part.class_names == mapped[split].class_names == ("ant", "bee")
        assert [part.name(i) for i in range(len(part))] == [
            mapped[split].name(i) for i in range(len(part))
        ]


def test_a_parquet_that_has_changed_is_unpacked_anew(unpacking: Path, tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", ["ant", "bee"])
    size = file.stat().st_size
    first = find_data(str(file))
    write(file, ["bee", "ant"])
    os.utime(file, ns=(1, 1))
    assert file.stat().st_size == size
    assert words(first) == ["ant", "bee"]
    assert words(find_data(str(file))) == ["bee", "ant"]


def test_an_unpacking_that_fails_leaves_nothing_behind(unpacking: Path, tmp_path: Path) -> None:
    write(tmp_path / "train-0.parquet", ["ant", "bee"])
    write(tmp_path / "train-1.parquet", [0, 1])
    with pytest.raises(ValueError, match="cannot be read as parquet"):
        find_data(str(tmp_path))
    assert list(unpacking.iterdir()) == []


def save(folder: Path, labels: list[Any], told: dict[str, Any], *, files: int = 1) -> None:
    """Write what ``Dataset.save_to_disk`` does: state, info, and streams of arrow."""
    folder.mkdir(parents=True)
    names = [f"data-{k:05}-of-{files:05}.arrow" for k in range(files)]
    table = pa.table({"image": structs(list(range(len(labels)))), "label": labels})
    size = -(-len(labels) // files)
    for k, name in enumerate(names):
        part = table.slice(k * size, size)
        with (
            pa.OSFile(str(folder / name), "wb") as sink,
            pa.ipc.new_stream(sink, table.schema) as writer,
        ):
            writer.write_table(part)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"features": told}))


def save_splits(folder: Path, splits: dict[str, list[int]]) -> Path:
    for name, labels in splits.items():
        save(folder / name, labels, features(label=class_label("ant", "bee")))
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return folder


def test_a_saved_dictionary_of_splits(tmp_path: Path) -> None:
    splits = {"train": [0, 1, 1], "validation": [1, 0], "test": [1]}
    data = find_data(str(save_splits(tmp_path / "saved", splits)))
    assert list(data.splits) == ["train", "val", "test"]
    assert data.class_names == ("ant", "bee")
    assert words(data, "val") == ["bee", "ant"]
    np.testing.assert_array_equal(np.asarray(data["train"].read(2)), pixels(2))
    assert data["val"].name(1) == "saved/val:1:1.png"


@pytest.mark.parametrize("files", [1, 3])
def test_one_saved_data_set_is_for_training(files: int, tmp_path: Path) -> None:
    save(tmp_path / "saved", ["bee", "ant", "cat", "ant"], {}, files=files)
    data = find_data(str(tmp_path / "saved"))
    assert list(data.splits) == ["train"]
    assert words(data) == ["bee", "ant", "cat", "ant"]
    np.testing.assert_array_equal(np.asarray(data["train"].read(3)), pixels(3))


def test_a_saved_split_of_an_unknown_name_is_left_out_with_a_note(tmp_path: Path) -> None:
    data = find_data(str(save_splits(tmp_path / "s", {"train": [0, 1], "unsupervised": [0]})))
    assert list(data.splits) == ["train"]
    assert data.notes == ("splits of unknown names are left out: unsupervised",)


def test_two_saved_splits_for_one_purpose_are_refused(tmp_path: Path) -> None:
    splits = {"train": [0, 1], "dev": [0], "validation": [1]}
    with pytest.raises(ValueError, match="two val splits: dev and validation\nhint: keep one"):
        find_data(str(save_splits(tmp_path / "s", splits)))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("train/data-00000-of-00001.arrow", None),
        ("train/data-00000-of-00001.arrow", b""),
        ("train/data-00000-of-00001.arrow", b"no arrow at all"),
        ("train/state.json", None),
        ("train/state.json", b"{}"),
        ("train/dataset_info.json", b"{"),
        ("dataset_dict.json", b"["),
        ("dataset_dict.json", b"{}"),
        ("dataset_dict.json", b'{"splits": ["train", "test"]}'),
    ],
)
def test_a_saved_folder_with_something_missing_is_named(
    file: str, content: bytes | None, tmp_path: Path
) -> None:
    save_splits(tmp_path / "saved", {"train": [0, 1]})
    if content is None:
        (tmp_path / "saved" / file).unlink()
    else:
        (tmp_path / "saved" / file).write_bytes(content)
    with pytest.raises(ValueError, match=r"saved.* is no complete saved data set: .*\nhint: "):
        find_data(str(tmp_path / "saved"))


def test_a_truncated_saved_file_is_named(tmp_path: Path) -> None:
    save(tmp_path / "saved", ["bee", "ant"] * 20, {})
    file = tmp_path / "saved" / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(ValueError, match="saved is no complete saved data set: "):
        find_data(str(tmp_path / "saved"))


def test_what_the_library_datasets_itself_saves(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the library datasets")
    images = [Image.fromarray(pixels(k)) for k in range(4)]
    names = datasets.ClassLabel(names=["wasp", "ant"])
    kinds = datasets.Features({"image": datasets.Image(), "label": names})
    whole = datasets.Dataset.from_dict({"image": images, "label": [0, 1, 1, 0]}, features=kinds)
    both = datasets.DatasetDict({"train": whole, "test": whole.select([1, 3])})
    both.save_to_disk(str(tmp_path / "saved"))
    whole.to_parquet(str(tmp_path / "hub" / "train-00000-of-00001.parquet"))
    for spec in ("saved", "hub"):
        data = find_data(str(tmp_path / spec))
        assert data.class_names == ("wasp", "ant")
        assert words(data) == ["wasp", "ant", "ant", "wasp"]
        np.testing.assert_array_equal(np.asarray(data["train"].read(2)), pixels(2))
    assert words(find_data(str(tmp_path / "saved")), "test") == ["ant", "wasp"]


@pytest.mark.parametrize("missing", ["pyarrow", "pyarrow.parquet"])
@pytest.mark.parametrize("kind", ["parquet", "saved"])
def test_without_pyarrow_it_is_said_how_to_get_it(
    kind: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "parquet" / "train.parquet", ["ant", "bee"])
    save_splits(tmp_path / "saved", {"train": [0, 1]})
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(RunError, match=r"needs pyarrow\nhint: pip install 'tessera-vit\[data\]'"):
        find_data(str(tmp_path / kind))


def test_cifar10_from_the_hub(shared: Path) -> None:
    data = find_data(str(shared / "data" / "cifar10"))
    assert {name: len(part) for name, part in data.splits.items()} == {
        "train": 50_000,
        "test": 10_000,
    }
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    assert data.class_names == tuple(names.split())
    assert data["train"].class_counts().tolist() == [5000] * 10
    assert data["test"].class_counts().tolist() == [1000] * 10
    assert data["test"].read(9999).size == (32, 32)
    assert data.notes == ()


def test_a_validation_split_is_cut_from_cifar10_without_looking_at_50_000_images(
    shared: Path,
) -> None:
    data = load_data(str(shared / "data" / "cifar10"), DataSettings(val_fraction=0.1))
    assert {name: len(part) for name, part in data.splits.items()} == {
        "train": 45_000,
        "val": 5_000,
        "test": 10_000,
    }
    assert data["val"].class_counts().tolist() == [500] * 10
    assert not set(data["val"].rows.tolist()) & set(data["train"].rows.tolist())
    assert "near-duplicates among the 50000 training images were not looked for" in data.notes[0]
    assert "5000 of 50000 training images held out" in data.notes[1]
