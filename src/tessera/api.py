"""The verbs of the command line as functions, with the same words."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from tessera.data.holdout import load_data
from tessera.data.splits import DataSplits
from tessera.devices import is_main, joined, main_first, wait_for_all, world_size
from tessera.finishing import TrainedRun, finish
from tessera.progress import counting, say
from tessera.recipe import (
    Data,
    Recipe,
    default_recipe,
    difference,
    dumps,
    load,
    merge,
    nested,
)
from tessera.report.environment import environment
from tessera.report.facts import count_parameters
from tessera.run_folder import RECIPE, default_folder, refuse_used
from tessera.training.batch_size import with_batch_that_fits
from tessera.training.build import build
from tessera.training.conduct import conduct
from tessera.training.faults import stopping_on_signals
from tessera.training.probe import probe
from tessera.training.replay import read_replay
from tessera.training.run import ENVIRONMENT, Run
from tessera.training.state import exists


def train(
    data: str | Path,
    *,
    recipe: str | Path | Recipe | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    override: bool = False,
    overrides: Mapping[str, Any] | None = None,
    console: Console | None = None,
    **fields: Any,
) -> TrainedRun:
    """Train a model on DATA, measure it, and write the run folder.

    Started by torchrun, every process takes its share of every batch (docs/scale.md).

    Args:
        data: See ``tessera.data.sources.GRAMMAR``.
        recipe: A shipped name, a TOML file, or a recipe; by default the one made for such data.
        out: Run folder; ``runs/<data>`` by default. Must not hold anything unless ``resume``.
        override: With ``resume``, go on although the recipe is another one.
        overrides: Such as ``{"optim.lr": 1e-4}``.
        fields: Fields of the recipe's root, such as ``model="ViT-S/16"`` or ``seed=1``.

    Raises:
        ValueError: Something in the input is wrong; the message says what is wanted.
        DivergedError: The loss is no longer finite.
    """
    spec = str(data)
    folder = Path(out) if out else default_folder(spec)
    console = console or Console(stderr=True, quiet=True)
    changes = {**nested(dict(overrides or {})), **fields}
    if resume:
        recorded = folder / RECIPE
        wanted = merge(load(recorded), changes) if recorded.is_file() else None
        with joined(wanted.device if wanted else "auto"):
            return resume_run(spec, folder, recipe=wanted, override=override, console=console)
    if not isinstance(recipe, Recipe):
        weights = str(fields.get("weights", "auto"))
        recipe = load(recipe) if recipe else default_recipe(spec, weights)
    wanted = merge(recipe, changes)
    with joined(wanted.device):
        return start_run(spec, wanted, folder, console=console)


def start_run(
    spec: str, recipe: Recipe, folder: Path, *, console: Console, recipe_name: str = ""
) -> TrainedRun:
    """Train with a resolved recipe into a folder that is new or empty; see ``train``.

    Args:
        recipe_name: What to call the recipe that others were changed from.
    """
    refuse_used(folder, resumable=True)
    run = _prepare(spec, recipe, folder, console)
    wait_for_all()  # every process has looked whether the folder is free
    run.start({**environment(run.device), "data": _identity(run.data)})
    if recipe_name:
        say(console, f"recipe  {recipe_name}")
    return _complete(run)


def resume_run(
    spec: str,
    folder: Path,
    *,
    console: Console,
    recipe: Recipe | None = None,
    override: bool = False,
) -> TrainedRun:
    """Go on with the run in a folder; see ``train``.

    Args:
        recipe: What it should be trained by; the recipe that it began with by default.
        override: Go on although that is another one.

    Raises:
        ValueError: No run is there, or the recipe or the data are not the ones it began with.
    """
    run = _reopen(spec, folder, recipe, override=override, console=console)
    return _complete(run)


def replay_run(spec: str, folder: Path, *, console: Console) -> None:
    """Repeat the steps that led to a loss that is not finite, and show each of them.

    Raises:
        ValueError: No run is there, or no loss broke in it.
    """
    last, images = read_replay(folder)
    run = _reopen(spec, folder, None, override=False, console=console, needed=False)
    for step, numbers in run.repeat(last):
        values = "  ".join(f"{name} {value:.6g}" for name, value in numbers.items())
        say(console, f"step {step}  lr {run.lr_of(step):.3g}  {values}")
    say(console, f"images of step {last}: {', '.join(images)}")


def _reopen(
    spec: str,
    folder: Path,
    recipe: Recipe | None,
    *,
    override: bool,
    console: Console,
    needed: bool = True,
) -> Run:
    """Take up a run from its last saved state, or from the start where none is ``needed``."""
    if needed and not (folder / RECIPE).is_file():
        raise ValueError(
            f"{folder} holds no run that could be resumed\nhint: start one without --resume"
        )
    recorded = load(folder / RECIPE)
    changes = "" if recipe is None else difference(recorded, recipe)
    if changes:
        if not override:
            raise ValueError(
                f"{folder} was started with another recipe: {changes}\n"
                "hint: resume without changes, go on all the same with --override, "
                "or start a run in another folder with --out"
            )
        say(console, f"recipe  changed from here on: {changes}")
    run = _prepare(spec, recipe or recorded, folder, console)
    if exists(folder):
        run.restore()
    if recipe is not None and recipe != recorded and is_main():
        (folder / RECIPE).write_text(dumps(recipe), encoding="utf-8")
    return run


def _prepare(spec: str, recipe: Recipe, folder: Path, console: Console) -> Run:
    if recipe.objective == "linear-probe" and world_size() > 1:
        raise ValueError("linear-probe is for one process\nhint: start it without torchrun")
    with main_first():  # what it downloads or unpacks is there for the others
        splits = _load(spec, recipe.data, console)
        _refuse_other_data(folder, splits)
        torch.manual_seed(recipe.seed)
        model, header = build(recipe, splits, lambda line: say(console, line))
    if recipe.data.batch_size == "auto":
        recipe = with_batch_that_fits(recipe, model, splits, lambda line: say(console, line))
        header = replace(header, card={**header.card, "recipe": dumps(recipe)})
    return Run(folder, recipe, splits, model, header, console)


def _identity(splits: DataSplits) -> dict[str, Any]:
    """Return what tells these very images from any others."""
    prints = {name: splits[name].fingerprint() for name in ("train", "val")}
    return {"classes": list(splits.class_names), **prints}


def _refuse_other_data(folder: Path, splits: DataSplits) -> None:
    """Refuse to go on with a run on images that it did not begin with."""
    path = folder / ENVIRONMENT
    if not path.is_file():
        return
    before = json.loads(path.read_text(encoding="utf-8")).get("data")
    now = _identity(splits)
    if before is not None and before != now:
        what = ", ".join(key for key in now if before.get(key) != now[key])
        raise ValueError(
            f"{folder} was trained on other images than those of {splits.spec}: {what} differ\n"
            "hint: give the data that it began with, or start a run in another folder with --out"
        )


def _load(spec: str, settings: Data, console: Console) -> DataSplits:
    """Load the data, and show how far a search for near-duplicates has come."""
    with counting(console, "looking for near-duplicates") as counter:
        return load_data(spec, settings, on_progress=counter.advance)


def _complete(run: Run) -> TrainedRun:
    """Train what is left, measure and report."""
    _announce(run)
    if run.recipe.objective == "linear-probe":
        probe(run)
    elif not run.is_over:
        with stopping_on_signals() as stopping:
            conduct(run, stopping)
    else:
        say(run.console, f"{run.folder} is complete: nothing is left to train")
    return finish(run)


def _announce(run: Run) -> None:
    """Say what is about to be trained, on what, and for how long."""
    counts = ", ".join(f"{len(d):,} {name}" for name, d in run.data.splits.items())
    labels = {
        "classify": f"{len(run.data.class_names)} classes",
        "multilabel": f"{len(run.data.class_names)} labels, any of which may hold",
        "regress": f"a number, {run.data.class_names[0]}",
    }
    config, weights = run.model.config, run.header.card["weights"]
    start = "from scratch" if weights == "none" else f"from {weights}"
    lines = [
        f"data    {run.data.spec}: {counts} images, {labels[run.data.task]}",
        *(f"note    {note}" for note in run.data.notes),
        f"model   {run.header.card['model']}: {count_parameters(run.model):,} parameters, "
        f"{config.grid[0]}x{config.grid[1]} patches of {config.patch_size} pixels, {start}, "
        f"on {run.device}",
        f"run     {run.folder}: {run.stop:,} steps of {run.recipe.data.images_per_step} images"
        + (f", resumed at step {run.state.step:,}" if run.state.step else ""),
    ]
    images, batch = len(run.data["train"]), run.recipe.data.images_per_step
    if batch > images:
        lines.append(
            f"note    a step has {batch} images, the data {images}: they come more than once a step"
        )
    for line in lines:
        run.console.print(line, highlight=False, markup=False, soft_wrap=True)
