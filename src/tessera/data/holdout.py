"""DATA with everything that a run needs: a validation split is cut off where there is none."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from jaxtyping import Int

from tessera.data.dataset import Dataset
from tessera.data.duplicates import groups as join
from tessera.data.duplicates import near_duplicates, signature
from tessera.data.examine import ALIKE_FROM
from tessera.data.images import ImageError, decoding, quiet, upright
from tessera.data.loader import cores
from tessera.data.sources import exclude, find_data
from tessera.data.splits import DataSplits, partition, strata, stratified_split
from tessera.recipe import Data

SCAN_LIMIT = 20_000
"""Training images up to which near-duplicates are looked for without being asked."""

SMALL = 64
"""Pixels a side that suffice for a fingerprint of what an image shows."""


def load_data(
    spec: str,
    settings: Data | None = None,
    *,
    on_progress: Callable[[int], None] = lambda images: None,
) -> DataSplits:
    """Find the images that DATA names, leave out what is excluded, and cut a validation split.

    The cut is stratified and always the same. Images of one group, and near-duplicates, stay on
    one side: else validation would partly measure memory.

    Args:
        spec: See ``tessera.data.sources.GRAMMAR``.
        on_progress: Called with the number of images looked at since the last call.

    Raises:
        ValueError: No such source, too few images, or a split with a class that training lacks.
        RunError: A library that this kind of data needs is not installed.
    """
    settings = settings or Data()
    found = find_data(spec)
    if settings.exclude is not None:
        found = exclude(found, settings.exclude)
    if settings.folds is None and "val" in found.splits:
        return found
    if settings.folds is not None and "val" in found.splits:
        raise ValueError(
            f"{spec} has a validation split of its own, so there is nothing to fold\n"
            "hint: leave --data.folds out, or move those images to the training split"
        )
    return _cut(found, settings, on_progress)


def _cut(found: DataSplits, settings: Data, on_progress: Callable[[int], None]) -> DataSplits:
    train, notes = found["train"], list(found.notes)
    pairs = _near_pairs(train, settings, notes, on_progress)
    groups = _joined(train, pairs)
    if settings.folds is None:
        rest, cut = stratified_split(
            train.labels, settings.val_fraction, task=train.task, groups=groups
        )
        how = f"no validation split: {len(cut)} of {len(train)} training images held out for it"
    else:
        shares = [1 / settings.folds] * settings.folds
        parts = partition(strata(train.labels, train.task), shares, groups=groups)
        cut, rest = np.flatnonzero(parts == settings.fold), np.flatnonzero(parts != settings.fold)
        how = (
            f"fold {settings.fold} of {settings.folds} is validation: "
            f"{len(cut)} of {len(train)} training images"
        )
    if not len(cut) or not len(rest):
        raise ValueError(
            f"{found.spec} has no validation split, and its {len(train)} training images are too "
            "few, or in too few groups, to cut one off\nhint: add images, or a val folder"
        )
    splits = {"train": train.subset(rest), "val": train.subset(cut)}
    others = {name: data for name, data in found.splits.items() if name != "train"}
    return replace(found, splits={**splits, **others}, notes=(*notes, how))


def _near_pairs(
    train: Dataset,
    settings: Data,
    notes: list[str],
    on_progress: Callable[[int], None],
) -> Int[np.ndarray, "m 2"]:
    nothing = np.empty((0, 2), dtype=np.int64)
    wanted = settings.near_duplicates
    if wanted is None and len(train) > SCAN_LIMIT:
        notes.append(
            f"near-duplicates among the {len(train)} training images were not looked for; "
            "--data.near-duplicates True does"
        )
        return nothing
    if wanted is False:
        return nothing
    found, seen = signatures(train, on_progress)
    if len(seen) < 2:
        return nothing
    pairs = near_duplicates(np.stack(found))
    if len(pairs):
        notes.append(
            f"{len(np.unique(pairs))} training images have near-duplicates; "
            "these are kept on one side of the cut"
        )
    return seen[pairs]


def signatures(
    data: Dataset, on_progress: Callable[[int], None] = lambda images: None
) -> tuple[list[np.ndarray], Int[np.ndarray, " m"]]:
    """Return what each image looks like, very small, and which images these are.

    Those that cannot be read are not among them, nor those too small for likeness to mean anything.
    """

    def one(index: int) -> np.ndarray | None:
        try:
            with decoding(data.where(index)), data.open(index) as image:
                if min(image.size) < ALIKE_FROM:
                    return None
                image.draft(image.mode, (SMALL, SMALL))
                return signature(upright(image))
        except ImageError:
            return None

    rows: list[np.ndarray] = []
    seen: list[int] = []
    with quiet(), ThreadPoolExecutor(cores()) as pool:  # decoding lets go of Python's lock
        for index, row in enumerate(pool.map(one, range(len(data)), chunksize=16)):
            on_progress(1)
            if row is not None:
                rows.append(row)
                seen.append(index)
    return rows, np.array(seen, dtype=np.int64)


def _joined(train: Dataset, pairs: Int[np.ndarray, "m 2"]) -> np.ndarray | None:
    """Return group numbers in which both groups of the source and near-duplicates are joined."""
    if train.groups is None:
        return join(len(train), pairs) if len(pairs) else None
    order = np.argsort(train.groups, kind="stable")
    same = train.groups[order[:-1]] == train.groups[order[1:]]
    chain = np.stack([order[:-1], order[1:]], axis=1)[same]
    return join(len(train), np.concatenate([chain, pairs]))
