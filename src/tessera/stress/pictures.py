"""Curves of accuracy over stress, all models in one picture."""

import statistics
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tessera.report.figures import BLUE, INK, RED, STYLE, as_svg
from tessera.stress.registry import TESTS
from tessera.stress.results import StressResult
from tessera.stress.rows import Row, mean_of

COLOURS = (BLUE, RED, "#1b7837", "#762a83", "#b35806", INK)
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (6, 2, 1, 2, 1, 2)), (0, (1, 3)))
POSITIONS = {"permutation": 1.0}
"""Where no stress stands on the axis; 0 elsewhere, None where levels have no order."""
UNORDERED = ("resolutions", "crops", "shift")
"""Tests whose levels do not begin at the images as they are."""


def curves(result: StressResult, test: str) -> str:
    """Draw accuracy over the levels of a test, a curve a model and series, as SVG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.2), layout="constrained")
        axes = figure.subplots()
        _draw(axes, result, test)
        handles, _ = axes.get_legend_handles_labels()
        if handles:
            axes.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
        return as_svg(figure, f"{TESTS[test].title}: accuracy by {TESTS[test].axis}")


def overview(result: StressResult) -> str:
    """Draw the curves of all tests beside each other, as SVG."""
    tests = [test for test in result.tests if result.of(test)]
    across = min(3, len(tests))
    down = -(-len(tests) // across)
    with mpl.rc_context({**STYLE, "font.size": 9}):
        figure = Figure(figsize=(4.3 * across, 3.1 * down), layout="constrained")
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for panel in panels[len(tests) :]:
            panel.remove()
        for panel, test in zip(panels, tests, strict=False):
            _draw(panel, result, test, mean_only=len(result.series(test)) > len(DASHES))
            panel.set_title(TESTS[test].title, fontsize=10)
            handles, _ = panel.get_legend_handles_labels()
            if 1 < len(handles) <= 6:
                panel.legend(frameon=False, fontsize=6.5)
        return as_svg(figure, "Accuracy under stress")


def bars(result: StressResult, test: str) -> str:
    """Draw the mean accuracy of every series of a test as SVG, a mark a model."""
    names = result.series(test)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 1.2 + 0.32 * len(names)), layout="constrained")
        axes = figure.subplots()
        for number, model in enumerate(result.models):
            shift = 0.16 * (number - (len(result.models) - 1) / 2)
            for place, series in enumerate(names):
                rows = result.of(test, model, series)
                if rows:
                    label = model if not place else None
                    _mark(axes, rows, place + shift, COLOURS[number % len(COLOURS)], label)
            axes.axvline(
                result.clean[model].accuracy.value,
                color=COLOURS[number % len(COLOURS)],
                lw=1,
                ls=":",
            )
        axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        axes.invert_yaxis()
        axes.set_xlim(0, 1.01)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_xlabel("accuracy, mean over the levels; dotted: images as they are")
        if len(result.models) > 1:
            axes.legend(frameon=False, loc="best")
        return as_svg(figure, f"{TESTS[test].title}: mean accuracy of each")


def _mark(axes: Axes, rows: list[Row], place: float, colour: str, label: str | None) -> None:
    mean = mean_of(rows)
    axes.plot([mean.low, mean.high], [place, place], color=colour, lw=1.2)
    axes.plot([mean.value], [place], "o", color=colour, ms=4, label=label)


def _draw(axes: Axes, result: StressResult, test: str, *, mean_only: bool = False) -> None:
    """Draw the curves of a test, with bands for the intervals."""
    names = result.series(test)
    for number, model in enumerate(result.models):
        colour = COLOURS[number % len(COLOURS)]
        if mean_only:
            _mean_curve(axes, result, test, model, colour)
            continue
        for series in names:
            rows = result.of(test, model, series)
            if rows:
                words = [model] * (len(result.models) > 1) + [series] * (len(names) > 1)
                dash = DASHES[names.index(series) % len(DASHES)]
                _curve(axes, rows, test, " · ".join(words), colour, dash)
        if test in UNORDERED:
            axes.axhline(result.clean[model].accuracy.value, color=colour, lw=1, ls=":")
    axes.set_ylim(-0.02, 1.02)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_ylabel("accuracy")
    axes.set_xlabel(TESTS[test].axis)
    rows = result.of(test)
    if TESTS[test].log:
        axes.set_xscale("log", base=2)
    ticks = dict(sorted({row.value: row.text for row in rows}.items()))
    if len(ticks) <= 8:
        axes.set_xticks(list(ticks), list(ticks.values()), minor=False)
        axes.minorticks_off()
    elif all(text.endswith("%") for text in ticks.values()):
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def _curve(axes: Axes, rows: list[Row], test: str, label: str, colour: str, dash: Any) -> None:
    rows = sorted(rows, key=lambda row: row.value)
    points = [(row.value, *row.accuracy) for row in rows]
    origin = POSITIONS.get(test, 0.0)
    if test not in UNORDERED and points[0][0] > origin:
        points.insert(0, (origin, rows[0].clean, rows[0].clean, rows[0].clean))
    x, middle, low, high = np.array(points).T
    marker = "o" if len(x) < 3 or test in UNORDERED else None
    axes.plot(x, middle, ls=dash, color=colour, lw=1.6, marker=marker, ms=4, label=label or None)
    axes.fill_between(x, low, high, color=colour, alpha=0.12, lw=0)


def _mean_curve(axes: Axes, result: StressResult, test: str, model: str, colour: str) -> None:
    """The mean over all series at each level."""
    rows = result.of(test, model)
    if not rows:
        return
    levels = sorted({row.value for row in rows})
    means = [mean_of([row for row in rows if row.value == level]) for level in levels]
    clean = statistics.fmean(row.clean for row in rows)
    x = np.array([0.0, *levels])
    middle, low, high = np.array([(clean, clean, clean), *means]).T
    label = f"{model}, mean" if len(result.models) > 1 else "mean"
    axes.plot(
        x, middle, color=colour, lw=1.6, label=label, marker="o" if len(x) < 3 else None, ms=4
    )
    axes.fill_between(x, low, high, color=colour, alpha=0.12, lw=0)
