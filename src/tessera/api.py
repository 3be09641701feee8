"""The verbs of the command line as functions, with the same words."""

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.console import Console

from tessera.checkpoint.artifact import RUN_FILE, Header, load_artifact
from tessera.checkpoint.load import load_model
from tessera.data.holdout import load_data
from tessera.data.sources import find_data
from tessera.data.splits import DataSplits
from tessera.evaluation.base import Measured
from tessera.evaluation.measure import measure
from tessera.progress import counting
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
from tessera.report.augmented import training_batch
from tessera.report.environment import environment
from tessera.report.facts import count_parameters, data_facts, model_facts
from tessera.report.report import Report, write_report
from tessera.run_folder import RECIPE, default_folder
from tessera.training.build import build
from tessera.training.faults import stopping_on_signals
from tessera.training.log import read_log
from tessera.training.loop import pick_device
from tessera.training.probe import probe
from tessera.training.replay import read_replay
from tessera.training.run import CHECKPOINT, ENVIRONMENT, Run


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured, and where it is written."""

    result: Measured
    report: Path | None

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON knows them."""
        return self.result.as_dict()


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """A finished run."""

    folder: Path
    results: dict[str, Measured]
    """By split: val, and test where the data has one."""
    seconds: float
    """Time spent training, without measuring."""

    @property
    def model(self) -> Path:
        """The artefact."""
        return self.folder / RUN_FILE


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
        return resume_run(spec, folder, recipe=wanted, override=override, console=console)
    if not isinstance(recipe, Recipe):
        weights = str(fields.get("weights", "auto"))
        recipe = load(recipe) if recipe else default_recipe(spec, weights)
    return start_run(spec, merge(recipe, changes), folder, console=console)


def start_run(
    spec: str, recipe: Recipe, folder: Path, *, console: Console, recipe_name: str = ""
) -> TrainedRun:
    """Train with a resolved recipe into a folder that is new or empty; see ``train``.

    Args:
        recipe_name: What to call the recipe that others were changed from.
    """
    _refuse_used(folder)
    run = _prepare(spec, recipe, folder, console)
    run.start({**environment(run.device), "data": _identity(run.data)})
    if recipe_name:
        _say(console, f"recipe  {recipe_name}")
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
        _say(console, f"step {step}  lr {run.lr_of(step):.3g}  {values}")
    _say(console, f"images of step {last}: {', '.join(images)}")


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
    if recipe is not None and recipe != recorded:
        changes = difference(recorded, recipe)
        if not override:
            raise ValueError(
                f"{folder} was started with another recipe: {changes}\n"
                "hint: resume without changes, go on all the same with --override, "
                "or start a run in another folder with --out"
            )
        _say(console, f"recipe  changed from here on: {changes}")
    run = _prepare(spec, recipe or recorded, folder, console)
    if (folder / CHECKPOINT).is_file():
        run.restore()
    if recipe is not None and recipe != recorded:
        (folder / RECIPE).write_text(dumps(recipe), encoding="utf-8")
    return run


def _prepare(spec: str, recipe: Recipe, folder: Path, console: Console) -> Run:
    splits = _load(spec, recipe.data, console)
    _refuse_other_data(folder, splits)
    torch.manual_seed(recipe.seed)
    model, header = build(recipe, splits, lambda line: _say(console, line))
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
    elif run.state.step < run.stop:
        with stopping_on_signals() as stopping:
            run.train(stopping)
    else:
        run.console.print(f"{run.folder} is complete: nothing is left to train", highlight=False)
    return _finish(run)


def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    split: str = "test",
    out: str | Path | None = None,
    device: str = "auto",
    batch_size: int = 256,
    bad_share: float = 0.05,
    offline: bool = False,
) -> Evaluation:
    """Measure a MODEL on a split of DATA; write a report where ``out`` names a folder.

    Classes are matched by name. A validation split that training cut off is cut off in the same
    place again.

    Args:
        bad_share: Share of the images that may be unreadable; they are left out, and named.

    Raises:
        ValueError: The data has no such split, or classes that the model does not know.
    """
    if out is not None:
        _refuse_used(Path(out))
    loaded = load_model(model, offline=offline)
    card = loaded.header.card
    splits = _splits_as_in_training(str(data), split, loaded.header)
    chosen = splits[split].relabel(loaded.header.class_names)
    picked = pick_device(device)
    result = measure(
        loaded.model.to(picked),
        chosen,
        loaded.header.preprocessing,
        split=split,
        device=picked,
        batch_size=batch_size,
        bad_share=bad_share,
    )
    if out is None:
        return Evaluation(result=result, report=None)
    report = Report(
        title=f"{Path(model).name} on {data}",
        model=model_facts(loaded.model, loaded.header),
        data=data_facts(splits, [split]),
        results=[(result, chosen.subset(result.rows))],
        environment=environment(picked),
        recipe=str(card.get("recipe", "")),
        seed=card.get("seed"),
    )
    Path(out).mkdir(parents=True, exist_ok=True)
    return Evaluation(result=result, report=write_report(Path(out), report))


def _splits_as_in_training(spec: str, split: str, header: Header) -> DataSplits:
    """Find the data; where it lacks the split, cut it as the run did that made the model."""
    found = find_data(spec)
    if found.task != header.task:
        raise ValueError(
            f"the model answers the task {header.task}, and {spec} is labelled for {found.task}\n"
            "hint: give data of the kind that the model was trained on"
        )
    for part in found.splits.values():
        part.relabel(header.class_names)
    if split in found.splits and split != "train":
        return found
    text = str(header.card.get("recipe", ""))
    settings = merge(Recipe(), tomllib.loads(text)).data if text else Data()
    return load_data(spec, settings)


def _shown_batch(run: Run) -> list[Image.Image]:
    if run.recipe.objective == "linear-probe":  # which learns from images as they are
        return []
    return training_batch(run.data["train"], run.header.preprocessing, run.recipe)


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _finish(run: Run) -> TrainedRun:
    """Measure the best model of the run and write the report."""
    best = load_artifact(run.folder / RUN_FILE)
    run.model.load_state_dict(best.model.state_dict())
    names: list[str] = [name for name in ("test", "val") if name in run.data.splits]
    results = {name: run.measure(name) for name in names}
    p = run.progress
    report = Report(
        title=f"{run.folder.name}: trained on {run.data.spec}",
        model=model_facts(run.model, run.header),
        data=data_facts(run.data, list(run.data.splits)),
        results=[(results[name], run.data[name].subset(results[name].rows)) for name in names],
        environment=environment(run.device),
        recipe=dumps(run.recipe),
        seed=run.recipe.seed,
        log=read_log(run.folder),
        batch=_shown_batch(run),
        training={
            "steps": run.stop,
            "best_step": p.best_step,
            "epochs": round(run.epoch(), 3),
            "seconds": round(p.seconds, 2),
            "images_per_second": round(p.images / p.seconds, 1) if p.seconds else 0.0,
            "unreadable": list(run.unreadable.found.values()),
        },
    )
    page = write_report(run.folder, report)
    for name in names:
        _say(run.console, f"{name} {_score_text(results[name])}")
    run.console.print(f"model   {run.folder / RUN_FILE}", highlight=False, soft_wrap=True)
    run.console.print(f"report  {page}", highlight=False, soft_wrap=True)
    return TrainedRun(folder=run.folder, results=results, seconds=p.seconds)


def _score_text(result: Measured) -> str:
    score = result.score
    value, low, high = (score.text(number) for number in score.interval)
    left_out = f"; {len(result.unreadable)} unreadable" if result.unreadable else ""
    images = f"{len(result.labels)} images{left_out}"
    return f"{score.name} {value}  (95 % interval {low} to {high}, {images})"


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
        f"run     {run.folder}: {run.stop:,} steps of {run.recipe.data.batch_size} images"
        + (f", resumed at step {run.state.step:,}" if run.state.step else ""),
    ]
    for line in lines:
        run.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _refuse_used(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "another run" if (folder / RECIPE).exists() else "something else"
        raise ValueError(
            f"{folder} already holds {what}, and nothing is overwritten\n"
            "hint: name another folder with --out"
            + (", or go on with --resume" if (folder / RECIPE).exists() else "")
        )
