"""A folder with one folder of images per class, with or without splits around them."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tessera.data.dataset import Dataset
from tessera.data.images import SUFFIXES
from tessera.data.splits import SPLIT_NAMES, DataSplits, unite
from tessera.data.stored import ImageFiles

JUNK_FOLDERS = {"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "lost+found"}
"""Folders that systems leave behind; those whose name begins with a dot are junk as well."""


def read_folder(spec: str) -> DataSplits:
    """Find class folders; images may lie at any depth below them.

    Raises:
        ValueError: No images of two classes, two folders for one split, no training folder, or a
            class that training lacks.
    """
    root = Path(spec).expanduser()
    notes: list[str] = []
    splits = {
        name: _class_folders(root, folder, notes)
        for name, folder in split_folders(spec, root).items()
    }
    return unite(spec, splits, notes)


def split_folders(spec: str, root: Path) -> dict[str, str]:
    """Return the folder of each split, relative to the root; ``train: ""`` where there is none.

    A folder called ``train`` with no folders inside is a class of trains.

    Raises:
        ValueError: Two folders mean the same split, or none is for training.
    """
    found: dict[str, str] = {}
    for name in subfolders(root):
        split = SPLIT_NAMES.get(name.lower())
        if split and subfolders(root / name):
            if split in found:
                raise ValueError(
                    f"{spec} has two folders for the {split} split: {found[split]} and {name}\n"
                    "hint: keep one"
                )
            found[split] = name
    if found and "train" not in found:
        raise ValueError(f"{spec} has {', '.join(found)} but no train folder")
    return found or {"train": ""}


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, in order, without junk."""
    with os.scandir(folder) as entries:
        return sorted(e.name for e in entries if e.is_dir() and not is_junk(e.name))


def is_junk(folder_name: str) -> bool:
    """Whether a folder is something that systems leave behind, such as .ipynb_checkpoints."""
    return folder_name.startswith(".") or folder_name in JUNK_FOLDERS


def is_image_name(name: str) -> bool:
    """Whether a file name looks like an image's."""
    dot = name.rfind(".")
    return dot > 0 and name[dot:].lower() in SUFFIXES and not name.startswith(".")


def _class_folders(root: Path, folder: str, notes: list[str]) -> Dataset:
    """Read the class folders in one folder; every immediate subfolder is a class."""
    top = root / folder if folder else root
    loose = sum(is_image_name(e.name) for e in os.scandir(top) if e.is_file())
    if loose:
        notes.append(f"{loose} images in {top} are in no class folder and are left out")
    names = tuple(subfolders(top))
    skipped: list[str] = []
    paths: list[str] = []
    counts: list[int] = []
    for name in names:
        inside = sorted(_images_below(root, f"{folder}/{name}" if folder else name, skipped))
        paths += inside
        counts.append(len(inside))
    skipped += sorted(e.name + "/" for e in os.scandir(top) if e.is_dir() and is_junk(e.name))
    if skipped:
        some = ", ".join(sorted(skipped)[:3]) + (", ..." if len(skipped) > 3 else "")
        notes.append(f"{len(skipped)} files below {top} are no images and are left out: {some}")
    labels = np.repeat(np.arange(len(names)), counts)
    return Dataset(ImageFiles(root, paths), np.arange(len(paths)), labels, names)


def _images_below(root: Path, folder: str, skipped: list[str]) -> Iterator[str]:
    """Yield image paths relative to the root; what is no image goes to ``skipped``."""
    # Plain strings, since a path object for every file makes the scan three times slower.
    with os.scandir(root / folder) as entries:
        for entry in entries:
            name = f"{folder}/{entry.name}"
            if entry.is_dir():
                if is_junk(entry.name):
                    skipped.append(name + "/")
                else:
                    yield from _images_below(root, name, skipped)
            elif is_image_name(entry.name):
                yield name
            else:
                skipped.append(name)
