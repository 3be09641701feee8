"""Write ``report.json`` and the page ``report.html``, which needs nothing but itself."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from tessera.data.dataset import Dataset
from tessera.evaluation.classify import Result
from tessera.report.figures import confusion, curves, thumbnail

EXAMPLES = 18
"""Images shown of each kind."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is known about a model after a run or a measurement."""

    title: str
    model: dict[str, Any]
    data: dict[str, Any]
    """spec, fingerprint by split, images by split, notes."""
    results: Sequence[tuple[Result, Dataset]]
    """Measurements, the one that counts first."""
    environment: dict[str, Any]
    recipe: str = ""
    """TOML."""
    seed: int | None = None
    log: Sequence[dict[str, Any]] = ()
    training: dict[str, Any] = field(default_factory=dict)
    """steps, best_step, epochs, seconds, images_per_second."""

    def as_dict(self) -> dict[str, Any]:
        """Return every number of the page."""
        return {
            "title": self.title,
            "model": self.model,
            "data": self.data,
            "results": {result.split: result_dict(result) for result, _ in self.results},
            "training": self.training,
            "log": list(self.log),
            "seed": self.seed,
            "recipe": self.recipe,
            "environment": self.environment,
        }


def write_report(folder: Path, report: Report) -> Path:
    """Write both files into a folder and return the path of the page."""
    text = json.dumps(report.as_dict(), indent=2)
    (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    page = folder / "report.html"
    # File names on Linux may be no UTF-8, and Python then holds them as lone surrogates.
    page.write_text(render(report), encoding="utf-8", errors="backslashreplace")
    return page


def render(report: Report) -> str:
    """Return the page."""
    loader = jinja2.FunctionLoader(
        lambda name: (files("tessera.report") / name).read_text(encoding="utf-8")
    )
    engine = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    engine.filters["percent"] = lambda share: f"{share:.2%}"
    result, data = report.results[0]
    figures = {
        "confusion": confusion(result.confusion, result.class_names),
        "curves": curves(report.log, report.training["best_step"]) if report.log else "",
    }
    return engine.get_template("page.html.j2").render(
        report=report,
        numbers=report.as_dict(),
        main=result_dict(result),
        figures=figures,
        mistakes=_examples(result, data, wrong=True),
        examples=_examples(result, data, wrong=False),
    )


def result_dict(result: Result) -> dict[str, Any]:
    """Return a measurement as JSON knows it; shares are in [0, 1], intervals are 95 %."""
    classes = zip(result.class_names, result.classes, strict=True)
    return {
        "split": result.split,
        "images": len(result.labels),
        "accuracy": result.accuracy._asdict(),
        "top5_accuracy": result.top5._asdict() if result.top5 else None,
        "macro_f1": result.macro_f1,
        "loss": result.loss,
        "seconds": round(result.seconds, 3),
        "images_per_second": round(len(result.labels) / result.seconds, 1),
        "classes": {name: metrics._asdict() for name, metrics in classes},
        "confusion": result.confusion.tolist(),
    }


def _examples(result: Result, data: Dataset, *, wrong: bool) -> list[dict[str, Any]]:
    """Pick the mistakes made with most confidence, or an even sample of right answers."""
    predicted, probabilities = result.predicted, result.probabilities
    confidence = probabilities.max(axis=1)
    if wrong:
        rows = np.flatnonzero(predicted != result.labels)
        rows = rows[np.argsort(-confidence[rows], kind="stable")][:EXAMPLES]
    else:
        rows = np.flatnonzero(predicted == result.labels)
        rows = rows[np.linspace(0, len(rows) - 1, min(EXAMPLES, len(rows)), dtype=int)]
    return [
        {
            "image": thumbnail(data.read(int(row))),
            "name": data.name(int(row)),
            "true": result.class_names[result.labels[row]],
            "predicted": result.class_names[predicted[row]],
            "confidence": float(confidence[row]),
        }
        for row in rows
    ]
