"""The DATA argument: one grammar for everything that images come in."""

import csv
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np

from tessera.data.archives import ARCHIVES, EMBEDDED
from tessera.data.arrow import read_parquet, read_saved
from tessera.data.dataset import Dataset
from tessera.data.folders import read_folder
from tessera.data.shards import is_shards, read_shards
from tessera.data.splits import DataSplits, unite
from tessera.data.tables import read_table

GRAMMAR = (
    "a folder with one folder of images per class, a CSV or TSV table, parquet, tar shards, a "
    f"folder saved by datasets, {', '.join(f'{name}:FOLDER' for name in ARCHIVES)}, "
    f"or {', '.join(EMBEDDED)}"
)


def _is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet" or (path.is_dir() and any(path.rglob("*.parquet")))


def _is_saved(path: Path) -> bool:
    inside = ("dataset_dict.json", "state.json")
    return path.is_dir() and any((path / name).is_file() for name in inside)


KINDS: dict[str, tuple[Callable[[Path], bool], Callable[[str], DataSplits]]] = {
    "a table": (lambda path: path.suffix.lower() in (".csv", ".tsv"), read_table),
    "a folder saved by datasets": (_is_saved, read_saved),
    "parquet": (_is_parquet, read_parquet),
    "tar shards": (lambda path: is_shards(str(path)), read_shards),
    "class folders": (Path.is_dir, read_folder),
}
"""How to know each kind of DATA, and how to read it; class folders are what is left."""


def find_data(spec: str) -> DataSplits:
    """Find the images and labels that DATA names, in the splits that it has itself.

    Args:
        spec: See ``GRAMMAR``.

    Raises:
        ValueError: No such source, or one that cannot be read; the message says what is wanted.
        RunError: A library that this kind of data needs is not installed.
    """
    name, colon, _ = spec.partition(":")
    if spec in EMBEDDED:
        return EMBEDDED[spec](spec)
    if colon and name in ARCHIVES:
        return ARCHIVES[name](spec)
    path = Path(spec).expanduser()
    if not path.exists() and not is_shards(spec):
        raise ValueError(f"no data at {spec!r}\nhint: give {GRAMMAR}")
    for known, read in KINDS.values():
        if known(path):
            return read(spec)
    raise ValueError(f"{spec} is a file of an unknown kind\nhint: give {GRAMMAR}")


def exclude(data: DataSplits, table: str | Path) -> DataSplits:
    """Leave out the images that the column ``image`` of a CSV names, such as the doctor's.

    Raises:
        ClassMapError: A split is left with a class that training has lost.
        ValueError: No such file or column, or too few images are left.
    """
    path = Path(table).expanduser()
    if not path.is_file():
        raise ValueError(f"no list of images to leave out at {table}")
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        rows = csv.DictReader(file)
        if "image" not in (rows.fieldnames or ()):
            raise ValueError(
                f"{table} has no column image\nhint: `tessera doctor` writes such a CSV"
            )
        try:
            names = {row["image"] for row in rows}
        except csv.Error as error:
            raise ValueError(f"{table} is no valid table: {error}") from error
    splits, found = {}, 0
    for split, part in data.splits.items():
        keep = _not_in(part, names)
        found += len(part) - len(keep)
        splits[split] = part.subset(keep)
    note = f"{found} images left out, which {path.name} names"
    if found < len(names):
        note += f" ({len(names) - found} of its names are not in the data)"
    return unite(data.spec, splits, (*data.notes, note))


def _not_in(data: Dataset, names: Collection[str]) -> np.ndarray:
    return np.array([i for i in range(len(data)) if data.name(i) not in names], dtype=np.int64)
