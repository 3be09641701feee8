"""What stress measured: every level of every test, and the means."""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tessera.stress.advice import Weakness, weaknesses
from tessera.stress.levels import Planned
from tessera.stress.registry import TESTS
from tessera.stress.rows import Row, mean_of
from tessera.stress.settings import StressSettings


@dataclass(kw_only=True)
class StressResult:
    """What was measured, as far as it has come."""

    settings: StressSettings
    tests: tuple[str, ...]
    models: dict[str, dict[str, Any]]
    """Facts of every model by its name."""
    data: dict[str, Any]
    environment: dict[str, Any]
    folder: Path
    clean: dict[str, Row] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    notes: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    """By test and model: what is left out, and what a reader must know."""
    missing: int = 0
    """Levels that are not measured yet."""

    def add_notes(self, test: str, model: str, planned: Planned) -> None:
        """Keep what a plan says of a test."""
        if planned.notes:
            self.notes.setdefault(test, {})[model] = planned.notes

    def of(self, test: str, model: str | None = None, series: str | None = None) -> list[Row]:
        """Return the rows of a test."""
        return [
            row
            for row in self.rows
            if row.test == test and model in (None, row.model) and series in (None, row.series)
        ]

    def series(self, test: str) -> list[str]:
        """Return the curves of a test."""
        return list(dict.fromkeys(row.series for row in self.of(test)))

    @property
    def means(self) -> list[dict[str, Any]]:
        """The mean over all levels of every series, and over the corruptions as a whole."""
        found = []
        for test in self.tests:
            for model in self.models:
                whole = [None] if test == "corruptions" else []
                for series in [*whole, *self.series(test)]:
                    rows = self.of(test, model, series)
                    if rows:
                        found.append(self._mean_row(test, model, series, rows))
        return found

    def _mean_row(
        self, test: str, model: str, series: str | None, rows: list[Row]
    ) -> dict[str, Any]:
        kinds = len({row.series for row in rows})
        return {
            "test": test,
            "model": model,
            "series": series or f"mean of {kinds} corruptions",
            "levels": len(rows),
            "accuracy": mean_of(rows)._asdict(),
            "ece": statistics.fmean(row.ece for row in rows),
        }

    @property
    def weakest(self) -> dict[str, list[Weakness]]:
        """The weakest points of every model."""
        return {
            model: weaknesses([row for row in self.rows if row.model == model])
            for model in self.models
        }

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        return {
            "settings": asdict(self.settings),
            "tests": {name: TESTS[name].protocol for name in self.tests},
            "not_asked_for": [name for name in TESTS if name not in self.tests],
            "missing_levels": self.missing,
            "models": self.models,
            "data": self.data,
            "clean": {model: row.as_dict() for model, row in self.clean.items()},
            "rows": [row.as_dict() for row in self.rows],
            "means": self.means,
            "weakest": {
                model: [asdict(point) for point in points] for model, points in self.weakest.items()
            },
            "notes": self.notes,
            "environment": self.environment,
        }


def columns(result: StressResult) -> dict[str, list[Any]]:
    """Return every row as columns of a table, those without stress first."""
    rows = [*result.clean.values(), *result.rows]
    names: dict[str, Callable[[Row], Any]] = {
        "model": lambda row: row.model,
        "test": lambda row: row.test,
        "series": lambda row: row.series,
        "level": lambda row: row.value,
        "level_text": lambda row: row.text,
        "accuracy": lambda row: row.accuracy.value,
        "low": lambda row: row.accuracy.low,
        "high": lambda row: row.accuracy.high,
        "clean_accuracy": lambda row: row.clean,
        "ece": lambda row: row.ece,
        "images": lambda row: row.images,
        "runs": lambda row: len(row.hits),
        "dropped": lambda row: row.extra.get("dropped"),
        "success": lambda row: row.extra.get("success"),
    }
    return {name: [get(row) for row in rows] for name, get in names.items()}
