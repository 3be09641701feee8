"""The doctor's visit: look at a data set, ask a model about its labels, and write a page."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from tessera.checkpoint.load import load_model
from tessera.data.doctor import UNREADABLE, Diagnosis, diagnose
from tessera.data.loader import Unreadable
from tessera.data.preprocessing import HALF, Preprocessing
from tessera.devices import pick_device
from tessera.evaluation.label_errors import label_errors, require_cleanlab
from tessera.evaluation.linear_probe import features
from tessera.models.variants import parse
from tessera.models.vit import ViT
from tessera.progress import counting
from tessera.recipe import Recipe, default_recipe, load
from tessera.report.augmented import training_batch
from tessera.report.doctor import write_diagnosis
from tessera.report.environment import environment
from tessera.run_folder import default_folder

OWN_FILES = {"report.html", "findings.csv", "exclude.csv"}


@dataclass(frozen=True, kw_only=True)
class Checkup:
    """What the doctor found, and where it is written."""

    diagnosis: Diagnosis
    report: Path


def doctor(
    data: str | Path,
    *,
    weights: str | Path | None = None,
    recipe: str | Path | None = None,
    out: str | Path | None = None,
    near: bool = True,
    device: str = "auto",
    offline: bool = False,
    console: Console | None = None,
) -> Checkup:
    """Look at every image of DATA, and write down what is wrong with it.

    Args:
        weights: A MODEL whose features are used to find labels that are probably wrong.
        recipe: Of which a training batch is shown; the one that ``train`` would take by default.
        out: Folder for the page and the tables; ``runs/doctor-<data>`` by default. Only what an
            earlier visit wrote there is overwritten.
        near: Whether to look for images that are alike, and not only for the same file.

    Raises:
        ValueError: There is nothing to look at, or the folder holds something else.
        RunError: Published weights or a library cannot be had.
    """
    spec = str(data)
    console = console or Console(stderr=True, quiet=True)
    folder = Path(out) if out else Path("runs") / f"doctor-{default_folder(spec).name}"
    _refuse_used(folder)
    # All that may be wrong is found out before the long scan, so that a wrong name costs no time.
    picked, loaded = pick_device(device), None
    chosen = load(recipe) if recipe else default_recipe(spec)
    if weights is not None:
        require_cleanlab()
        loaded = load_model(weights, offline=offline)
    with counting(console, "looking at images") as counter:

        def begin(diagnosis: Diagnosis) -> None:
            if loaded is not None and diagnosis.data.task != "classify":
                raise ValueError(
                    "labels can be judged where every image has one class\n"
                    "hint: leave --weights out"
                )
            counter.expect(diagnosis.images)

        diagnosis = diagnose(spec, near=near, on_start=begin, on_progress=counter.advance)
    if loaded is not None:
        with console.status("asking the model about the labels"):
            _judge_labels(diagnosis, loaded.model.to(picked), loaded.header.preprocessing, picked)
    shown = loaded.header.preprocessing if loaded else _preprocessing(chosen)
    batch = training_batch(diagnosis.data["train"], shown, chosen)
    folder.mkdir(parents=True, exist_ok=True)
    page = write_diagnosis(
        folder,
        diagnosis,
        environment=environment(picked),
        batch=batch,
        recipe=f"Recipe {recipe}" if recipe else "The recipe that tessera train would take",
    )
    return Checkup(diagnosis=diagnosis, report=page)


def _refuse_used(folder: Path) -> None:
    """Refuse a folder that holds anything but what an earlier visit wrote."""
    others = {p.name for p in folder.iterdir()} - OWN_FILES if folder.is_dir() else set()
    if others or (folder.exists() and not folder.is_dir()):
        raise ValueError(f"{folder} holds something else\nhint: name another folder with --out")


def _judge_labels(
    diagnosis: Diagnosis, model: ViT, preprocessing: Preprocessing, device: torch.device
) -> None:
    """Note training images whose label a model trained on the others contradicts."""
    train = diagnosis.data["train"]
    places = range(len(train))
    seen = [i for i in places if not diagnosis.found(("train", i), UNREADABLE)]
    if not seen:
        return
    readable = train.subset(np.array(seen))
    found, rows = features(
        model, readable, preprocessing, device=device, unreadable=Unreadable(readable, 1.0)
    )
    for error in label_errors(found, readable.labels[rows]):
        place = seen[rows[error.image]]
        given = train.label_text(place)
        better = train.class_names[error.suggested]
        detail = f"{given!r} at {error.own:.0%}; {better!r} at {error.confidence:.0%}"
        diagnosis.add("label", detail, places=(("train", place),), exclude=True)


def _preprocessing(recipe: Recipe) -> Preprocessing:
    """What a model of the recipe would see, if it were trained from nothing."""
    config = parse(recipe.model, num_classes=2, **recipe.arch.given())
    half = HALF[: config.in_chans]
    return Preprocessing(size=config.image_shape, channels=config.in_chans, mean=half, std=half)
