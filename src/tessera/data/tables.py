"""A CSV or TSV file with a row for every image."""

import csv
import math
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tessera.data.dataset import Dataset, Task
from tessera.data.splits import SPLIT_NAMES, DataSplits, unite
from tessera.data.stored import ImageFiles

if TYPE_CHECKING:
    IntArray = array[int]
else:
    IntArray = array  # cannot be subscripted before Python 3.12

IMAGE_COLUMNS = ("image", "path", "file", "filename", "file_name", "filepath", "image_path")
LABEL_COLUMNS = ("label", "labels", "class", "category")
NUMBER_COLUMNS = ("value", "target")

SEPARATOR = "|"
"""Between the labels of an image that has several."""

LARGEST = float(np.finfo(np.float32).max)
"""Number that can be learnt."""

LOOKED_AT = 100
"""Rows of which at least one image must exist; the others are found missing when they are read."""


def read_table(spec: str) -> DataSplits:
    """Read ``image,label[,split][,group]``, or ``image,value`` for a regression.

    Paths are relative to the file. One label with ``|`` makes it a task of several labels an
    image, of which there may be none. Images of one group stay on one side of a split.

    Raises:
        ValueError: A column is missing, a row is not complete, or a split is not known; the message
            gives the row, the header being 1.
    """
    path = Path(spec).expanduser()
    rows = _Rows()
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        try:
            columns = _find_columns(spec, next(reader, []))
            complete = _complete_rows(reader, columns.width, spec)
            images = ImageFiles(path.parent, rows.paths(complete, columns, spec))
        except csv.Error as error:
            raise ValueError(f"{spec} is no valid table: {error}") from error
    if not len(images):
        raise ValueError(f"{spec} has no rows below its header")
    some = [images.path(i) for i in range(min(len(images), LOOKED_AT))]
    if not any(p.exists() for p in some):
        raise ValueError(
            f"{spec}: none of the first {len(some)} images exists, such as {some[0]}\n"
            "hint: paths are relative to the folder of the table"
        )
    whole = rows.dataset(images, columns, spec)
    places = np.frombuffer(rows.splits, dtype=np.int8)
    names = ("train", "val", "test")
    parts = {n: whole.subset(np.flatnonzero(places == k)) for k, n in enumerate(names)}
    return unite(spec, {n: part for n, part in parts.items() if len(part)})


@dataclass(frozen=True)
class _Columns:
    """Places of the columns in a row."""

    image: int
    label: int
    split: int | None
    group: int | None
    number: str
    """Name of the column of numbers, for a regression; else empty."""
    width: int


def _find_columns(spec: str, header: list[str]) -> _Columns:
    words = [name.strip().lower() for name in header]
    places = {name: k for k, name in enumerate(words)}

    def first(wanted: Iterable[str]) -> str:
        return next((name for name in wanted if name in places), "")

    image, label, number = first(IMAGE_COLUMNS), first(LABEL_COLUMNS), first(NUMBER_COLUMNS)
    if not image or not (label or number):
        raise ValueError(
            f"{spec} has columns {', '.join(header) or '(none)'}\n"
            "hint: the first line must be image,label or image,label,split,group; "
            "or image,value for a regression"
        )
    if label and number:
        raise ValueError(
            f"{spec} has both {label!r} and {number!r}\nhint: keep classes or numbers, not both"
        )
    used = (image, label or number, "split", "group")
    twice = next((name for name in used if words.count(name) > 1), None)
    if twice:
        raise ValueError(f"{spec} has two columns called {twice!r}\nhint: keep one")
    return _Columns(
        image=places[image],
        label=places[label or number],
        split=places.get("split"),
        group=places.get("group"),
        number=number,
        width=len(header),
    )


def _complete_rows(
    reader: Iterable[list[str]], width: int, spec: str
) -> Iterator[tuple[int, list[str]]]:
    """Yield rows that are not empty, with their number, the header being 1."""
    for number, cells in enumerate(reader, 2):
        if not any(cells):
            continue
        if len(cells) != width:
            raise ValueError(
                f"{spec}, row {number}: {len(cells)} cells where the header has {width}: "
                f"{','.join(cells)[:80]}\nhint: put a cell that holds a comma in double quotes"
            )
        yield number, cells


@dataclass
class _Rows:
    """What the rows say, in flat arrays."""

    codes: IntArray = field(default_factory=lambda: array("q"))
    """Place in ``texts`` of every row's label."""
    texts: dict[str, int] = field(default_factory=dict)
    groups: IntArray = field(default_factory=lambda: array("q"))
    group_names: dict[str, int] = field(default_factory=dict)
    splits: IntArray = field(default_factory=lambda: array("b"))
    first_row: dict[str, int] = field(default_factory=dict)
    """Of every label, for messages."""

    def paths(
        self, rows: Iterable[tuple[int, list[str]]], columns: _Columns, spec: str
    ) -> Iterator[str]:
        """Yield the path of every row, and keep the rest of it."""
        for number, cells in rows:
            text = cells[columns.label].strip()
            self.first_row.setdefault(text, number)
            self.codes.append(self.texts.setdefault(text, len(self.texts)))
            if columns.group is not None:
                # An image without a group is by itself, not with all others without one.
                name = cells[columns.group].strip() or f"\0{number}"
                self.groups.append(self.group_names.setdefault(name, len(self.group_names)))
            word = cells[columns.split].strip().lower() if columns.split is not None else "train"
            if word not in SPLIT_NAMES:
                raise ValueError(
                    f"{spec}, row {number}: unknown split {word!r}\nhint: use train, val or test"
                )
            self.splits.append(("train", "val", "test").index(SPLIT_NAMES[word]))
            path = cells[columns.image].strip()
            if not path:
                raise ValueError(f"{spec}, row {number}: no image\nhint: fill it, or drop the row")
            yield path

    def dataset(self, images: ImageFiles, columns: _Columns, spec: str) -> Dataset:
        """Put it together: decide the task, and number the labels."""
        codes = np.frombuffer(self.codes, dtype=np.int64)
        groups = np.frombuffer(self.groups, dtype=np.int64) if len(self.groups) else None
        task: Task = "classify"
        names: tuple[str, ...]
        if columns.number:
            task, names = "regress", (columns.number,)
            table = np.array([self._number(text, spec) for text in self.texts], dtype=np.float32)
        elif any(SEPARATOR in text for text in self.texts):
            task = "multilabel"
            held = [{p.strip() for p in text.split(SEPARATOR)} - {""} for text in self.texts]
            names = tuple(sorted(set().union(*held)))
            table = np.array([[name in labels for name in names] for labels in held])
        else:
            if "" in self.texts:
                raise ValueError(
                    f"{spec}, row {self.first_row['']}: no label\nhint: fill it, or drop the row"
                )
            names = tuple(sorted(self.texts))
            numbers = {name: k for k, name in enumerate(names)}
            table = np.array([numbers[text] for text in self.texts], dtype=np.int64)
        return Dataset(images, np.arange(len(images)), table[codes], names, task, groups)

    def _number(self, text: str, spec: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not abs(number) <= LARGEST:
            raise ValueError(
                f"{spec}, row {self.first_row[text]}: {text!r} is no number\n"
                "hint: call the column label if it holds classes"
            )
        return number
