"""The files of a stress test: JSON, CSV, curves and a page."""

import json
from collections.abc import Iterator
from functools import partial
from importlib.resources import files
from pathlib import Path

import jinja2

from tessera.checkpoint.artifact import write_atomically
from tessera.report.tables import write_table
from tessera.stress.pictures import bars, curves, overview
from tessera.stress.registry import TESTS
from tessera.stress.results import StressResult, columns

MANY = 6
"""Series above which a test is drawn as means of its series and not as curves of them."""


def write_results(result: StressResult) -> None:
    """Write ``results.json``, ``results.csv``, ``curves.svg`` and ``results.html``."""
    write_numbers(result)
    engine = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    engine.filters["percent"] = lambda share: f"{share:.1%}"
    template = (files("tessera.stress") / "page.html.j2").read_text(encoding="utf-8")
    page = engine.from_string(template).render(
        result=result, tests=TESTS, pictures=dict(_pictures(result)), weakest=result.weakest
    )
    _save(result.folder / "results.html", page)
    if result.rows:
        _save(result.folder / "curves.svg", overview(result))


def write_numbers(result: StressResult) -> None:
    """Write ``results.json`` and ``results.csv``."""
    _save(result.folder / "results.json", json.dumps(result.as_dict(), indent=2) + "\n")
    part = result.folder / "results.part.csv"
    write_table(part, columns(result)).replace(result.folder / "results.csv")


def _pictures(result: StressResult) -> Iterator[tuple[str, str]]:
    """A picture of every test that has rows."""
    for test in result.tests:
        if result.of(test):
            draw = bars if len(result.series(test)) > MANY else curves
            yield test, draw(result, test)


def _save(path: Path, text: str) -> None:
    data = text.encode("utf-8", errors="backslashreplace")
    write_atomically(path, partial(_write, data))


def _write(data: bytes, path: Path) -> None:
    path.write_bytes(data)
