"""Tables with named columns as files: CSV, or parquet with the extra ``data``."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from tessera.errors import RunError

TableFormat = Literal["csv", "parquet"]
"""Kinds of files; each is the suffix as well."""


def write_table(path: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    """Write columns of equal length to a file whose suffix says how, and return its path.

    In CSV, numbers have six digits, and truth is true or false. File names that are no UTF-8 are
    written with backslashes.

    Raises:
        RunError: It is parquet, and pyarrow is not installed.
    """
    if path.suffix == ".parquet":
        write_parquet(path, columns)
        return path
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([_clean(name) for name in columns])
        writer.writerows([_text(cell) for cell in row] for row in zip(*columns.values()))
    return path


def write_parquet(path: Path, columns: Mapping[str, Sequence[Any]]) -> None:
    """Write columns of equal length as parquet, whatever the file is called.

    Raises:
        RunError: pyarrow is not installed.
    """
    pyarrow = require_pyarrow()
    clean = {_clean(name): [_clean(cell) for cell in cells] for name, cells in columns.items()}
    pyarrow.parquet.write_table(pyarrow.table(clean), path)


def read_table(path: Path) -> dict[str, list[str]]:
    """Read a table that ``write_table`` wrote, every cell as the text that it has in CSV.

    Raises:
        ValueError: It is no such file.
        RunError: It is parquet, and pyarrow is not installed.
    """
    if path.suffix == ".parquet":
        pyarrow = require_pyarrow()
        try:
            columns = pyarrow.parquet.read_table(path).to_pydict()
        except (pyarrow.ArrowException, OSError) as error:
            raise ValueError(f"{path} is no parquet file: {error}") from error
        return {name: [_text(cell) for cell in cells] for name, cells in columns.items()}
    with path.open(encoding="utf-8", newline="") as file:
        try:
            names, *rows = list(csv.reader(file, strict=True))
            return {
                name: list(cells)
                for name, cells in zip(names, zip(*rows, strict=True), strict=True)
            }
        except (csv.Error, ValueError) as error:  # ragged, cut off, not UTF-8, or empty
            raise ValueError(f"{path} is no whole table with a header") from error


def require_pyarrow() -> Any:
    """Return pyarrow with its parquet part.

    Raises:
        RunError: It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise RunError(
            "parquet needs pyarrow\nhint: pip install 'tessera-vit[data]', or ask for csv"
        ) from error
    return pyarrow


def find_table(folder: Path, name: str) -> Path | None:
    """Return the table of this name in a folder, of whichever kind; None if there is none."""
    paths = [folder / f"{name}.{suffix}" for suffix in get_args(TableFormat)]
    return next((path for path in paths if path.is_file()), None)


def _clean(cell: Any) -> Any:
    if isinstance(cell, str):
        return cell.encode("utf-8", errors="backslashreplace").decode()
    return cell


def _text(cell: Any) -> str:
    match cell:
        case bool():
            return str(cell).lower()
        case float():
            return f"{cell:.6g}"
        case None:
            return ""
    return str(_clean(cell))
