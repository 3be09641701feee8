"""What the features of a frozen MODEL are worth on DATA: few-shot, k-NN and linear accuracy."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console

from tessera.checkpoint.load import load_model
from tessera.data.preprocessing import Preprocessing
from tessera.data.sources import find_data
from tessera.data.splits import DataSplits, stratified_split
from tessera.devices import pick_device
from tessera.evaluation.few_shot import PENALTY, SEEDS, SHOTS, few_shot
from tessera.evaluation.frozen import Features, frozen_features, published_preprocessing
from tessera.evaluation.knn import NEIGHBOURS, TEMPERATURE, knn_scores
from tessera.evaluation.means import over_seeds
from tessera.evaluation.metrics import Interval, wilson
from tessera.evaluation.tuned_probe import tuned_probe
from tessera.models.vit import ViT
from tessera.progress import counting, say
from tessera.report.environment import environment
from tessera.report.facts import data_facts, model_facts

ProbeMethod = Literal["few-shot", "knn", "linear"]

METHODS: tuple[ProbeMethod, ...] = ("few-shot", "knn", "linear")

TUNING = 0.2
"""Share of the training images on which the linear probe chooses its penalty."""


@dataclass(frozen=True, kw_only=True)
class ProbeScore:
    """One number, and how it came to be."""

    method: str
    settings: dict[str, Any]
    accuracy: Interval
    seeds: dict[int, float]
    """Accuracy of every seed; empty where nothing is drawn."""

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        return {**self.__dict__, "accuracy": self.accuracy._asdict()}


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What was measured."""

    scores: list[ProbeScore]
    facts: dict[str, Any]
    """model, data, split, images, unreadable, preprocessing, seconds, notes, environment."""

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        return {**self.facts, "scores": [score.as_dict() for score in self.scores]}


@dataclass(frozen=True, kw_only=True)
class ProbeSettings:
    """What is measured, and how; the defaults are the published ones."""

    methods: Sequence[ProbeMethod] = METHODS
    shots: Sequence[int] | None = None
    """Training images a class; None takes those of 1, 5, 10 and 25 that every class has."""
    seeds: Sequence[int] = SEEDS
    penalties: Sequence[float] = (PENALTY,)
    k: int = NEIGHBOURS
    temperature: float = TEMPERATURE
    preprocessing: Literal["model", "published"] = "model"

    def __post_init__(self) -> None:
        if not self.methods or not self.seeds or min(self.seeds) < 0:
            raise ValueError("give at least one method, and at least one seed, none below 0")
        if not self.penalties or not all(0 < p < np.inf for p in self.penalties):
            raise ValueError(f"penalties={tuple(self.penalties)} must be greater than 0 and finite")
        if self.shots is not None and (not self.shots or min(self.shots) < 1):
            raise ValueError(f"shots={tuple(self.shots)} must be at least 1 each, at least one")
        if self.k < 1 or not 0 < self.temperature < np.inf:
            raise ValueError(
                f"k={self.k} must be at least 1, and temperature={self.temperature} positive"
            )


def probe(
    model: str | Path,
    data: str | Path,
    settings: ProbeSettings | None = None,
    *,
    split: str = "test",
    device: str = "auto",
    batch_size: int = 256,
    bad_share: float = 0.05,
    offline: bool = False,
    console: Console | None = None,
) -> Probe:
    """Measure the features of a frozen MODEL on a split of DATA; the classes may be any.

    Features are computed once, and every method works on them.

    Args:
        split: What is measured; the training split is what is learnt from.
        bad_share: Share of the images that may be unreadable; they are left out, and named.

    Raises:
        ValueError: The data has no such split, is not of one class an image, or a class has too few
            images for the shots.
    """
    settings = settings or ProbeSettings()
    console = console or Console(quiet=True)
    splits = find_data(str(data))
    _check(splits, split, settings)
    shots, notes = _shots(splits, settings)
    picked = pick_device(device)
    loaded = load_model(model, offline=offline)
    own, paper = loaded.header.preprocessing, settings.preprocessing == "published"
    preprocessing = published_preprocessing(own.channels) if paper else own
    began = time.perf_counter()
    train, test = _features(
        loaded.model.to(picked),
        splits,
        split,
        preprocessing,
        device=picked,
        batch_size=batch_size,
        bad_share=bad_share,
        console=console,
    )
    facts = {
        "model": model_facts(loaded.model, loaded.header),
        "data": data_facts(splits, ["train", split]),
        "split": split,
        "images": {"train": len(train.rows), split: len(test.rows)},
        "unreadable": [*train.unreadable, *test.unreadable],
        "preprocessing": preprocessing.as_dict(),
        "seconds": round(time.perf_counter() - began, 3),
        "notes": notes,
        "environment": environment(picked),
    }
    if notes:
        say(console, f"note    {notes[0]}")
    sides = _Sides(train, test, len(splits.class_names), splits["train"].groups)
    with console.status("measuring"):
        return Probe(scores=_measure_all(sides, settings, shots), facts=facts)


@dataclass(frozen=True)
class _Sides:
    """Features to learn from and to measure."""

    train: Features
    test: Features
    num_classes: int
    groups: np.ndarray | None


def _check(splits: DataSplits, split: str, settings: ProbeSettings) -> None:
    if splits.task != "classify":
        raise ValueError(
            f"{splits.spec} is labelled for {splits.task}\nhint: a probe wants one class an image"
        )
    if split == "train":
        raise ValueError("the train split is what is learnt from\nhint: give --split test or val")
    if split not in splits.splits:
        has = ", ".join(splits.splits)
        raise ValueError(
            f"{splits.spec} has no split {split!r}\n"
            f"hint: it has {has}; give one with --split, or put images of every class into a "
            f"folder {split} beside train"
        )
    if "knn" in settings.methods and settings.k > len(splits["train"]):
        raise ValueError(
            f"k={settings.k} neighbours, and there are {len(splits['train'])} training images\n"
            "hint: give a smaller --k"
        )


def _shots(splits: DataSplits, settings: ProbeSettings) -> tuple[tuple[int, ...], list[str]]:
    """Return the numbers of shots that every class has images for."""
    if "few-shot" not in settings.methods:
        return (), []
    train = splits["train"]
    counts = train.class_counts()
    scarce, least = train.class_names[int(counts.argmin())], int(counts.min())
    if settings.shots is None:
        kept = tuple(shots for shots in SHOTS if shots <= least)
        left = [str(shots) for shots in SHOTS if shots > least]
        why = f"class {scarce!r} has {least} training images: no {' or '.join(left)} shots"
        return kept, [why] if left else []
    if max(settings.shots) > least:
        raise ValueError(
            f"{max(settings.shots)} shots, and class {scarce!r} of {splits.spec} has {least} "
            f"training images\nhint: give --shots of at most {least}, or add images"
        )
    return tuple(dict.fromkeys(settings.shots)), []


def _features(
    model: ViT,
    splits: DataSplits,
    split: str,
    preprocessing: Preprocessing,
    *,
    device: torch.device,
    batch_size: int,
    bad_share: float,
    console: Console,
) -> tuple[Features, Features]:
    """Features of what is learnt from and of what is measured, with a bar."""
    names = ("train", split)
    images = sum(len(splits[name]) for name in names)
    with counting(console, "features", images) as counter:
        found = [
            frozen_features(
                model,
                splits[name],
                preprocessing,
                device=device,
                batch_size=batch_size,
                bad_share=bad_share,
                on_batch=counter.advance,
            )
            for name in names
        ]
    return found[0], found[1]


def _measure_all(
    sides: _Sides, settings: ProbeSettings, shots: tuple[int, ...]
) -> list[ProbeScore]:
    methods = dict.fromkeys(settings.methods)
    return [score for method in methods for score in _measure(method, sides, settings, shots)]


def _measure(
    method: ProbeMethod, sides: _Sides, settings: ProbeSettings, shots: tuple[int, ...]
) -> list[ProbeScore]:
    if method == "few-shot":
        return _few_shot(sides, settings, shots)
    train, test = sides.train, sides.test
    if method == "knn":
        scores = knn_scores(
            train.values,
            train.labels,
            test.values,
            sides.num_classes,
            k=settings.k,
            temperature=settings.temperature,
        )
        predicted = scores.argmax(axis=1)
        chosen: dict[str, Any] = {"k": settings.k, "temperature": settings.temperature}
    else:
        groups = None if sides.groups is None else sides.groups[train.rows]
        rest, tuning = stratified_split(train.labels, TUNING, groups=groups)
        parts = [(train.values[rows], train.labels[rows]) for rows in (rest, tuning)]
        found = tuned_probe(parts[0], parts[1], test.values, sides.num_classes)
        predicted, chosen = found.predicted, {"C": found.strength, "tuned_on": len(tuning)}
    hits = int((predicted == test.labels).sum())
    accuracy = wilson(hits, len(test.labels))
    return [ProbeScore(method=method, settings=chosen, accuracy=accuracy, seeds={})]


def _few_shot(sides: _Sides, settings: ProbeSettings, shots: tuple[int, ...]) -> list[ProbeScore]:
    train, test = sides.train, sides.test
    rows = few_shot(
        (train.values, train.labels),
        (test.values, test.labels),
        sides.num_classes,
        shots=shots,
        seeds=tuple(dict.fromkeys(settings.seeds)),
        penalties=tuple(dict.fromkeys(settings.penalties)),
    )
    images = len(test.labels)
    scores = []
    for count, penalty in dict.fromkeys((row.shots, row.penalty) for row in rows):
        own = [row for row in rows if (row.shots, row.penalty) == (count, penalty)]
        scores.append(
            ProbeScore(
                method="few-shot",
                settings={"shots": count, "penalty": penalty},
                accuracy=over_seeds([row.hits for row in own], images),
                seeds={row.seed: row.hits / images for row in own},
            )
        )
    return scores
