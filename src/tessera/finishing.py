"""The end of a run: the best model is measured, and everything is written down."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tessera.checkpoint.artifact import RUN_FILE, load_artifact
from tessera.devices import is_main
from tessera.evaluation.base import Measured
from tessera.progress import say
from tessera.recipe import dumps
from tessera.report.augmented import training_batch
from tessera.report.environment import environment
from tessera.report.facts import data_facts, model_facts
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
    """Measure the best model of the run and write the report."""
    run.model = load_artifact(run.folder / RUN_FILE).model.to(run.device)
    names: list[str] = [name for name in ("test", "val") if name in run.data.splits]
    results = {name: run.measure(name) for name in names}
    p = run.progress
    if not is_main():
        return TrainedRun(folder=run.folder, results=results, seconds=p.seconds)
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
        say(run.console, f"{name} {score_text(results[name])}")
    run.console.print(f"model   {run.folder / RUN_FILE}", highlight=False, soft_wrap=True)
    run.console.print(f"report  {page}", highlight=False, soft_wrap=True)
    return TrainedRun(folder=run.folder, results=results, seconds=p.seconds)


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
