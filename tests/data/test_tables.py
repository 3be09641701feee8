"""A CSV or TSV with a row for every image: it is understood, or named with the row."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tessera.data.holdout import load_data
from tessera.data.sources import find_data
from tessera.data.splits import DataSplits
from tessera.data.stored import ImageFiles
from tessera.recipe import Data as DataSettings

NAMES = ("a.png", "b.png", "c.png", "d.png")
"""Images that lie beside every table, each of another width."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for width, name in enumerate(NAMES, 1):
        Image.new("RGB", (width, 2)).save(tmp_path / name)
    return tmp_path


def table(folder: Path, text: str | bytes, name: str = "table.csv") -> str:
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    (folder / name).write_bytes(data)
    return str(folder / name)


def rows(data: DataSplits) -> dict[str, dict[str, str]]:
    """What every image is labelled, by split."""
    return {
        split: {part.name(i): part.label_text(i) for i in range(len(part))}
        for split, part in data.splits.items()
    }


AB = {"train": {"a.png": "ant", "b.png": "bee"}}

SPELLINGS: dict[str, str | bytes] = {
    "plain": "image,label\na.png,ant\nb.png,bee\n",
    "no line end at the end": "image,label\na.png,ant\nb.png,bee",
    "byte order mark": b"\xef\xbb\xbfimage,label\na.png,ant\nb.png,bee\n",
    "windows line ends": "image,label\r\na.png,ant\r\nb.png,bee\r\n",
    "blank lines": "image,label\n\na.png,ant\n\n\nb.png,bee\n\n",
    "rows of commas only": "image,label\na.png,ant\n,\nb.png,bee\n",
    "blanks around cells": "image , label\na.png , ant\n b.png, bee \n",
    "quotes": '"image","label"\n"a.png","ant"\n"b.png","bee"\n',
    "another order": "label,image\nant,a.png\nbee,b.png\n",
    "columns of other people": ",image,width,label\n0,a.png,640,ant\n1,b.png,480,bee\n",
    "upper case": "Image,LABEL\na.png,ant\nb.png,bee\n",
    "path,class": "path,class\na.png,ant\nb.png,bee\n",
    "filename,category": "filename,category\na.png,ant\nb.png,bee\n",
    "file_name,label": "file_name,label\na.png,ant\nb.png,bee\n",
    "all for training": "image,label,split\na.png,ant,train\nb.png,bee,train\n",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_table_says_the_same_however_it_is_spelt(spelling: str, folder: Path) -> None:
    data = find_data(table(folder, SPELLINGS[spelling]))
    assert rows(data) == AB
    assert data.class_names == ("ant", "bee")
    assert data.task == "classify"
    assert [data["train"].read(i).width for i in (0, 1)] == [1, 2]


@pytest.mark.parametrize("name", ["table.tsv", "TABLE.TSV"])
def test_tabs_separate_the_cells_of_a_tsv(name: str, folder: Path) -> None:
    text = "image\tlabel\na.png\tant, red\nb.png\tbee\n"
    found = rows(find_data(table(folder, text, name)))
    assert found == {"train": {"a.png": "ant, red", "b.png": "bee"}}


def test_a_comma_or_a_quote_in_quotes_belongs_to_the_cell(folder: Path) -> None:
    Image.new("RGB", (1, 1)).save(folder / "e, 1.png")
    text = 'image,label\n"e, 1.png","ant, red"\nb.png,"the ""bee"""\n'
    found = rows(find_data(table(folder, text)))
    assert found == {"train": {"e, 1.png": "ant, red", "b.png": 'the "bee"'}}


def test_names_in_any_script_and_even_in_no_encoding_are_read(folder: Path) -> None:
    broken = "caf\udce9.png"  # as an old archive unpacks on Linux
    try:
        for name in ("蚂蚁.png", broken):
            Image.new("RGB", (7, 1)).save(folder / name)
    except OSError:
        pytest.skip("this file system takes no such names")
    data = find_data(table(folder, f"image,label\n蚂蚁.png,蚂蚁\n{broken},Bienë\n"))
    assert rows(data) == {"train": {"蚂蚁.png": "蚂蚁", broken: "Bienë"}}
    assert [data["train"].read(i).width for i in (0, 1)] == [7, 7]


def test_paths_are_relative_to_the_table_or_absolute(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "deep").mkdir()
    (folder / "tables").mkdir()
    Image.new("RGB", (9, 1)).save(folder / "deep" / "e.png")
    text = f"image,label\n../deep/e.png,ant\n{folder / 'b.png'},bee\n"
    spec = table(folder / "tables", text)
    monkeypatch.chdir(folder.parent)
    train = find_data(spec)["train"]
    assert [train.read(i).width for i in (0, 1)] == [9, 2]
    assert train.where(1) == str(folder / "b.png")
    assert Path(train.where(0)).samefile(folder / "deep" / "e.png")


@pytest.mark.parametrize(
    ("word", "split"),
    [
        *(("train", "train"), ("TRAIN", "train"), ("Training", "train")),
        *(("val", "val"), ("valid", "val"), ("validation", "val"), ("VAL", "val"), ("dev", "val")),
        *(("test", "test"), (" Test ", "test"), ("testing", "test")),
    ],
)
def test_the_words_of_the_split_column(word: str, split: str, folder: Path) -> None:
    text = f"image,label,split\na.png,ant,train\nb.png,bee,train\nc.png,bee,{word}\n"
    assert rows(find_data(table(folder, text)))[split]["c.png"] == "bee"


def test_splits_come_in_order_and_share_one_class_map(folder: Path) -> None:
    text = "image,label,split\na.png,bee,test\nb.png,bee,val\nc.png,bee,train\nd.png,ant,train\n"
    data = find_data(table(folder, text))
    assert list(data.splits) == ["train", "val", "test"]
    assert {part.class_names for part in data.splits.values()} == {("ant", "bee")}
    assert data["test"].labels.tolist() == data["val"].labels.tolist() == [1]
    assert data.notes == (
        "the val split has no image of ant",
        "the test split has no image of ant",
    )


def test_labels_that_look_like_numbers_stay_names(folder: Path) -> None:
    data = find_data(table(folder, "image,label\na.png,10\nb.png,2\nc.png,007\n"))
    assert data.class_names == ("007", "10", "2")
    assert rows(data)["train"] == {"a.png": "10", "b.png": "2", "c.png": "007"}


def test_classes_are_numbered_by_name_whatever_the_order_of_rows(folder: Path) -> None:
    lines = ["a.png,wasp", "b.png,ant", "c.png,Bee", "d.png,ant"]
    for order in itertools.permutations(lines):
        data = find_data(table(folder, "\n".join(["image,label", *order])))
        assert data.class_names == ("Bee", "ant", "wasp")
        assert rows(data)["train"] == dict(line.split(",") for line in lines)


def test_images_of_one_group_get_one_number(folder: Path) -> None:
    text = "image,label,group\na.png,ant,p2\nb.png,bee,p1\nc.png,ant, p2\nd.png,bee,p3\n"
    groups = find_data(table(folder, text))["train"].groups
    assert groups is not None
    assert groups[0] == groups[2]
    assert len(set(groups.tolist())) == 3


def test_images_without_a_group_are_no_group_of_their_own(folder: Path) -> None:
    text = "image,label,group\na.png,ant,\nb.png,bee,p1\nc.png,ant,\nd.png,bee,p1\n"
    groups = find_data(table(folder, text))["train"].groups
    assert groups is not None
    assert len(set(groups.tolist())) == 3
    assert groups[1] == groups[3]


def test_without_a_group_column_there_are_no_groups(folder: Path) -> None:
    assert find_data(table(folder, SPELLINGS["plain"]))["train"].groups is None


def test_several_labels_an_image_and_none(folder: Path) -> None:
    text = "image,labels\na.png,red|ant\nb.png,\nc.png,bee\nd.png,red | bee|\n"
    data = find_data(table(folder, text))
    assert data.task == "multilabel"
    assert data.class_names == ("ant", "bee", "red")
    wanted = [[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 1, 1]]
    np.testing.assert_array_equal(data["train"].labels, np.array(wanted, dtype=bool))
    assert data["train"].labels.dtype == bool
    assert [data["train"].label_text(i) for i in range(4)] == ["ant|red", "", "bee", "bee|red"]


@pytest.mark.parametrize("column", ["value", "target", "Value"])
def test_numbers_are_a_regression(column: str, folder: Path) -> None:
    text = f"image,{column},split\na.png,1.5,train\nb.png,-2e3,val\nc.png, 7 ,train\n"
    data = find_data(table(folder, text))
    assert data.task == "regress"
    assert data.class_names == (column.lower(),)
    assert data["train"].labels.tolist() == [1.5, 7.0]
    assert data["val"].labels.tolist() == [-2000.0]
    assert data["train"].labels.dtype == np.float32


# Rows are counted as a spreadsheet does: the header is 1, and blank lines count.
PROBLEMS = {
    "an empty file": ("", r"columns \(none\)\nhint: the first line must be image,label"),
    "no column of labels": (
        "image,colour\na.png,red\n",
        "columns image, colour\nhint: .*image,lab",
    ),
    "no column of images": ("picture,label\na.png,ant\n", "columns picture, label\nhint: "),
    "no header": ("a.png,ant\nb.png,bee\n", r"columns a\.png, ant\nhint: the first line must be"),
    "semicolons": ("image;label\na.png;ant\n", "columns image;label\nhint: "),
    "a column twice": ("image,label,label\na.png,ant,bee\n", "two columns called 'label'\nhint: "),
    "classes and numbers": ("image,label,value\na.png,ant,1\n", "both 'label' and 'value'\nhint: "),
    "a short row": ("image,label\na.png,ant\n\nb.png\n", "row 4: 1 cells where the header has 2"),
    "a long row": (
        "image,label\na.png,ant, red\n",
        "(?s)row 2: 3 cells .* has 2: a.png,ant, red\nhint: .*double quotes",
    ),
    "an unknown split": (
        "image,label,split\na.png,ant,train\nb.png,bee,holdout\n",
        "row 3: unknown split 'holdout'\nhint: use train, val or test",
    ),
    "an empty split": ("image,label,split\na.png,ant,\n", "row 2: unknown split ''\nhint: "),
    "an empty label": ("image,label\na.png,ant\nb.png,\n", "row 3: no label\nhint: "),
    "an empty image": ("image,label\na.png,ant\n ,bee\n", "row 3: no image\nhint: "),
    "a word for a number": (
        "image,target\na.png,1\nb.png,ant\n",
        "row 3: 'ant' is no number\nhint: .*label",
    ),
    "no number": ("image,value\na.png,1\nb.png,\n", "row 3: '' is no number"),
    "not a number": ("image,value\na.png,1\nb.png,nan\n", "row 3: 'nan' is no number"),
    "an infinite number": ("image,value\na.png,inf\n", "row 2: 'inf' is no number"),
    "a number beyond float32": ("image,value\na.png,1e39\n", "row 2: '1e39' is no number"),
    "a header only": ("image,label\n\n", "no rows below its header"),
    "missing images": (
        "image,label\nimages/a.png,ant\nimages/b.png,bee\n",
        r"none of the first 2 images exists, such as .*images/a\.png\nhint: .*relative",
    ),
    "one class": (
        "image,label\na.png,ant\nb.png,ant\n",
        r"of 1 classes \(only 'ant'\); at least 2 .*\nhint: .*table",
    ),
    "no training images": ("image,label,split\na.png,ant,val\n", "has val, but no training images"),
    "labels that are only separators": (
        "image,label\na.png,|\nb.png,|\n",
        r"of 0 classes \(none\); at least 1 is needed\nhint: .*table",
    ),
    "a class that training lacks": (
        "image,label,split\na.png,ant,train\nb.png,bee,train\nc.png,wasp,val\n",
        "val split .* training images do not: wasp\nhint: training has ant, bee",
    ),
    "a field without an end": ('image,label\na.png,"' + "x" * 200_000, "no valid table: field"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_what_is_wrong_is_named_with_its_row(problem: str, folder: Path) -> None:
    text, message = PROBLEMS[problem]
    spec = table(folder, text)
    with pytest.raises(ValueError, match=message) as caught:
        find_data(spec)
    assert "table.csv" in str(caught.value)


def test_a_missing_image_among_others_is_found_when_it_is_read(folder: Path) -> None:
    train = find_data(table(folder, "image,label\nnone.png,ant\nb.png,bee\n"))["train"]
    assert train.read(1).width == 2
    with pytest.raises(ValueError, match=r"no such image: .*none\.png"):
        train.read(0)


def test_a_table_of_many_rows_takes_little_memory(folder: Path) -> None:
    text = "image,label\n" + "a.png,ant\nb.png,bee\n" * 5000
    data = find_data(table(folder, text))
    images = data["train"].images
    assert isinstance(images, ImageFiles)
    assert len(data["train"]) == 10_000
    assert images.paths.nbytes < 10_000 * (len("a.png") + 8) + 100


def test_a_patient_is_never_on_both_sides_of_the_cut(folder: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["image,label,group"]
    for patient in range(30):
        kind = ("ant", "bee")[patient % 2]
        lines += [f"a.png,{kind},p{patient}"] * int(rng.integers(1, 9))
    data = load_data(table(folder, "\n".join(lines)))
    train, val = data["train"], data["val"]
    assert train.groups is not None
    assert val.groups is not None
    assert not set(train.groups.tolist()) & set(val.groups.tolist())
    assert set(val.labels.tolist()) == {0, 1}
    assert len(val) / (len(train) + len(val)) == pytest.approx(0.15, abs=0.05)


def test_folds_of_patients_validate_every_image_once(folder: Path) -> None:
    lines = ["image,label,group,split", "d.png,ant,x,test", "d.png,bee,x,test"]
    for k in range(60):
        lines.append(f"a.png,{('ant', 'bee')[k % 2]},p{k // 3},train")
    spec = table(folder, "\n".join(lines))
    validated: list[int] = []
    for fold in range(4):
        settings = DataSettings(folds=4, fold=fold, near_duplicates=False)
        data = load_data(spec, settings)
        train, val = data["train"], data["val"]
        assert train.groups is not None
        assert val.groups is not None
        assert not set(train.groups.tolist()) & set(val.groups.tolist())
        assert len(train) + len(val) == 60
        assert len(data["test"]) == 2
        assert f"fold {fold} of 4" in data.notes[-1]
        validated += val.rows.tolist()
    assert sorted(validated) == list(range(2, 62))


def test_images_that_a_list_names_are_in_no_part(folder: Path) -> None:
    for k in range(20):
        Image.new("RGB", (k + 1, 3)).save(folder / f"{k}.png")
    text = "image,label\n" + "".join(f"{k}.png,{('ant', 'bee')[k % 2]}\n" for k in range(20))
    exclude = table(folder, "image\n3.png\n4.png\n", "exclude.csv")
    data = load_data(table(folder, text), DataSettings(exclude=exclude, near_duplicates=False))
    names = {part.name(i) for part in data.splits.values() for i in range(len(part))}
    assert names == {f"{k}.png" for k in range(20)} - {"3.png", "4.png"}
    assert data.notes[0] == "2 images left out, which exclude.csv names"
