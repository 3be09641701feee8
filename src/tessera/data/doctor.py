"""What is wrong with a data set: every file is looked at, and all are compared with each other."""

import csv
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

import numpy as np

from tessera.data.dataset import Dataset
from tessera.data.duplicates import near_duplicates
from tessera.data.examine import (
    KINDS,
    Examined,
    Finding,
    Severity,
    examine,
    examine_pixels,
)
from tessera.data.images import ImageError, quiet
from tessera.data.loader import cores
from tessera.data.sources import find_data
from tessera.data.splits import ClassMapError, DataSplits

SET_KINDS: dict[str, tuple[Severity, str]] = {
    "class-map": ("error", "a split has classes that training does not know"),
    "group-leak": ("error", "images of one group in two splits, as the table has them"),
    "leak": ("error", "the same file in two splits: a measurement would partly measure memory"),
    "contradiction": ("error", "the same file with different labels"),
    "near-leak": ("warning", "images that look alike in two splits"),
    "near-contradiction": ("warning", "images that look alike with different labels"),
    "duplicate": ("warning", "the same file twice"),
    "near-duplicate": ("warning", "images that look alike"),
    "label": ("warning", "probably the wrong label, as a model trained on the others sees it"),
    "source": ("warning", "how the data was found"),
    "class-names": ("warning", "class names that differ in case or blanks only"),
    "few-images": ("warning", "too few images to learn a class from, or to measure it"),
    "imbalance": ("warning", "try --data.balanced, or --class-weights balanced"),
}
"""Every kind of finding about the set as a whole, or about images compared with each other."""

ALL_KINDS = {**SET_KINDS, **KINDS}

FEW, IMBALANCE = 5, 10.0
"""Images of a class below which it is mentioned; ratio of the largest class to the smallest."""

UNREADABLE = {"missing", "empty", "not-an-image", "undecodable", "too-large"}
"""Kinds of findings about images that training cannot read."""

UNUSABLE = {*UNREADABLE, "incomplete"}
"""Those about single images that had better be left out of training."""

BLOCK = 512
"""Images that are looked at before the next ones are lined up."""

Place = tuple[str, int]
"""Split and index of an image."""


@dataclass(frozen=True)
class Row:
    """One finding about one image, or about the set where no image is named."""

    severity: Severity
    kind: str
    split: str
    image: str
    label: str
    detail: str
    exclude: bool = False
    """Whether training goes better without the image."""
    other: str = ""
    """The image that this one is like."""
    places: tuple[Place, ...] = ()
    """Of the image, and of the one that it is like."""


@dataclass
class Diagnosis:
    """Everything that was found."""

    data: DataSplits
    rows: list[Row] = field(default_factory=list)
    _said: set[tuple[str, Place]] = field(default_factory=set)

    @property
    def images(self) -> int:
        """How many images there are."""
        return sum(map(len, self.data.splits.values()))

    def found(self, place: Place, kinds: Iterable[str]) -> bool:
        """Whether any of these was found of an image."""
        return any((kind, place) in self._said for kind in kinds)

    def add(
        self,
        kind: str,
        detail: str,
        *,
        places: tuple[Place, ...] = (),
        exclude: bool = False,
    ) -> None:
        """Note something about the data, an image of it, or an image that is like another.

        Of each kind an image has one row, even if it is like a thousand others.
        """
        if places and (kind, places[0]) in self._said:
            return
        self._said.update((kind, place) for place in places[:1])
        names = [self.data.splits[split].name(index) for split, index in places]
        image, other = [*names, "", ""][:2]
        split = label = ""
        if places:
            split, index = places[0]
            label = self.data.splits[split].label_text(index)
        severity = ALL_KINDS[kind][0]
        self.rows.append(Row(severity, kind, split, image, label, detail, exclude, other, places))

    def counts(self) -> dict[str, int]:
        """Return how often each kind was found, the gravest first."""
        found = Counter(row.kind for row in self.rows)
        order = {"error": 0, "warning": 1, "note": 2}
        kinds = sorted(ALL_KINDS, key=lambda kind: order[ALL_KINDS[kind][0]])
        return {kind: found[kind] for kind in kinds if found[kind]}

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write all findings as one CSV, and the images to leave out as another."""
        every, out = folder / "findings.csv", folder / "exclude.csv"
        _write_rows(every, self.rows)
        _write_rows(out, (row for row in self.rows if row.exclude))
        return every, out


COLUMNS = ("image", "split", "label", "severity", "kind", "detail", "other")


def _write_rows(path: Path, rows: Iterable[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        # Everything is quoted, else a name with a carriage return would become two lines.
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(COLUMNS)
        writer.writerows([getattr(row, name) for name in COLUMNS] for row in rows)


def diagnose(
    spec: str,
    *,
    near: bool = True,
    on_start: Callable[[Diagnosis], None] = lambda diagnosis: None,
    on_progress: Callable[[int], None] = lambda images: None,
) -> Diagnosis:
    """Look at every image of DATA once.

    Args:
        near: Whether to look for images that are alike without being the same file.
        on_start: Called when the data has been found, before the first look at an image.
        on_progress: Called with the number of images looked at since the last call.

    Raises:
        ValueError: There is nothing to look at: no such source, or one that cannot be read.
    """
    try:
        data, problem = find_data(spec), ""
    except ClassMapError as error:
        data, problem = error.rest, str(error).partition("\nhint")[0]
    diagnosis = Diagnosis(data)
    for line in problem.splitlines():
        diagnosis.add("class-map", line)
    for note in data.notes:
        diagnosis.add("source", note)
    _judge_classes(diagnosis)
    _judge_groups(diagnosis)
    on_start(diagnosis)
    places = [(name, i) for name, part in data.splits.items() for i in range(len(part))]
    seen = _look(diagnosis, places, on_progress)
    same = _compare_bytes(diagnosis, places, seen)
    if near:
        _compare_pictures(diagnosis, places, seen, same)
    return diagnosis


def _judge_classes(diagnosis: Diagnosis) -> None:
    train = diagnosis.data["train"]
    names = train.class_names
    folded: dict[str, list[str]] = {}
    for name in names:
        folded.setdefault(" ".join(name.casefold().split()), []).append(name)
    for alike in folded.values():
        if len(alike) > 1:
            diagnosis.add("class-names", ", ".join(map(repr, alike)))
    if train.task == "regress":
        return
    for split, part in diagnosis.data.splits.items():
        counts = part.class_counts()
        for name, count in zip(names, counts, strict=True):
            if 0 < count < FEW:
                diagnosis.add("few-images", f"{name} has {count} in the {split} split")
    counts = train.class_counts()
    if counts.max() > IMBALANCE * max(counts.min(), 1):
        most, least = names[counts.argmax()], names[counts.argmin()]
        diagnosis.add(
            "imbalance", f"{most} has {counts.max()} training images, {least} {counts.min()}"
        )


def _judge_groups(diagnosis: Diagnosis) -> None:
    """Note groups, such as patients, that a table's own splits tear apart."""
    parts = diagnosis.data.splits
    groups = {name: part.groups for name, part in parts.items() if part.groups is not None}
    for one, other in combinations(groups, 2):
        shared = np.intersect1d(groups[one], groups[other])
        if len(shared):
            rows = np.flatnonzero(np.isin(groups[one], shared))
            detail = f"{len(shared)} groups are in both {one} and {other}, the first with"
            name = parts[one].name(int(rows[0]))
            diagnosis.add("group-leak", f"{detail} {name}; {len(rows)} images of {one}")


@dataclass(frozen=True)
class _Seen:
    """One image after a look."""

    digest: int
    """Of its file; 0 where there is none."""
    picture: np.ndarray | None
    """What it shows, very small; None where that cannot be compared."""


def _look(
    diagnosis: Diagnosis, places: list[Place], on_progress: Callable[[int], None]
) -> list[_Seen]:
    """Examine every file, several at a time, since decoding lets go of Python's lock."""

    def one(place: Place) -> tuple[_Seen, tuple[Finding, ...]]:
        return _look_at(diagnosis.data.splits[place[0]], place[1])

    seen: list[_Seen] = []
    with quiet(), ThreadPoolExecutor(cores()) as pool:
        for start in range(0, len(places), BLOCK):
            block = places[start : start + BLOCK]
            for place, (look, findings) in zip(block, pool.map(one, block), strict=True):
                seen.append(look)
                for finding in findings:
                    unusable = finding.kind in UNUSABLE
                    diagnosis.add(finding.kind, finding.detail, places=(place,), exclude=unusable)
                on_progress(1)
    return seen


def _look_at(data: Dataset, index: int) -> tuple[_Seen, tuple[Finding, ...]]:
    row = int(data.rows[index])
    try:
        encoded = data.images.encoded(row)
    except ImageError as error:
        return _Seen(0, None), (_unread(error),)
    looked: Examined
    if encoded is None:  # pixels in memory: there is no file that could be odd
        looked = examine_pixels(data.read(index))
        return _Seen(hash(data.images.fingerprint(row)), looked.signature), looked.findings
    looked = examine(encoded, data.name(index))
    return _Seen(hash(encoded) if encoded else 0, looked.signature), looked.findings


def _unread(error: ImageError) -> Finding:
    """Say why there are no bytes to look at."""
    cause = error.__cause__
    if isinstance(cause, FileNotFoundError):
        return Finding("missing", "no such file", "error")
    return Finding("undecodable" if cause else "empty", str(cause or error), "error")


def _compare_bytes(diagnosis: Diagnosis, places: list[Place], seen: list[_Seen]) -> set[int]:
    """Note identical files, and return those that are a copy of an earlier one."""
    first: dict[int, int] = {}
    copies: set[int] = set()
    for number, look in enumerate(seen):
        if not look.digest:
            continue
        if look.digest in first:
            copies.add(number)
            _note_pair(diagnosis, places[first[look.digest]], places[number], "")
        else:
            first[look.digest] = number
    return copies


def _compare_pictures(
    diagnosis: Diagnosis,
    places: list[Place],
    seen: list[_Seen],
    copies: set[int],
) -> None:
    """Note images that look alike; copies are known already."""
    kept = [n for n, look in enumerate(seen) if look.picture is not None and n not in copies]
    pictures = [look.picture for n in kept if (look := seen[n]).picture is not None]
    if len(pictures) < 2:
        return
    for i, j in near_duplicates(np.stack(pictures)):
        _note_pair(diagnosis, places[kept[i]], places[kept[j]], "near-")


def _note_pair(diagnosis: Diagnosis, one: Place, other: Place, prefix: str) -> None:
    """Note two images that are the same, or nearly; the gravest that can be said of them."""
    data = diagnosis.data.splits
    (split, index), (split2, index2) = one, other
    same = "looks like" if prefix else "the same file as"
    label, label2 = data[split].label_text(index), data[split2].label_text(index2)
    name, name2 = data[split].name(index), data[split2].name(index2)
    if label != label2:
        kind, sure = f"{prefix}contradiction", not prefix
        detail = f"{label!r}, and {same} {name2}, which is {label2!r}"
        diagnosis.add(kind, detail, places=(one, other), exclude=sure)
        detail = f"{label2!r}, and {same} {name}, which is {label!r}"
        diagnosis.add(kind, detail, places=(other, one), exclude=sure)
    if split != split2:
        # The copy that training sees is the one to go: measured images stay as they are.
        detail = f"{same} {name2} in the {split2} split"
        diagnosis.add(f"{prefix}leak", detail, places=(one, other), exclude=True)
    elif label == label2:
        detail = f"{same} {name}"
        # One file named twice would go altogether, since images are left out by name.
        sure = not prefix and name != name2
        diagnosis.add(f"{prefix}duplicate", detail, places=(other, one), exclude=sure)
