"""The DATA argument: one grammar for everything that images come in."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tessera.data.dataset import Dataset, ImageArrays, ImageFiles, stratified_split
from tessera.data.images import SUFFIXES

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
"""Folder names that mean a split, in lower case."""

DIGITS_TEST_FRACTION = 0.2
"""The share of the handwritten digits that training never sees."""


@dataclass(frozen=True)
class DataSplits:
    """Training, validation and test images with one class map for all of them."""

    spec: str
    """The DATA argument they come from."""
    splits: dict[str, Dataset]
    """train and val always, test where the data has one."""
    notes: tuple[str, ...] = ()
    """What a user should know about how the images were found and split, a sentence each."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.splits["train"].class_names

    def __getitem__(self, split: str) -> Dataset:
        if split not in self.splits:
            raise ValueError(
                f"{self.spec} has no split {split!r}\nhint: it has {', '.join(self.splits)}"
            )
        return self.splits[split]


def load_data(spec: str, *, val_fraction: float = 0.15) -> DataSplits:
    """Find the images and classes that DATA names, and cut a validation split if it has none.

    Args:
        spec: ``digits``, or a folder of class folders, with or without ``train``,
            ``val|valid|validation`` and ``test`` folders around them.
        val_fraction: Share of the training images to hold out; stratified, always the same ones.

    Raises:
        ValueError: No such source, no images, fewer than two classes, no class of two images to
            cut validation from, or a split with a class that the training images do not have.
    """
    found = EMBEDDED[spec]() if spec in EMBEDDED else _folder(spec)
    if "val" not in found.splits:
        rest, cut = stratified_split(found.splits["train"].labels, val_fraction)
        train = found.splits["train"]
        if not len(cut):
            raise ValueError(
                f"{spec} has no validation split, and one image a class is too few to cut one off\n"
                "hint: add images, or a val folder"
            )
        parts = {"train": train.subset(rest), "val": train.subset(cut)}
        note = f"no validation split: {len(cut)} of {len(train)} training images held out for it"
        splits = {**parts, **{k: v for k, v in found.splits.items() if k != "train"}}
        found = DataSplits(spec, splits, (*found.notes, note))
    return found


def _digits() -> DataSplits:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels (Alpaydin and Kaynak, 1998)."""
    from sklearn.datasets import load_digits  # slow to import, and only wanted here

    raw = load_digits()
    pixels = (raw.images * (255 / 16)).round().astype(np.uint8)  # 17 levels to bytes
    labels = raw.target.astype(np.int64)
    names = tuple(str(name) for name in raw.target_names)
    whole = Dataset(ImageArrays(pixels, "digits/"), np.arange(len(labels)), labels, names)
    rest, test = stratified_split(labels, DIGITS_TEST_FRACTION)
    return DataSplits("digits", {"train": whole.subset(rest), "test": whole.subset(test)})


EMBEDDED: dict[str, Callable[[], DataSplits]] = {"digits": _digits}


def _folder(spec: str) -> DataSplits:
    root = Path(spec).expanduser()
    if not root.exists():
        raise ValueError(
            f"no data at {spec!r}\n"
            f"hint: give a folder with one folder of images per class, or {', '.join(EMBEDDED)}"
        )
    if not root.is_dir():
        raise ValueError(f"{spec} is a file\nhint: give a folder with one folder per class")
    folders = _subfolders(root)
    by_split: dict[str, Path] = {}
    for folder in folders:
        split = SPLIT_FOLDERS.get(folder.name.lower())
        if split and _subfolders(folder):
            if split in by_split:
                raise ValueError(
                    f"{spec} has two folders for the {split} split: "
                    f"{by_split[split].name} and {folder.name}\nhint: keep one"
                )
            by_split[split] = folder
    if not by_split:
        by_split = {"train": root}
    elif "train" not in by_split:
        raise ValueError(f"{spec} has {', '.join(by_split)} but no train folder")
    return _read_splits(spec, root, by_split)


def _read_splits(spec: str, root: Path, by_split: dict[str, Path]) -> DataSplits:
    notes: list[str] = []
    found = {split: _class_files(folder, root, notes) for split, folder in by_split.items()}
    class_names = tuple(sorted(name for name, files in found["train"].items() if files))
    empty = sorted(name for name, files in found["train"].items() if not files)
    if empty:
        notes.append(f"class folders without images are left out: {', '.join(empty)}")
    if len(class_names) < 2:
        raise ValueError(
            f"{by_split['train']} has images of {len(class_names)} classes; at least 2 are needed\n"
            "hint: put the images of each class into a folder that bears its name"
        )
    splits: dict[str, Dataset] = {}
    for split in (s for s in ("train", "val", "test") if s in found):
        unknown = sorted(n for n, files in found[split].items() if files and n not in class_names)
        if unknown:
            raise ValueError(
                f"{by_split[split]} has classes that the training images do not: "
                f"{', '.join(unknown)}\nhint: training has {', '.join(class_names)}"
            )
        paths = [path for name in class_names for path in found[split].get(name, [])]
        counts = [len(found[split].get(name, [])) for name in class_names]
        if not paths:
            raise ValueError(f"{by_split[split]} has no images\nhint: fill it, or remove it")
        labels = np.repeat(np.arange(len(class_names)), counts)
        splits[split] = Dataset(ImageFiles(root, paths), np.arange(len(paths)), labels, class_names)
    return DataSplits(spec, splits, tuple(notes))


def _class_files(folder: Path, root: Path, notes: list[str]) -> dict[str, list[str]]:
    """Class names and the images below each, as sorted paths relative to the root."""
    found: dict[str, list[str]] = {}
    loose = sum(_is_image(path.name) for path in folder.iterdir() if path.is_file())
    if loose:
        notes.append(f"{loose} images in {folder} are in no class folder and are left out")
    skipped = 0
    for class_folder in _subfolders(folder):
        files: list[str] = []
        for parent, inner, names in os.walk(class_folder):
            inner[:] = [name for name in inner if not name.startswith(".")]
            for name in names:
                if _is_image(name):
                    files.append(Path(parent, name).relative_to(root).as_posix())
                else:
                    skipped += 1
        found[class_folder.name] = sorted(files)
    if skipped:
        notes.append(f"{skipped} files below {folder} are no images and are left out")
    return found


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def _subfolders(folder: Path) -> list[Path]:
    """Folders in order of name, without hidden ones such as .ipynb_checkpoints."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
