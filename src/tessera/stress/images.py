"""The images of a stress test: found, matched with the classes of the models, and drawn."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tessera.checkpoint.artifact import LoadedModel
from tessera.data.dataset import Dataset
from tessera.data.sources import find_data
from tessera.data.splits import DataSplits
from tessera.measuring import splits_as_in_training
from tessera.stress.classes import known_only, names_of, require_known
from tessera.stress.settings import StressSettings
from tessera.stress.subject import draw_images, readable


@dataclass(frozen=True, kw_only=True)
class Images:
    """Images as the data numbers their classes."""

    spec: str
    split: str
    measured: Dataset
    unreadable: tuple[str, ...]
    notes: tuple[str, ...] = ()
    fitting: Dataset | None = None
    """What universal patches are made from; read by nobody before ``for_patches``."""
    drawn: str = ""
    """Fingerprint of ``fitting`` as it was drawn."""
    fitting_notes: tuple[str, ...] = ()

    def for_patches(self) -> "Images":
        """Leave out what cannot be read of the images that patches are made from, and say so."""
        assert self.fitting is not None
        fitting, bad = readable(self.fitting, 1.0)
        notes = [*self.notes, *self.fitting_notes]
        if bad:
            notes.append(
                f"{len(bad)} images that patches are made from cannot be read: left out; {bad[0]}"
            )
        return replace(self, fitting=fitting, notes=tuple(notes))

    def facts(self) -> dict[str, Any]:
        """Say which images these are."""
        return {
            "spec": self.spec,
            "split": self.split,
            "measured": len(self.measured),
            "fingerprint": self.measured.fingerprint(),
            "unreadable": list(self.unreadable),
        }


def find_images(
    spec: str,
    split: str,
    models: Mapping[str, LoadedModel],
    settings: StressSettings,
    bad_share: float,
) -> Images:
    """Find, match and draw the images that are measured, and others for what must be learnt.

    Raises:
        ValueError: The data is not labelled with classes, or with some that a model lacks.
        ImageError: More images than ``bad_share`` cannot be read.
    """
    found = find_data(spec)
    if found.task != "classify":
        raise ValueError(
            f"{spec} is labelled for {found.task}\nhint: stress wants one class an image"
        )
    for name, loaded in models.items():
        require_known(found, names_of(loaded), name)
    first = next(iter(models.values())).header
    header = replace(first, class_names=names_of(next(iter(models.values()))))
    splits = splits_as_in_training(spec, split, header)
    drawn = draw_images(splits[split], settings.images, settings.seed)
    measured, unreadable = readable(drawn, bad_share)
    fitting, notes = _fitting(splits, split, drawn, settings)
    return Images(
        spec=spec,
        split=split,
        measured=measured,
        fitting=fitting,
        drawn=fitting.fingerprint(),
        unreadable=unreadable,
        notes=tuple(splits.notes),
        fitting_notes=tuple(notes),
    )


def _fitting(
    splits: DataSplits, split: str, drawn: Dataset, settings: StressSettings
) -> tuple[Dataset, list[str]]:
    """Images that a universal patch is made from: of the training split, but none measured.

    None of them is read yet.
    """
    train = splits["train"]
    if split == "train":
        rest = np.flatnonzero(~np.isin(train.rows, drawn.rows))
        if not len(rest):
            return drawn, ["universal patches are made from the images that they are tried on"]
        train = train.subset(rest)
    return draw_images(train, settings.images, settings.seed), []


def find_shift(
    spec: str,
    images: Images,
    models: Mapping[str, LoadedModel],
    settings: StressSettings,
    bad_share: float,
) -> Images:
    """Find the second data set, its test split where it has one, and the classes that both have.

    Raises:
        ValueError: It is not labelled with classes, or has none in common with the first.
        ImageError: More images than ``bad_share`` cannot be read.
    """
    found = find_data(spec)
    if found.task != "classify":
        raise ValueError(
            f"{spec} is labelled for {found.task}\nhint: --shift wants one class an image"
        )
    split = next(name for name in ("test", "val", "train") if name in found.splits)
    data = found[split]
    for name, loaded in models.items():
        known_only(data, names_of(loaded), name, spec)
    measured = images.measured
    present = {measured.class_names[k] for k in np.unique(measured.labels)}
    common = [k for k, name in enumerate(data.class_names) if name in present]
    data = data.subset(np.flatnonzero(np.isin(data.labels, common)))
    if not len(data):
        raise ValueError(
            f"{images.spec} and {spec} have no class in common\n"
            "hint: classes are matched by name; rename the folders or labels"
        )
    drawn = draw_images(data, settings.images, settings.seed)
    kept, unreadable = readable(drawn, bad_share)
    return Images(spec=spec, split=split, measured=kept, unreadable=unreadable)
