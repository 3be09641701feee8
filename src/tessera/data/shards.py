"""Tar shards in WebDataset's layout: ``000123.jpg`` beside ``000123.cls`` or ``000123.json``.

The headers of the shards are read once, for where every member begins; images are then read in
place. So nothing is unpacked, the order of training is shuffled over all shards and not only
inside a buffer, and a run that is resumed goes on with the very image that was next.
"""

import io
import json
import os
import re
import tarfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tessera.data.arrow import split_of
from tessera.data.dataset import Dataset
from tessera.data.images import SUFFIXES, decoding, open_lazily
from tessera.data.splits import DataSplits, unite
from tessera.data.stored import FlatStrings, Images

BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
NAME_FILES = ("classnames.txt", "classes.txt", "labels.txt")
"""Beside the shards: the name of class k in line k."""


class TarImages(Images):
    """Members of tar files, read where they lie.

    Args:
        shards: The files.
        shard: For every image, which file it is in.
        offset: Where its bytes begin.
        size: How many there are.
        names: Of the members.
    """

    def __init__(
        self,
        shards: list[Path],
        shard: np.ndarray,
        offset: np.ndarray,
        size: np.ndarray,
        names: FlatStrings,
    ) -> None:
        self.shards = shards
        self.shard, self.offset, self.size, self.names = shard, offset, size, names

    def __len__(self) -> int:
        return len(self.shard)

    def name(self, index: int) -> str:
        return f"{self.shards[self.shard[index]].name}/{self.names[index]}"

    def fingerprint(self, index: int) -> bytes:
        return os.fsencode(f"{self.name(index)}:{self.size[index]}")

    def encoded(self, index: int) -> bytes:
        # Opening costs microseconds; kept open, thousands of shards would be too many files.
        with decoding(self.name(index)), self.shards[self.shard[index]].open("rb") as file:
            file.seek(self.offset[index])
            data = file.read(self.size[index])
            if len(data) < self.size[index]:
                raise OSError("the shard is truncated")
            return data

    def open(self, index: int) -> Image.Image:
        return open_lazily(io.BytesIO(self.encoded(index)), self.name(index))


def is_shards(spec: str) -> bool:
    """Whether DATA names tar files: one, even if compressed, a brace range, or a folder of them."""
    path = Path(spec).expanduser()
    if path.is_dir():
        return any(path.glob("*.tar")) or any(path.glob("*/*.tar"))
    return bool(re.search(r"\.(tar(\.\w+)?|tgz)$", spec))


def read_shards(spec: str) -> DataSplits:
    """Index the shards of ``DIR``, ``FILE.tar`` or ``train-{000..012}.tar``.

    The names of shards or of their folders say the split. A ``.cls`` member holds the class, by
    name or number; a ``.json`` member has it as ``label``, ``class`` or ``cls``. Numbers get the
    names of a ``classnames.txt`` beside the shards, if there is one.

    Raises:
        ValueError: No such file, a broken one, a compressed one, or an image without a class.
    """
    shards = _shard_paths(spec)
    root = Path(spec).expanduser()
    root = root if root.is_dir() else root.parent
    by_split: dict[str, list[Path]] = {}
    for path in shards:
        by_split.setdefault(split_of(path.relative_to(root)), []).append(path)
    given = _given_names(root) or _given_names(shards[0].parent)
    return unite(spec, {n: _index(paths, given) for n, paths in by_split.items()})


def _shard_paths(spec: str) -> list[Path]:
    path = Path(spec).expanduser()
    if path.is_dir():
        return sorted([*path.glob("*.tar"), *path.glob("*/*.tar")])
    match = BRACES.search(spec)
    if not match and not path.exists():
        raise ValueError(f"no data at {spec!r}\nhint: give a .tar file, or train-{{000..012}}.tar")
    if not match:
        return [path]
    first, last = match.groups()
    numbers = range(int(first), int(last) + 1)
    found = [Path(BRACES.sub(f"{n:0{len(first)}d}", spec, count=1)).expanduser() for n in numbers]
    missing = [p for p in found if not p.exists()]
    if not found:
        raise ValueError(f"{spec} is an empty range\nhint: give the first number first")
    if missing:
        names = ", ".join(p.name for p in missing[:3])
        raise ValueError(f"{spec}: {len(missing)} of {len(found)} shards are missing: {names}")
    return found


def _given_names(folder: Path) -> tuple[str, ...]:
    for name in NAME_FILES:
        if (folder / name).is_file():
            lines = (folder / name).read_text(encoding="utf-8").splitlines()
            return tuple(line.strip() for line in lines if line.strip())
    return ()


def _index(shards: list[Path], given: tuple[str, ...]) -> Dataset:
    """Read the headers of all shards of a split."""
    where = [array("q"), array("q"), array("q")]
    names: list[str] = []
    texts: dict[str, int] = {}
    codes = array("q")
    for number, path in enumerate(shards):
        for member, text in _samples(path):
            for numbers, value in zip(where, (number, member.offset_data, member.size)):
                numbers.append(value)
            names.append(member.name)
            codes.append(texts.setdefault(text, len(texts)))
    shard, offset, size = (np.frombuffer(numbers, dtype=np.int64) for numbers in where)
    images = TarImages(shards, shard, offset, size, FlatStrings(names))
    class_names, table = _number_classes(list(texts), given, shards[0])
    labels = table[np.frombuffer(codes, dtype=np.int64)]
    return Dataset(images, np.arange(len(images)), labels, class_names)


def _number_classes(
    texts: list[str], given: tuple[str, ...], shard: Path
) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the class names, and the number of each text."""
    if given and all(text.isdigit() for text in texts):
        numbers = np.array([int(text) for text in texts], dtype=np.int64)
        if numbers.size and numbers.max() >= len(given):
            raise ValueError(
                f"{shard.parent} has class {numbers.max()}, and only {len(given)} class names"
            )
        return given, numbers
    numeric = all(text.isdigit() for text in texts)
    names = tuple(sorted(texts, key=int if numeric else str))
    places = {name: k for k, name in enumerate(names)}
    return names, np.array([places[text] for text in texts], dtype=np.int64)


def _samples(path: Path) -> Iterator[tuple[tarfile.TarInfo, str]]:
    """Yield every image of a shard with the text of its class."""
    try:
        if path.stat().st_size % tarfile.BLOCKSIZE:  # which tarfile may take for the end
            raise tarfile.ReadError("it ends within a block")
        with tarfile.open(path, "r:") as file:
            key, image, text = "", None, None
            for member in file:
                if not member.isfile() or member.name.rpartition("/")[2].startswith("."):
                    continue
                stem, suffix = _split_name(member.name)
                if stem != key:
                    if image is not None:
                        yield image, _require(text, image, path)
                    key, image, text = stem, None, None
                if suffix in SUFFIXES:
                    image = member
                elif suffix in (".cls", ".json"):
                    text = _class_text(file, member, path) if text is None else text
            if image is not None:
                yield image, _require(text, image, path)
    except tarfile.TarError as error:
        raise ValueError(
            f"{path} is no complete tar file: {error}\nhint: compressed shards must be unpacked "
            "first, since images are read in place"
        ) from error


def _split_name(name: str) -> tuple[str, str]:
    """Split at the first dot of the file name, as WebDataset does."""
    folder, _, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    return f"{folder}/{stem}", (dot + suffix).lower()


def _class_text(file: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> str | None:
    stream = file.extractfile(member)
    text = stream.read().decode(errors="replace").strip() if stream else ""
    if member.name.lower().endswith(".cls"):
        return text
    try:
        value: Any = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path}/{member.name} is no valid JSON: {error}") from error
    keys = ("label", "class", "cls", "class_name")
    found = next((value[k] for k in keys if k in value), None) if isinstance(value, dict) else None
    if isinstance(found, list | dict):
        raise ValueError(
            f"{path}/{member.name}: the label {found} is no single class\n"
            "hint: several labels an image are read from a CSV or parquet"
        )
    return None if found is None else str(found)


def _require(text: str | None, image: tarfile.TarInfo, path: Path) -> str:
    if not text:
        raise ValueError(
            f"{path}: {image.name} has no class\n"
            "hint: a member of the same name with .cls, or .json with a label, must be beside it"
        )
    return text
