"""Tables of answers hold what was answered, and come back from either kind of file."""

import builtins
import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tessera.data.dataset import Dataset
from tessera.data.stored import ImageArrays
from tessera.errors import RunError
from tessera.evaluation.classify import Result
from tessera.evaluation.multilabel import MultiLabelResult
from tessera.evaluation.regress import RegressionResult
from tessera.report.predictions import prediction_columns, write_predictions
from tessera.report.tables import TableFormat, find_table, read_table, write_table

COLUMNS: dict[str, list[Any]] = {
    "image": ["a,b.jpg", 'c"d.jpg', "caf\udce9/e.jpg", "two\nlines"],
    "correct": [True, False, True, False],
    "p_x": [0.1234567890, 1.0, 1e-9, 0.0],
    "count": [0, 1, 2, 3],
}


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_comes_back_as_text(kind: str, tmp_path: Path) -> None:
    path = write_table(tmp_path / f"t.{kind}", COLUMNS)
    assert read_table(path) == {
        "image": ["a,b.jpg", 'c"d.jpg', "caf\\udce9/e.jpg", "two\nlines"],
        "correct": ["true", "false", "true", "false"],
        "p_x": ["0.123457", "1", "1e-09", "0"],
        "count": ["0", "1", "2", "3"],
    }
    assert find_table(tmp_path, "t") == path
    assert find_table(tmp_path, "other") is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", b""),
        ("t.csv", b"image,label\n"),
        ("t.csv", b"image,label\na,b\nc\n"),
        ("t.csv", b"image,label\na,b,c\n"),
        ("t.csv", b'image,label\n"a,b\n'),
        ("t.csv", b"image,label\n\xff,b\n"),
        ("t.parquet", b"PAR1"),
        ("t.parquet", b""),
    ],
)
def test_a_table_that_is_not_whole_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=name):
        read_table(path)


def test_without_pyarrow_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RunError, match=r"pip install 'tessera-vit\[data\]'"):
        write_table(tmp_path / "t.parquet", COLUMNS)
    assert not (tmp_path / "t.parquet").exists()
    write_table(tmp_path / "t.csv", COLUMNS)


def make_data(labels: np.ndarray, names: tuple[str, ...], task: Any = "classify") -> Dataset:
    pixels = np.zeros((len(labels), 2, 2), np.uint8)
    return Dataset(ImageArrays(pixels, "toy/"), np.arange(len(labels)), labels, names, task)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_classifier_leaves_its_answers_and_a_confusion_matrix(
    kind: TableFormat, tmp_path: Path
) -> None:
    names = ("image", "true", "é, b")  # as columns are called
    labels = np.array([0, 1, 2, 2])
    logits = np.log(np.array([[8, 1, 1], [6, 2, 2], [1, 1, 8], [1, 1, 2]], np.float32))
    result = Result(
        split="val",
        class_names=names,
        logits=logits,
        labels=labels,
        seconds=1.0,
        rows=np.arange(4),
        temperature=0.5,
    )
    written = write_predictions(tmp_path, result, make_data(labels, names), kind)
    assert [path.name for path in written] == [f"predictions-val.{kind}", "confusion-val.csv"]
    table = read_table(written[0])
    assert table["image"] == ["toy/0", "toy/1", "toy/2", "toy/3"]
    assert table["label"] == ["image", "true", "é, b", "é, b"]
    assert table["predicted"] == ["image", "image", "é, b", "é, b"]
    assert table["correct"] == ["true", "false", "true", "true"]
    # With temperature 1/2 the shares are squared: 64 of 66, 36 of 44.
    assert float(table["probability"][0]) == pytest.approx(64 / 66, abs=1e-5)
    assert float(table["p_image"][1]) == pytest.approx(36 / 44, abs=1e-5)
    assert list(table)[-3:] == ["p_image", "p_true", "p_é, b"]
    with written[1].open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [
            ["true", "as image", "as true", "as é, b"],
            ["image", "1", "0", "0"],
            ["true", "1", "0", "0"],
            ["é, b", "0", "0", "2"],
        ]


@pytest.mark.parametrize(("classes", "columns"), [(20, 25), (21, 5)])
def test_many_classes_have_no_column_each(classes: int, columns: int) -> None:
    names = tuple(f"c{k}" for k in range(classes))
    labels = np.arange(classes)
    result = Result(
        split="test",
        class_names=names,
        logits=np.eye(classes, dtype=np.float32),
        labels=labels,
        seconds=1.0,
        rows=labels,
    )
    assert len(prediction_columns(result, make_data(labels, names))) == columns


def test_several_labels_and_numbers_have_tables_too(tmp_path: Path) -> None:
    held = np.array([[True, False], [True, True], [False, False]])
    several = MultiLabelResult(
        split="test",
        class_names=("a", "b"),
        logits=np.array([[1, -1], [1, -1], [-1, -1]], np.float32),
        labels=held,
        seconds=1.0,
        rows=np.arange(3),
    )
    found = prediction_columns(several, make_data(held, ("a", "b"), "multilabel"))
    assert found["label"] == ["a", "a|b", ""]
    assert found["predicted"] == ["a", "a", ""]
    assert found["correct"] == [True, False, True]
    assert found["p_b"] == pytest.approx([1 / (1 + np.e)] * 3)

    labels = np.array([1.5, 2.0], np.float32)
    number = RegressionResult(
        split="test",
        class_names=("age",),
        logits=np.array([[1.0], [2.5]], np.float32),
        labels=labels,
        seconds=1.0,
        rows=np.arange(2),
    )
    data = make_data(labels, ("age",), "regress")
    table = read_table(write_predictions(tmp_path, number, data)[0])
    assert table["predicted"] == ["1", "2.5"]
    assert table["error"] == ["-0.5", "0.5"]
