"""Parquet in the Hugging Face layout, and folders written by ``datasets``' ``save_to_disk``.

Needs pyarrow, which the extra ``data`` installs.
"""

import hashlib
import io
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tessera.data.dataset import Dataset, Task
from tessera.data.images import ImageError, decoding, open_lazily
from tessera.data.splits import SPLIT_NAMES, DataSplits, unite
from tessera.data.stored import Images
from tessera.errors import RunError

IMAGE_COLUMNS = ("image", "img", "jpg", "png", "picture")
LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "target", "value")

IN_MEMORY = 2 * 2**30
"""Bytes of parquet that are held in memory; more is unpacked once to a file that is mapped."""


class ArrowImages(Images):
    """A column of encoded images: bytes, or structs of bytes and path."""

    def __init__(self, column: Any, prefix: str) -> None:
        self.column = column
        self.prefix = prefix

    def __len__(self) -> int:
        return len(self.column)

    def name(self, index: int) -> str:
        value = self.column[index].as_py()
        path = value.get("path") if isinstance(value, dict) else None
        return f"{self.prefix}:{index}" + (f":{path}" if path else "")

    def encoded(self, index: int) -> bytes:
        value = self.column[index].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data:
            raise ImageError(f"{self.name(index)} holds no bytes")
        return bytes(data)

    def fingerprint(self, index: int) -> bytes:
        value = self.column[index].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        return hashlib.blake2b(data or b"", digest_size=8).digest()

    def open(self, index: int) -> Image.Image:
        data = self.encoded(index)
        with decoding(self.prefix):
            return open_lazily(io.BytesIO(data), self.name(index))


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
        by_split.setdefault(split_of(file.relative_to(root.parent)), []).append(file)
    parts = {name: _parquet_table(parquets) for name, parquets in by_split.items()}
    return unite(spec, {n: _dataset(spec, table, n, None) for n, table in parts.items()})


def split_of(path: Path) -> str:
    """Return the split that a file's name means, or else its folders', the nearest first."""
    for part in (path.name, *reversed(path.parent.parts)):
        for word in re.split(r"[^a-z]+", part.lower()):
            if word in SPLIT_NAMES:
                return SPLIT_NAMES[word]
    return "train"


def read_saved(spec: str) -> DataSplits:
    """Read what ``datasets``' ``save_to_disk`` wrote: one data set, or a dictionary of splits.

    Raises:
        ValueError: No images and labels in it, or files that cannot be read.
        RunError: pyarrow is not installed.
    """
    root = Path(spec).expanduser()
    inside = root / "dataset_dict.json"
    folders = {"train": root}
    if inside.is_file():
        names = json.loads(inside.read_text(encoding="utf-8"))["splits"]
        folders = {SPLIT_NAMES.get(name.lower(), name): root / name for name in names}
    splits = {name: _saved_table(folder) for name, folder in folders.items()}
    return unite(
        spec,
        {
            name: _dataset(spec, table, name, features)
            for name, (table, features) in splits.items()
            if name in SPLIT_NAMES
        },
    )


def _saved_table(folder: Path) -> tuple[Any, dict[str, Any]]:
    arrow = import_arrow()
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
        files = [folder / entry["filename"] for entry in state["_data_files"]]
        tables = [arrow.ipc.open_stream(arrow.memory_map(str(f))).read_all() for f in files]
        return arrow.concat_tables(tables), info.get("features") or {}
    except (OSError, ValueError, KeyError, arrow.ArrowInvalid) as error:
        raise ValueError(f"{folder} is no complete saved data set: {error}") from error


def _parquet_table(files: list[Path]) -> Any:
    """Join the shards of a split, in memory or mapped from an unpacked copy."""
    arrow = import_arrow()
    try:
        opened = [arrow.parquet.ParquetFile(file, memory_map=True) for file in files]
        size = sum(f.metadata.row_group(k).total_byte_size for f in opened for k in _groups(f))
        if size <= IN_MEMORY:
            return arrow.concat_tables([file.read() for file in opened])
        copy = _unpacked(files)
        if not copy.exists():
            _unpack(arrow, opened, copy)
        return arrow.ipc.open_file(arrow.memory_map(str(copy))).read_all()
    except (arrow.ArrowInvalid, arrow.ArrowTypeError, OSError) as error:
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


def _unpack(arrow: Any, files: Iterable[Any], copy: Path) -> None:
    copy.parent.mkdir(parents=True, exist_ok=True)
    part = copy.with_name(f"{copy.name}.{os.getpid()}.part")
    try:
        files = list(files)
        with arrow.ipc.new_file(str(part), files[0].schema_arrow) as writer:
            for file in files:
                for batch in file.iter_batches(batch_size=1024):
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
    image = next((n for n in (*typed["Image"], *IMAGE_COLUMNS) if n in columns), None)
    label = next((n for n in (*typed["ClassLabel"], *LABEL_COLUMNS) if n in columns), None)
    if image is None or label is None:
        raise ValueError(
            f"{spec} has columns {', '.join(columns)}\nhint: it needs an image and a label"
        )
    feature = known.get(label, {})
    inner = feature.get("feature", feature)
    declared = inner.get("names") if isinstance(inner, dict) else None
    labels, names, task = _labels(spec, table.column(label), declared, label)
    images = ArrowImages(table.column(image), f"{Path(spec).name}/{split}")
    return Dataset(images, np.arange(len(labels)), labels, names, task)


_TYPED = ("Image", "ClassLabel")


def _labels(
    spec: str, column: Any, declared: list[str] | None, name: str
) -> tuple[np.ndarray, tuple[str, ...], Task]:
    if column.null_count:
        raise ValueError(f"{spec}: {column.null_count} rows have no {name}")
    values = column.to_pylist()
    if values and isinstance(values[0], float):
        return np.array(values, dtype=np.float32), (name,), "regress"
    several = bool(values) and isinstance(values[0], list)
    flat = [v for row in values for v in row] if several else values
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
            raise ValueError(f"{spec}: {name} {wrong[0]} is none of its {len(names)} class names")
    if not several:
        return np.array(rows, dtype=np.int64).reshape(-1), names, "classify"
    table = np.zeros((len(rows), len(names)), dtype=bool)
    for k, row in enumerate(rows):
        table[k, row] = True
    return table, names, "multilabel"
