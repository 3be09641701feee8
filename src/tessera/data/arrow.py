"""Parquet in the Hugging Face layout, and folders written by ``datasets``' ``save_to_disk``.

Needs pyarrow, which the extra ``data`` installs.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tessera.data.dataset import Dataset, Task
from tessera.data.images import ImageError, open_lazily
from tessera.data.splits import SPLIT_NAMES, DataSplits, unite
from tessera.data.stored import Images
from tessera.errors import RunError

IMAGE_COLUMNS = ("image", "img", "jpg", "png", "picture")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "value")

IN_MEMORY = 2 * 2**30
"""Bytes of parquet that are held in memory; more is unpacked once to a file that is mapped."""


ENDS = 4096
"""Bytes at either end of an encoded image that its fingerprint depends on, beside its length."""


class ArrowImages(Images):
    """A column of encoded images: bytes, or structs of bytes and path."""

    def __init__(self, column: Any, prefix: str) -> None:
        self.column = column
        self.prefix = prefix
        self._structs = str(column.type).startswith("struct")

    def __len__(self) -> int:
        return len(self.column)

    def name(self, index: int) -> str:
        row = self.column[index]
        path = row["path"].as_py() if self._structs and "path" in row else None
        return f"{self.prefix}:{index}" + (f":{path}" if path else "")

    def encoded(self, index: int) -> bytes:
        data = self._bytes(index)
        if not data:
            raise ImageError(f"{self.name(index)} holds no bytes")
        return data.tobytes()

    def fingerprint(self, index: int) -> bytes:
        data = self._bytes(index)  # both ends of it, since a data set may be larger than the memory
        digest = hashlib.blake2b(b"%d:" % len(data), digest_size=8)
        digest.update(data[:ENDS])
        digest.update(data[-ENDS:])
        return digest.digest()

    def open(self, index: int) -> Image.Image:
        return open_lazily(io.BytesIO(self.encoded(index)), self.name(index))

    def _bytes(self, index: int) -> memoryview:
        """Return the encoded image where it lies, without a copy; empty if there is none."""
        row = self.column[index]
        buffer = (row["bytes"] if self._structs else row).as_buffer()
        return memoryview(buffer or b"")


def import_arrow() -> Any:
    """Return pyarrow with its parquet part.

    Raises:
        RunError: It is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise RunError(
            "reading parquet and arrow files needs pyarrow\nhint: pip install 'tessera-vit[data]'"
        ) from error
    return pyarrow


def read_parquet(spec: str) -> DataSplits:
    """Read a parquet file, or a folder of shards whose names say the split.

    A column of images (bytes, or structs with bytes) and one of labels are wanted: ClassLabel,
    whole numbers or words are classes; lists of these are several labels an image; fractions are a
    regression.

    Raises:
        ValueError: No such columns, or a file that is no parquet.
        RunError: pyarrow is not installed.
    """
    root = Path(spec).expanduser()
    files = [root] if root.is_file() else sorted(root.rglob("*.parquet"))
    by_split: dict[str, list[Path]] = {}
    for file in files:
        name = file.relative_to(root) if file != root else Path(root.name)
        by_split.setdefault(split_of(name), []).append(file)
    parts = {name: _parquet_table(parquets) for name, parquets in by_split.items()}
    return unite(spec, {n: _dataset(spec, table, n, None) for n, table in parts.items()})


def split_of(path: Path) -> str:
    """Return the split that a file's name means, or else its folders', the nearest first.

    Args:
        path: Relative to DATA, whose own name says nothing: it may be ``flowers_test``.
    """
    for part in (path.name, *reversed(path.parent.parts)):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in SPLIT_NAMES:
                return SPLIT_NAMES[word]
    return "train"


def read_saved(spec: str) -> DataSplits:
    """Read what ``datasets``' ``save_to_disk`` wrote: one data set, or a dictionary of splits.

    Raises:
        ValueError: No images and labels in it, two splits for one purpose, or files that cannot be
            read.
        RunError: pyarrow is not installed.
    """
    root = Path(spec).expanduser()
    notes: list[str] = []
    parts = {}
    for name, folder in _saved_folders(root, notes).items():
        table, features = _saved_table(folder)
        parts[name] = _dataset(spec, table, name, features)
    return unite(spec, parts, notes)


def _saved_folders(root: Path, notes: list[str]) -> dict[str, Path]:
    """Return the folder of each split."""
    if not (root / "dataset_dict.json").is_file():
        return {"train": root}
    with _complete(root):
        names = json.loads((root / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
    found: dict[str, str] = {}
    for name in names:
        split = SPLIT_NAMES.get(name.lower())
        if split in found:
            raise ValueError(
                f"{root} has two {split} splits: {found[split]} and {name}\nhint: keep one"
            )
        if split:
            found[split] = name
    unknown = [name for name in names if name not in found.values()]
    if unknown:
        notes.append(f"splits of unknown names are left out: {', '.join(unknown)}")
    return {split: root / name for split, name in found.items()}


@contextmanager
def _complete(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError) as error:  # ArrowInvalid is a ValueError
        raise ValueError(
            f"{folder} is no complete saved data set: {error!r}\n"
            "hint: write it again with `save_to_disk`"
        ) from error


def _saved_table(folder: Path) -> tuple[Any, dict[str, Any]]:
    arrow = import_arrow()
    with _complete(folder):
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
        files = [folder / entry["filename"] for entry in state["_data_files"]]
        tables = [arrow.ipc.open_stream(arrow.memory_map(str(f))).read_all() for f in files]
        return arrow.concat_tables(tables), info.get("features") or {}


def _parquet_table(files: list[Path]) -> Any:
    """Join the shards of a split, in memory or mapped from an unpacked copy."""
    arrow = import_arrow()
    opened = {}
    for file in files:
        with _readable(arrow, file):
            opened[file] = arrow.parquet.ParquetFile(file, memory_map=True)
    size = sum(f.metadata.row_group(k).total_byte_size for f in opened.values() for k in _groups(f))
    if size > IN_MEMORY:
        copy = _unpacked(files)
        if not copy.exists():
            _unpack(arrow, opened, copy)
        return arrow.ipc.open_file(arrow.memory_map(str(copy))).read_all()
    tables = []
    for file, content in opened.items():
        with _readable(arrow, file):
            tables.append(content.read())
    with _readable(arrow, *files):
        return arrow.concat_tables(tables)


@contextmanager
def _readable(arrow: Any, *files: Path) -> Iterator[None]:
    try:
        yield
    except (arrow.ArrowException, OSError) as error:
        names = ", ".join(str(file) for file in files[:3])
        raise ValueError(f"{names} cannot be read as parquet: {error}") from error


def _groups(file: Any) -> range:
    return range(file.metadata.num_row_groups)


def _unpacked(files: list[Path]) -> Path:
    """Where the unpacked copy of these very files lies."""
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    name = hashlib.sha256(repr(stats).encode()).hexdigest()[:24]
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "tessera" / "unpacked" / f"{name}.arrow"


def _unpack(arrow: Any, opened: dict[Path, Any], copy: Path) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    part = copy.with_name(f"{copy.name}.{os.getpid()}.part")
    try:
        schema = next(iter(opened.values())).schema_arrow
        with arrow.ipc.new_file(str(part), schema) as writer:
            for file, content in opened.items():
                with _readable(arrow, file):
                    for batch in content.iter_batches(batch_size=1024):
                        writer.write_batch(batch)
        part.replace(copy)
    finally:
        part.unlink(missing_ok=True)


def _dataset(spec: str, table: Any, split: str, features: dict[str, Any] | None) -> Dataset:
    if features is None:
        told = (table.schema.metadata or {}).get(b"huggingface", b"{}")
        features = json.loads(told).get("info", {}).get("features", {})
    known = {n: f for n, f in features.items() if isinstance(f, dict)}
    typed = {kind: [n for n, f in known.items() if f.get("_type") == kind] for kind in _TYPED}
    columns = table.column_names
    usual = [n for n in LABEL_COLUMNS if n in typed["ClassLabel"]]
    labels = (*usual, *typed["ClassLabel"], *LABEL_COLUMNS)
    image = next((n for n in (*typed["Image"], *IMAGE_COLUMNS) if n in columns), None)
    label = next((n for n in labels if n in columns), None)
    if image is None or label is None:
        raise ValueError(
            f"{spec} has columns {', '.join(columns)}\nhint: it needs an image and a label"
        )
    feature = known.get(label, {})
    inner = feature.get("feature", feature)
    declared = inner.get("names") if isinstance(inner, dict) else None
    kind = str(table.column(image).type)
    if kind not in ("binary", "large_binary") and not re.match(r"struct<.*\bbytes: ", kind):
        raise ValueError(
            f"{spec}: column {image} holds {kind}\nhint: it must hold encoded images as bytes, "
            "or structs with a field called bytes"
        )
    values, names, task = _labels(f"{spec}, split {split}", table.column(label), declared, label)
    images = ArrowImages(table.column(image), f"{Path(spec).name}/{split}")
    return Dataset(images, np.arange(len(values)), values, names, task)


_TYPED = ("Image", "ClassLabel")


def _labels(
    where: str, column: Any, declared: list[str] | None, name: str
) -> tuple[np.ndarray, tuple[str, ...], Task]:
    values = column.to_pylist()
    missing = sum(v is None or v != v or (isinstance(v, list) and None in v) for v in values)
    if missing:
        raise ValueError(f"{where}: {missing} rows have no {name}\nhint: leave these rows out")
    if values and isinstance(values[0], float):
        return np.array(values, dtype=np.float32), (name,), "regress"
    several = bool(values) and isinstance(values[0], list)
    flat = [v for row in values for v in row] if several else values
    if not all(isinstance(v, int | str) for v in flat):
        raise ValueError(
            f"{where}: {name} holds {column.type}\n"
            "hint: whole numbers, words, lists of these, or fractions are wanted"
        )
    if declared is None:
        present = sorted(set(flat))
        names = tuple(str(v) for v in present)
        numbers = {v: k for k, v in enumerate(present)}
        rows = [[numbers[v] for v in (row if several else [row])] for row in values]
    else:
        names = tuple(declared)
        rows = [row if several else [row] for row in values]
        wrong = [v for v in flat if not 0 <= v < len(names)]
        if wrong:
            raise ValueError(
                f"{where}: {name} {wrong[0]} is none of its {len(names)} class names"
                + ("\nhint: -1 often means that labels are held back" if wrong[0] == -1 else "")
            )
    if not several:
        return np.array(rows, dtype=np.int64).reshape(-1), names, "classify"
    table = np.zeros((len(rows), len(names)), dtype=bool)
    for k, row in enumerate(rows):
        table[k, row] = True
    return table, names, "multilabel"
