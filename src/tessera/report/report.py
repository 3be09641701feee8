"""Write ``report.json`` and the page ``report.html``, which needs nothing but itself."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from tessera.data.dataset import Dataset
from tessera.evaluation.base import Measured
from tessera.evaluation.calibration import Reliability
from tessera.evaluation.classify import Result
from tessera.evaluation.regress import RegressionResult
from tessera.report.augmented import contact_sheet
from tessera.report.figures import confusion, curves, png, reliability, scatter
from tessera.report.gallery import examples


@dataclass(frozen=True, kw_only=True)
class Report:
    """What is known about a model after a run or a measurement."""

    title: str
    model: dict[str, Any]
    data: dict[str, Any]
    """spec, fingerprint by split, images by split, notes."""
    results: Sequence[tuple[Measured, Dataset]]
    """Measurements with the images that were measured, the one that counts first."""
    environment: dict[str, Any]
    recipe: str = ""
    """TOML."""
    seed: int | None = None
    log: Sequence[dict[str, Any]] = ()
    batch: Sequence[Image.Image] = ()
    """Training images after augmentation."""
    training: dict[str, Any] = field(default_factory=dict)
    """steps, best_step, epochs, seconds, images_per_second, unreadable."""
    memory: dict[str, int | None] = field(default_factory=dict)
    """Peak bytes: process, device."""
    files: Sequence[str] = ()
    """Names of the tables that lie beside the page."""

    def as_dict(self) -> dict[str, Any]:
        """Return every number of the page."""
        return {
            "title": self.title,
            "model": self.model,
            "data": self.data,
            "results": {result.split: result.as_dict() for result, _ in self.results},
            "training": self.training,
            "peak_memory_bytes": self.memory,
            "files": list(self.files),
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
    engine.filters["megabytes"] = lambda count: f"{count / 1e6:,.0f} MB"
    result, data = report.results[0]
    best = report.training.get("best_step", 0)
    figures = dict.fromkeys(("curves", "confusion", "reliability", "scatter", "batch"), "")
    if report.log:
        figures["curves"] = curves(report.log, best, result.score)
    if report.batch:
        figures["batch"] = png(contact_sheet(report.batch))
    if isinstance(result, Result):
        figures["confusion"] = confusion(result.confusion, result.class_names)
        figures["reliability"] = reliability(_panels(result))
    if isinstance(result, RegressionResult):
        figures["scatter"] = scatter(result.labels, result.predicted, result.class_names[0])
    return engine.get_template("page.html.j2").render(
        report=report,
        numbers=report.as_dict(),
        main=result.as_dict(),
        scores={r.split: r.score for r, _ in report.results},
        figures=figures,
        mistakes=examples(result, data, wrong=True),
        examples=examples(result, data, wrong=False),
    )


def _panels(result: Result) -> list[tuple[str, Reliability]]:
    """Return what the picture of calibration shows: as it is, and with the temperature."""
    before = ("logits as they are", result.reliability())
    if result.temperature is None:
        return [before]
    after = result.reliability(result.temperature)
    return [before, (f"with temperature {result.temperature:.3g}", after)]
