"""The plot of a study, as SVG."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tessera.report.figures import BLUE, GRID, INK, RED, STYLE, as_svg
from tessera.studies.design import Study

COLOURS = (BLUE, RED, "#4d9221", "#762a83")
"""Of curves, in their order."""

Rows = Sequence[dict[str, Any]]
"""Variants as ``Row.as_dict`` gives them."""


def draw(study: Study, rows: Rows) -> str:
    """Draw accuracy, and what else the study shows, of all variants that are measured.

    Means are dots with their intervals, seeds small crosses.
    """
    measured = [row for row in rows if row["accuracy"] is not None]
    with mpl.rc_context(STYLE):
        if study.shows == "cost":
            figure = Figure(figsize=(11, 3.6), layout="constrained")
            left, middle, right = figure.subplots(1, 3)
            _curves(left, study, measured)
            _time(middle, measured)
            _memory(right, measured)
        elif study.axis is not None:
            figure = Figure(figsize=(7, 4.2), layout="constrained")
            _curves(figure.subplots(), study, measured)
        else:
            height = 1.0 + 0.34 * max(len(measured), 2)
            figure = Figure(figsize=(7, height), layout="constrained")
            _list(figure.subplots(), measured)
        return as_svg(figure, f"{study.title}: accuracy of every variant")


def _list(axes: Axes, rows: Rows) -> None:
    """A line for each variant, the first on top."""
    for place, row in enumerate(rows):
        value, low, high = (row["accuracy"][key] for key in ("value", "low", "high"))
        if low is not None:
            axes.hlines(place, low, high, color=BLUE, lw=1.6)
        axes.plot([value], [place], "o", color=BLUE, ms=5)
        seeds = _seeds(row)
        axes.plot(seeds, [place] * len(seeds), "x", color=INK, ms=4, alpha=0.6)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.set_ylim(max(len(rows), 1) - 0.5, -0.5)
    axes.set_xlabel("accuracy")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.1%}")


def _curves(axes: Axes, study: Study, rows: Rows) -> None:
    """Accuracy over the axis of the study, a line for each of its curves."""
    names = list(dict.fromkeys(row["curve"] for row in rows))
    for name, colour in zip(names, COLOURS):
        mine = sorted((row for row in rows if row["curve"] == name), key=lambda row: row["x"])
        places = [row["x"] for row in mine]
        values = [row["accuracy"]["value"] for row in mine]
        axes.plot(places, values, "o-", color=colour, ms=5, lw=1.4, label=name)
        for row in mine:
            if row["accuracy"]["low"] is not None:
                axes.vlines(row["x"], row["accuracy"]["low"], row["accuracy"]["high"], color=colour)
            seeds = _seeds(row)
            axes.plot([row["x"]] * len(seeds), seeds, "x", color=colour, ms=4, alpha=0.6)
    assert study.axis is not None, "studies without an axis are drawn as a list"
    _ticks(axes, sorted({row["x"] for row in rows}), study.axis.label, study.axis.is_log)
    axes.set_ylabel("accuracy")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.1%}")
    if any(names):
        axes.legend(frameon=False)


def _time(axes: Axes, rows: Rows) -> None:
    """Training time of an image, and the share of arithmetic that is quadratic in the tokens."""
    rows = sorted(rows, key=lambda row: row["tokens"])
    tokens = [float(row["tokens"]) for row in rows]
    times = [1000 / row["images_per_second"] for row in rows]
    axes.plot(tokens, times, "o-", color=BLUE, ms=5, lw=1.4)
    _ticks(axes, tokens, "tokens")
    axes.set_yscale("log")
    axes.set_ylabel("ms of training per image", color=BLUE)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.yaxis.set_minor_formatter("")
    if rows:
        linear = [times[0] * count / tokens[0] for count in tokens]
        axes.plot(tokens, linear, ":", color=INK, lw=1, label="as the tokens")
        axes.legend(frameon=False, loc="upper left")
    share = axes.twinx()
    share.plot(tokens, [row["attention_share"] for row in rows], "s--", color=RED, ms=4, lw=1.2)
    share.set_ylim(0, 1)
    share.grid(False)
    share.spines["right"].set(visible=True, color=GRID)
    share.set_ylabel("part of N² in all MACs", color=RED)
    share.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")


def _memory(axes: Axes, rows: Rows) -> None:
    """Peak memory of training over tokens, where it could be measured."""
    known = sorted((row for row in rows if row["memory"]), key=lambda row: row["tokens"])
    tokens = [float(row["tokens"]) for row in known]
    axes.plot(tokens, [row["memory"] / 1e6 for row in known], "o-", color=BLUE, ms=5, lw=1.4)
    _ticks(axes, tokens, "tokens")
    axes.set_ylabel("memory of training, MB")
    axes.set_ylim(bottom=0)


def _ticks(axes: Axes, places: Sequence[float], label: str, is_log: bool = True) -> None:
    """Mark the places that were measured."""
    if is_log and places:
        axes.set_xscale("log")
    axes.set_xticks(list(places), [f"{place:g}" for place in places])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(label)


def _seeds(row: dict[str, Any]) -> list[float]:
    return [seed["hits"] / seed["images"] for seed in row["seeds"] if "diverged" not in seed]
