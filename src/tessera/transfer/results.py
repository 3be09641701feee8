"""The table of a suite: numbers with intervals and seeds, as JSON, Markdown and a page."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from tessera.checkpoint.artifact import write_atomically
from tessera.evaluation.means import over_seeds, over_tasks
from tessera.evaluation.metrics import Interval
from tessera.transfer.draws import TaskData
from tessera.transfer.suite import SWEEPS, WARMUP, Suite


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """The accuracy on one data set."""

    name: str
    group: str
    note: str
    data: str
    split: str
    images: int
    accuracy: Interval
    """Mean over the seeds."""
    seeds: list[dict[str, Any]]
    fingerprint: dict[str, str]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        return {**self.__dict__, "accuracy": self.accuracy._asdict()}


@dataclass(frozen=True, kw_only=True)
class TransferResult:
    """What a suite measured, as far as it has come."""

    suite: Suite
    model: dict[str, Any]
    environment: dict[str, Any]
    tasks: list[TaskResult]
    folder: Path

    @property
    def missing(self) -> list[str]:
        """Tasks that are not measured yet."""
        done = {task.name for task in self.tasks}
        return [task.name for task in self.suite.tasks if task.name not in done]

    @property
    def groups(self) -> dict[str, Interval]:
        """Mean of every group, as far as it is measured."""
        names = dict.fromkeys(task.group for task in self.tasks)
        return {
            group: over_tasks([task.accuracy for task in self.tasks if task.group == group])
            for group in names
        }

    @property
    def mean(self) -> Interval:
        """Plain mean over the tasks."""
        return over_tasks([task.accuracy for task in self.tasks])

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        return {
            "title": self.suite.title,
            "protocol": protocol(self.suite),
            "missing": self.missing,
            "tasks": [task.as_dict() for task in self.tasks],
            "groups": {name: score._asdict() for name, score in self.groups.items()},
            "mean": self.mean._asdict(),
            "suite": asdict(self.suite),
            "model": self.model,
            "environment": self.environment,
        }


def task_result(data: TaskData, found: Mapping[str, Any]) -> TaskResult:
    """Turn the hits of every seed into an accuracy."""
    images = found["seeds"][0]["images"]
    return TaskResult(
        name=data.task.name,
        group=data.task.group,
        note=data.task.note,
        data=data.task.data,
        split=data.task.split,
        images=images,
        accuracy=over_seeds([row["hits"] for row in found["seeds"]], images),
        seeds=[{**row, "accuracy": row["hits"] / images} for row in found["seeds"]],
        fingerprint=data.fingerprint,
    )


def protocol(suite: Suite) -> list[str]:
    """Say in sentences how the numbers came to be."""
    drawn = (
        f"{suite.train_images:,} training images drawn uniformly for every seed, and "
        f"{suite.val_images:,} others to tune on"
    )
    whole = f"the final model learns from all {suite.images_in_training:,}"
    sizes = suite.preprocessing == "published"
    prepared = "short side 256, crop 224, pixels to [-1, 1]" if sizes else "the model's own"
    if suite.method == "few-shot":
        lines = [
            f"Ridge regression in closed form (lambda {suite.few_shot.penalty:g}) on whitened "
            f"features of the frozen model, {suite.few_shot.shots} training images a class.",
            f"Preprocessing: {prepared}.",
        ]
    elif suite.method == "linear":
        lines = [
            f"Logistic regression on features of the frozen model: {drawn}, on which the penalty "
            f"is chosen; {whole}.",
            f"Preprocessing: {prepared}.",
        ]
    else:
        lines = _finetuning(suite, drawn, whole)
    names = ", ".join(map(str, suite.seeds))
    seeds = f"seeds {names}" if len(suite.seeds) > 1 else f"seed {names} alone"
    lines.append(f"Accuracy is top-1 on the whole test split, for {seeds}.")
    return lines


def _finetuning(suite: Suite, drawn: str, whole: str) -> list[str]:
    settings = suite.finetune.settings
    rates = ", ".join(f"{lr:g}" for lr in dict.fromkeys(lr for lr, _ in settings))
    steps = ", ".join(f"{n:,}" for n in dict.fromkeys(n for _, n in settings))
    batch = suite.finetune.batch_size or SWEEPS[suite.finetune.sweep].batch_size
    how = f"learning rates {rates}, {steps} steps of {batch} images"
    choice = f"Tuned by accuracy over {how}." if len(settings) > 1 else f"Nothing is tuned: {how}."
    lines = [
        f"Fine-tuning of every weight: {drawn}; {whole}.",
        choice,
        f"SGD with momentum 0.9, cosine decay, warm-up over {WARMUP:.0%} of the steps, gradients "
        "clipped at norm 1, no weight decay, whole images resized, no augmentation.",
    ]
    if suite.finetune.recipe:
        lines.append(f"Changed by the suite: {json.dumps(suite.finetune.recipe)}.")
    return lines


def markdown(result: TransferResult) -> str:
    """Write the table for a document."""
    lines = [f"# {result.suite.title}", "", *(f"- {line}" for line in protocol(result.suite))]
    lines.append(f"- Model: {result.model['name']}, {result.model['parameters']:,} parameters.")
    if result.missing:
        lines.append(f"- Not measured yet: {', '.join(result.missing)}.")
    lines += ["", "| task | group | accuracy | 95 % interval | test images | note |"]
    lines.append("|---|---|---|---|---|---|")
    for row in _rows(result):
        cells = (str(cell).replace("|", "\\|") for cell in row)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _rows(result: TransferResult) -> Sequence[tuple[str, ...]]:
    """The cells of the table: tasks, then the means."""
    rows = [
        (task.name, task.group, *_numbers(task.accuracy), f"{task.images:,}", task.note)
        for task in result.tasks
    ]
    means = result.groups if len(result.groups) > 1 else {}
    for group, score in means.items():
        count = sum(task.group == group for task in result.tasks)
        rows.append((f"mean of {group}", group, *_numbers(score), "", _tasks(count)))
    rows.append(("mean of all", "", *_numbers(result.mean), "", _tasks(len(result.tasks))))
    return rows


def _tasks(count: int) -> str:
    return "1 task" if count == 1 else f"{count} tasks"


def _numbers(score: Interval) -> tuple[str, str]:
    return f"{score.value:.2%}", f"{score.low:.2%} to {score.high:.2%}"


def write_results(result: TransferResult) -> None:
    """Write ``results.json``, ``results.md`` and ``results.html``, each whole or not at all."""
    engine = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = (files("tessera.transfer") / "page.html.j2").read_text(encoding="utf-8")
    page = engine.from_string(template).render(
        result=result, protocol=protocol(result.suite), rows=_rows(result), tuned=_tuned(result)
    )
    texts = {
        "results.json": json.dumps(result.as_dict(), indent=2) + "\n",
        "results.md": markdown(result),
        "results.html": page,
    }
    for name, text in texts.items():
        data = text.encode("utf-8", errors="backslashreplace")
        write_atomically(result.folder / name, partial(_write, data))


def _write(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def _tuned(result: TransferResult) -> list[tuple[str, ...]]:
    """What tuning tried and chose, and the accuracy of every seed."""
    rows: list[tuple[str, ...]] = []
    for task in result.tasks:
        for row in task.seeds:
            accuracy = f"{row['accuracy']:.2%}"
            chosen = row.get("chosen")
            how = f"rate {chosen['lr']:g}, {chosen['steps']:,} steps" if chosen else ""
            if "strength" in row:
                how = f"C={row['strength']:g}"
            rows.append((task.name, str(row["seed"]), accuracy, how))
    return rows
