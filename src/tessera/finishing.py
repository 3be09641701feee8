"""The end of a run: the best model is measured, and everything is written down."""

from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from tessera.checkpoint.artifact import (
    RUN_FILE,
    Calibration,
    load_artifact,
    save_artifact,
)
from tessera.devices import is_main
from tessera.evaluation.base import Measured
from tessera.evaluation.calibration import fit_temperature
from tessera.evaluation.classify import Result
from tessera.progress import say
from tessera.recipe import dumps
from tessera.report.augmented import training_batch
from tessera.report.environment import environment, peak_memory
from tessera.report.facts import data_facts, model_facts
from tessera.report.predictions import write_predictions
from tessera.report.report import Report, write_report
from tessera.training.log import read_log
from tessera.training.run import Run


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


def finish(run: Run) -> TrainedRun:
    """Measure the best model of the run, calibrate it, and write tables and the report."""
    best = load_artifact(run.folder / RUN_FILE)
    run.model = best.model.to(run.device)
    names: list[str] = [name for name in ("test", "val") if name in run.data.splits]
    calibration, results = _calibrated({name: run.measure(name) for name in names})
    p = run.progress
    if not is_main():
        return TrainedRun(folder=run.folder, results=results, seconds=p.seconds)
    save_artifact(best.path, best.model, replace(best.header, calibration=calibration))
    shown = [(results[name], run.data[name].subset(results[name].rows)) for name in names]
    tables = [path.name for pair in shown for path in write_predictions(run.folder, *pair)]
    report = Report(
        title=f"{run.folder.name}: trained on {run.data.spec}",
        model=model_facts(run.model, run.header),
        data=data_facts(run.data, list(run.data.splits)),
        results=shown,
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
        memory=peak_memory(run.device),
        files=tables,
    )
    page = write_report(run.folder, report)
    for name in names:
        say(run.console, f"{name} {score_text(results[name])}")
    run.console.print(f"model   {run.folder / RUN_FILE}", highlight=False, soft_wrap=True)
    run.console.print(f"report  {page}", highlight=False, soft_wrap=True)
    return TrainedRun(folder=run.folder, results=results, seconds=p.seconds)


def _calibrated(
    results: dict[str, Measured],
) -> tuple[Calibration | None, dict[str, Measured]]:
    """Fit the temperature of a classifier to the validation images, and give it to all results."""
    val = results.get("val")
    if not isinstance(val, Result):
        return None, results
    temperature = fit_temperature(val.logits, val.labels)
    before, after = val.calibration_at(1.0), val.calibration_at(temperature)
    calibration = Calibration(
        temperature=temperature,
        split="val",
        images=len(val.labels),
        nll_before=before["nll"],
        nll_after=after["nll"],
        ece_before=before["ece"],
        ece_after=after["ece"],
    )
    warm = {name: replace(result, temperature=temperature) for name, result in results.items()}
    return calibration, warm


def _shown_batch(run: Run) -> list[Image.Image]:
    if run.recipe.objective == "linear-probe":  # which learns from images as they are
        return []
    return training_batch(run.data["train"], run.header.preprocessing, run.recipe)


def score_text(result: Measured) -> str:
    """Write a score with its interval, and of how many images it is."""
    score = result.score
    value, low, high = (score.text(number) for number in score.interval)
    left_out = f"; {len(result.unreadable)} unreadable" if result.unreadable else ""
    images = f"{len(result.labels)} images{left_out}"
    return f"{score.name} {value}  (95 % interval {low} to {high}, {images})"
