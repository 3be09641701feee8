"""Cutting images into parts: stratified, group-aware, and always the same way."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from tessera.data.dataset import Dataset, Task

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""Words that mean a split, in lower case: of folders, files and columns."""

BANDS = 10
"""Parts of equal size into which numbers are sorted, to stratify a regression."""


class ClassMapError(ValueError):
    """A split has classes that the training images do not.

    Args:
        rest: The data without the images of those classes.
    """

    def __init__(self, message: str, rest: "DataSplits") -> None:
        super().__init__(message)
        self.rest = rest


@dataclass(frozen=True)
class DataSplits:
    """Training, validation and test images with one class map for all of them."""

    spec: str
    """The DATA argument they come from."""
    splits: dict[str, Dataset]
    """train always, val and test where the data has them or they have been cut."""
    notes: tuple[str, ...] = ()
    """What a user should know about how the images were found and split, a sentence each."""

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.splits["train"].class_names

    @property
    def task(self) -> Task:
        return self.splits["train"].task

    def __getitem__(self, split: str) -> Dataset:
        if split not in self.splits:
            raise ValueError(
                f"{self.spec} has no split {split!r}\nhint: it has {', '.join(self.splits)}"
            )
        return self.splits[split]


def partition(
    strata: Int[np.ndarray, " n"],
    shares: Sequence[float],
    *,
    groups: Int[np.ndarray, " n"] | None = None,
    seed: int = 0,
) -> Int[np.ndarray, " n"]:
    """Give every image a part, each with its share of every stratum, and no group in two parts.

    The same for the same arguments. A stratum of at least two images is in both parts where there
    are two, groups permitting. Groups of several images are placed first, the largest first, each
    where its strata are missing most; single images then fill what is left.

    Args:
        strata: Class of every image, or another number whose values should spread evenly.
        shares: Of the parts; they sum to 1.
        groups: Images of one number stay together; None lets every image go by itself.

    Returns:
        The number of its part for every image.
    """
    generator = np.random.default_rng(seed)
    parts = np.full(len(strata), -1, dtype=np.int64)
    _, strata = np.unique(strata, return_inverse=True)
    totals = np.bincount(strata)
    wanted = _quotas(totals, shares)
    if groups is not None:
        _place_groups(parts, strata, groups, wanted, generator)
    for stratum in range(len(totals)):
        members = generator.permutation(np.flatnonzero((strata == stratum) & (parts < 0)))
        start = 0
        for part in range(len(shares) - 1, 0, -1):
            count = min(max(int(wanted[part, stratum]), 0), len(members) - start)
            parts[members[start : start + count]] = part
            start += count
        parts[members[start:]] = 0
    if groups is not None and len(shares) == 2:
        _spread(parts, strata, groups)
    return parts


def _quotas(totals: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """How many images of each stratum (column) each part (row) is to have."""
    if len(shares) == 2:  # a rest and a cut: at least one image on either side
        cut = np.round(totals * shares[1]).astype(np.int64)
        cut = np.minimum(np.maximum(cut, 1), totals - 1)
        return np.stack([totals - cut, cut])
    exact = np.outer(shares, totals)
    quotas = np.floor(exact + 1e-9).astype(np.int64)
    missing = np.zeros(len(shares))
    for stratum, total in enumerate(totals):  # what rounding leaves goes where most is missing
        missing += exact[:, stratum] - quotas[:, stratum]
        most = np.argsort(-missing, kind="stable")[: total - quotas[:, stratum].sum()]
        quotas[most, stratum] += 1
        missing[most] -= 1
    return quotas


def _place_groups(
    parts: np.ndarray,
    strata: np.ndarray,
    groups: np.ndarray,
    wanted: np.ndarray,
    generator: np.random.Generator,
) -> None:
    """Place all groups of several images, and take what they fill from ``wanted``."""
    _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(numbers, kind="stable")
    ends = np.cumsum(sizes)
    several = np.flatnonzero(sizes > 1)
    several = several[np.lexsort((generator.random(len(several)), -sizes[several]))]
    for group in several:
        members = order[ends[group] - sizes[group] : ends[group]]
        own, counts = np.unique(strata[members], return_counts=True)
        need = wanted[:, own]
        # How much less is missing afterwards; a part that would be overfilled pays for it.
        gain = (np.abs(need) - np.abs(need - counts)).sum(axis=1)
        best = np.flatnonzero(gain == gain.max())
        part = best[np.argmax(need[best].sum(axis=1))]
        parts[members] = part
        wanted[part, own] -= counts


def _spread(parts: np.ndarray, strata: np.ndarray, groups: np.ndarray) -> None:
    """Of a stratum that is in one of two parts only, move the smallest group that can be spared."""
    for stratum in range(strata.max(initial=-1) + 1):
        members = np.flatnonzero(strata == stratum)
        part = parts[members[0]]
        own = np.unique(groups[members])
        if len(own) == 1 or (parts[members] != part).any():
            continue
        sizes = {group: (groups == group).sum() for group in own}
        for group in sorted(own, key=lambda group: sizes[group]):
            left = (parts == part) & (groups != group)
            if np.isin(strata[groups == group], strata[left]).all():
                parts[groups == group] = 1 - part
                break


def stratified_split(
    labels: np.ndarray,
    fraction: float,
    *,
    task: Task = "classify",
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Cut a share off, with the same mixture of labels as the rest.

    Every class of at least two images keeps one on either side, unless a group forbids it.

    Returns:
        Sorted indices of the rest and of the share.
    """
    parts = partition(strata(labels, task), (1 - fraction, fraction), groups=groups, seed=seed)
    return np.flatnonzero(parts == 0), np.flatnonzero(parts == 1)


def strata(labels: np.ndarray, task: Task) -> Int[np.ndarray, " n"]:
    """Return a number for every image, such that splits should have the same mixture of numbers.

    That is the class, the rarest of several labels, or the tenth of all numbers that this is in.
    """
    if task == "classify":
        return labels
    if task == "regress":
        ranks = np.argsort(np.argsort(labels, kind="stable"), kind="stable")
        return ranks * BANDS // max(len(labels), 1)
    if not labels.size:
        return np.zeros(len(labels), dtype=np.int64)
    rarity = np.where(labels, labels.sum(axis=0), np.inf)
    return np.where(labels.any(axis=1), rarity.argmin(axis=1), labels.shape[1])


def unite(spec: str, splits: dict[str, Dataset], notes: Sequence[str] = ()) -> DataSplits:
    """Give all splits the class map of the training images, by name.

    Classes without a training image are left out, and said to be.

    Raises:
        ClassMapError: A split has a class that no training image has.
        ValueError: No training images, fewer than two classes, two classes of one name, a split
            without images, or splits of different tasks.
    """
    _check_splits(spec, splits)
    said = list(notes)
    train = splits["train"]
    if train.task == "regress":
        return DataSplits(spec, _in_order(splits), tuple(said))
    counts = train.class_counts()
    names = tuple(n for n, count in zip(train.class_names, counts, strict=True) if count)
    if len(names) < len(train.class_names):
        empty = ", ".join(sorted(set(train.class_names) - set(names)))
        said.append(f"classes without training images are left out: {empty}")
    needed = "2 are" if train.task == "classify" else "1 is"
    if len(names) < int(needed[0]):
        found = f"only {names[0]!r}" if names else "none"
        raise ValueError(
            f"{spec} has training images of {len(names)} classes ({found}); at least {needed} "
            "needed\nhint: put the images of each class into a folder that bears its name, or "
            "label them in a table"
        )
    united: dict[str, Dataset] = {}
    problems: list[str] = []
    for name, data in splits.items():
        data, unknown = _known_only(data, names)
        if unknown:
            problems.append(
                f"the {name} split of {spec} has classes that the training images do not: "
                f"{', '.join(unknown)}"
            )
        united[name] = data.relabel(names)
        counts = united[name].class_counts()
        absent = [n for n, count in zip(names, counts, strict=True) if not count]
        if absent:
            said.append(f"the {name} split has no image of {', '.join(absent)}")
    result = DataSplits(spec, _in_order(united), tuple(dict.fromkeys(said)))
    if problems:
        hint = f"hint: training has {', '.join(names)}"
        raise ClassMapError("\n".join([*problems, hint]), result)
    return result


def _check_splits(spec: str, splits: dict[str, Dataset]) -> None:
    if "train" not in splits:
        raise ValueError(
            f"{spec} has {', '.join(splits) or 'no split'}, but no training images\n"
            "hint: name one split train"
        )
    for name, data in splits.items():
        if not len(data) and (name != "train" or data.task == "regress"):
            raise ValueError(f"the {name} split of {spec} has no images\nhint: fill or remove it")
        if data.task != splits["train"].task:
            raise ValueError(
                f"the labels of the train split of {spec} are to {splits['train'].task}, and those "
                f"of the {name} split to {data.task}\nhint: give all splits labels of one kind"
            )
        twice = sorted(name for name, count in Counter(data.class_names).items() if count > 1)
        if twice:  # they would become one, since splits and models are matched by name
            raise ValueError(
                f"{spec} names two classes {', and two '.join(twice)}\nhint: tell them apart"
            )


def _known_only(data: Dataset, names: tuple[str, ...]) -> tuple[Dataset, list[str]]:
    """Return the images of classes that are known, and the names of the others."""
    counts = data.class_counts()
    present = {n for n, count in zip(data.class_names, counts, strict=True) if count}
    unknown = sorted(present - set(names))
    if not unknown:
        return data, []
    wrong = [k for k, name in enumerate(data.class_names) if name in unknown]
    if data.task == "multilabel":
        return data.subset(np.flatnonzero(~data.labels[:, wrong].any(axis=1))), unknown
    return data.subset(np.flatnonzero(~np.isin(data.labels, wrong))), unknown


def _in_order(splits: dict[str, Dataset]) -> dict[str, Dataset]:
    return {name: splits[name] for name in ("train", "val", "test") if name in splits}
