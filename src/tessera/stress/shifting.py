"""Tests with other images than the model's usual ones: resolutions, crops, a second data set."""

from dataclasses import replace

import numpy as np
import torch

from tessera.data.preprocessing import Preprocessing
from tessera.stress.levels import Level, Planned, percent
from tessera.stress.settings import StressSettings
from tessera.stress.subject import Found, Subject


def plan_resolutions(subject: Subject, settings: StressSettings) -> Planned:
    """The model at other sides than its own."""
    planned, own = Planned(), subject.preprocessing
    step = subject.loaded.model.config.patch_size
    for share in settings.resolutions:
        height, width = (max(1, round(side * share / step)) * step for side in own.size)
        if (height, width) == own.size:
            planned.notes.append(f"{share:g} of {height}x{width} pixels is that size, in patches")
            continue
        prepared = replace(own, size=(height, width))
        try:
            _try(subject, prepared)
        except ValueError as error:
            why = str(error).partition("\n")[0]
            planned.notes.append(f"{height}x{width} pixels are not measured: {why}")
            continue
        level = height / own.size[0], f"{height}x{width}"
        planned.levels.append(_prepared(subject, prepared, "model at other sides", level))
    return planned


def _try(subject: Subject, prepared: Preprocessing) -> None:
    """Run the model once at a size, which its position scheme may refuse."""
    height, width = prepared.size
    with torch.no_grad():
        subject.net(torch.zeros(1, prepared.channels, height, width, device=subject.device))


def plan_crops(subject: Subject, settings: StressSettings) -> Planned:
    """Centre crops of other shares."""
    own = subject.preprocessing
    return Planned(
        levels=[
            _prepared(
                subject, replace(own, crop="crop", crop_pct=share), "crop", (share, percent(share))
            )
            for share in settings.crops
        ]
    )


def _prepared(
    subject: Subject, preprocessing: Preprocessing, series: str, level: tuple[float, str]
) -> Level:
    def measure() -> Found:
        logits = subject.variant(preprocessing=preprocessing).answers()
        return subject.found([logits])

    value, text = level
    return Level(series=series, value=value, text=text, passes=len(subject.data), measure=measure)


def plan_shift(subject: Subject, settings: StressSettings) -> Planned:
    """Images of a second data set, and DATA's of the classes that it has."""
    other = subject.shift
    assert other is not None, "the test is only chosen with a second data set"
    common = np.isin(subject.data.labels, other.labels)
    if not common.any():
        return Planned(notes=["of the images drawn, none is of a class that both data sets have"])

    def measure() -> Found:
        found = subject.variant(data=other)
        right = subject.clean.argmax(axis=1) == subject.data.labels
        clean = float(right[common].mean())
        return found.found([found.answers()], clean=clean)

    classes = len(np.unique(other.labels))
    note = f"{len(other):,} images of {classes} classes that both data sets have"
    level = Level(series="shift", value=1.0, text="DATA2", passes=len(other), measure=measure)
    return Planned(levels=[level], notes=[note])
