"""k-fold cross-validation: one run a fold, and what they have in common."""

import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from tessera.api import resume_run, start_run
from tessera.checkpoint.artifact import write_atomically
from tessera.evaluation.base import Measured
from tessera.finishing import TrainedRun
from tessera.recipe import Recipe
from tessera.training.state import exists

SUMMARY = "folds.json"


def cross_validate(
    data: str | Path,
    recipe: Recipe,
    out: str | Path,
    folds: int,
    *,
    resume: bool = False,
    console: Console | None = None,
) -> list[TrainedRun]:
    """Train ``folds`` times, each time with another part of the training images as validation.

    The parts are stratified; groups and near-duplicates stay in one of them.

    Args:
        out: Folder in which ``fold-0``, ``fold-1``, ... and ``folds.json`` are written.
        resume: Go on where an earlier call stopped; runs that are complete are only measured.

    Raises:
        ValueError: The data has a validation split of its own, or is too small for so many folds.
        DivergedError: The loss of a run is no longer finite.
    """
    folder = Path(out)
    console = console or Console(stderr=True, quiet=True)
    runs: list[TrainedRun] = []
    for fold in range(folds):
        settings = replace(recipe, data=replace(recipe.data, folds=folds, fold=fold))
        place = folder / f"fold-{fold}"
        console.print(f"fold    {fold} of {folds}", highlight=False)
        if resume and exists(place):
            runs.append(resume_run(str(data), place, console=console))
        else:
            runs.append(start_run(str(data), settings, place, console=console))
    measured = {split: [run.results[split] for run in runs] for split in runs[0].results}
    summary = {split: _summary(results) for split, results in measured.items()}
    text = json.dumps(summary, indent=2) + "\n"
    write_atomically(folder / SUMMARY, lambda part: part.write_text(text, encoding="utf-8"))
    for split, results in measured.items():
        score, row = results[0].score, summary[split]
        mean, spread = score.text(row["mean"]), score.text(row["standard_deviation"])
        console.print(
            f"{split} {score.name} over {folds} folds: mean {mean}, standard deviation {spread}",
            highlight=False,
        )
    return runs


def _summary(results: list[Measured]) -> dict[str, Any]:
    """Return the score of every fold, and their mean and spread."""
    values = [result.score.interval.value for result in results]
    return {
        "score": results[0].score.name,
        "folds": values,
        "mean": statistics.fmean(values),
        "standard_deviation": statistics.stdev(values),
    }
