"""Pictures of a report, as bytes that can stand inside a page."""

import base64
import io
import warnings
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from PIL import Image

from tessera.data.images import to_channels
from tessera.evaluation.base import Score
from tessera.evaluation.calibration import Reliability
from tessera.evaluation.metrics import wilson

INK, BLUE, SKY, RED, GRID = "#1f2933", "#2166ac", "#92c5de", "#b2182b", "#d9dee4"

STYLE: Any = {
    "font.size": 10,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.parse_math": False,  # a class may be called a$b$c
    "svg.fonttype": "none",
    "svg.hashsalt": "tessera",
}


def curves(rows: Sequence[dict[str, Any]], best_step: int, score: Score) -> str:
    """Draw loss and score over epochs as SVG.

    Args:
        rows: The run's log, at least one row.
        best_step: Where the saved model is from; marked by a line.
    """
    epochs = [row["epoch"] for row in rows]
    best = next((row["epoch"] for row in rows if row["step"] == best_step), None)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for axes, name in ((left, "loss"), (right, score.name)):
            for part, colour, style in (("train", GRID, "-"), ("val", BLUE, "-")):
                values = [row.get(f"{part}_{name}") for row in rows]
                if None not in values:
                    shade = INK if part == "train" else colour
                    marker = "o" if len(rows) == 1 else None
                    axes.plot(epochs, values, style, color=shade, label=part, marker=marker, lw=1.4)
            if best is not None:
                axes.axvline(best, color=RED, lw=1, ls=":", label="saved model")
            axes.set_xlabel("epoch")
            axes.set_ylabel(name)
        if score.percent:
            right.set_ylim(top=min(1.01, right.get_ylim()[1]))
            right.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        right.legend(frameon=False, loc="best")
        return as_svg(figure, f"Loss and {score.name} over epochs")


def confusion(matrix: Int[np.ndarray, "k k"], names: Sequence[str]) -> str:
    """Draw a confusion matrix as SVG, rows normalised; counts are written where they fit."""
    count = len(names)
    # Folder names that are no UTF-8 hold lone surrogates, which no font takes.
    names = [name.encode(errors="backslashreplace").decode() for name in names]
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = min(10.0, max(3.6, 1.8 + 0.42 * count))
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(side, side), layout="constrained")
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        if count <= 40:
            axes.set_xticks(range(count), names, rotation=90 if max(map(len, names)) > 2 else 0)
            axes.set_yticks(range(count), names)
        if count <= 20:
            for (i, j), value in np.ndenumerate(matrix):
                if value:
                    colour = "white" if shares[i, j] > 0.5 else INK
                    axes.text(j, i, str(value), ha="center", va="center", color=colour, size=8)
        return as_svg(figure, "Confusion matrix: true class by row, predicted by column")


def reliability(panels: Sequence[tuple[str, Reliability]]) -> str:
    """Draw accuracy over confidence by bins, and how many answers each bin has, as SVG.

    Args:
        panels: A title for each, such as before and after a temperature.
    """
    with mpl.rc_context({**STYLE, "axes.axisbelow": True, "axes.titlesize": 11}):
        figure = Figure(figsize=(4.5 * len(panels), 4.8), layout="constrained")
        rows = figure.subplots(2, len(panels), squeeze=False, height_ratios=(3, 1), sharex=True)
        for (title, found), (upper, lower) in zip(panels, rows.T, strict=True):
            bins, seen = len(found.counts), np.flatnonzero(found.counts)
            middles, half = (np.arange(bins) + 0.5) / bins, 0.46 / bins
            accuracy, confidence = found.accuracy[seen], found.confidence[seen]
            ends = [
                wilson(round(a * n), n)[1:] for a, n in zip(accuracy, found.counts[seen].tolist())
            ]
            around = np.abs(np.array(ends).T - accuracy)
            upper.plot([0, 1], [0, 1], color=INK, lw=1, ls=":")
            upper.bar(middles[seen], accuracy, 2 * half, color=SKY, label="accuracy")
            upper.errorbar(
                *(middles[seen], accuracy, around, None, "none"),
                **{"ecolor": BLUE, "elinewidth": 1.2, "label": "its 95 % interval"},
            )
            left, right = middles[seen] - half, middles[seen] + half
            upper.hlines(confidence, left, right, color=RED, lw=2, label="mean confidence")
            upper.set(title=f"{title}: ECE {found.ece:.2%}", xlim=(0, 1), ylim=(0, 1.02))
            lower.bar(middles, found.counts / found.counts.sum(), 2 * half, color=SKY)
            lower.set(xlabel="confidence", ylim=(0, 1))
            for axes in (upper, lower):
                axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
            lower.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        rows[0, 0].set_ylabel("accuracy")
        rows[1, 0].set_ylabel("images")
        handles, labels = rows[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, frameon=False, loc="outside upper center", ncols=3)
        return as_svg(figure, "Accuracy over confidence, and how many images have which confidence")


def scatter(labels: Float[np.ndarray, " n"], predicted: Float[np.ndarray, " n"], name: str) -> str:
    """Draw what was predicted over what is true, as SVG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5, 5), layout="constrained")
        axes = figure.subplots()
        low, high = min(labels.min(), predicted.min()), max(labels.max(), predicted.max())
        axes.plot([low, high], [low, high], color=GRID, lw=1.4)
        axes.plot(labels, predicted, ".", color=BLUE, ms=4, alpha=0.6)
        axes.set_xlabel(f"true {name}")
        axes.set_ylabel(f"predicted {name}")
        return as_svg(figure, f"Predicted over true {name}")


def thumbnail(image: Image.Image, side: int = 112) -> str:
    """Return a small square-bounded copy of an image as a PNG data address."""
    small = to_channels(image, 3)
    scale = side / max(small.size)
    size = tuple(max(1, round(length * scale)) for length in small.size)
    # Tiny images are shown as the pixels they are; large ones are reduced smoothly.
    filter_ = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
    return png(small.resize((size[0], size[1]), filter_))


def png(image: Image.Image) -> str:
    """Return an image as a data address that can stand in a page."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def as_svg(figure: Figure, title: str) -> str:
    """Return the figure as an SVG element with a title for readers that cannot see it."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Matplotlib's font only measures the text; the browser draws it, and has the glyphs.
        warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    end = text.index(">") + 1
    head = text[:end].replace("<svg", '<svg role="img"', 1)
    return f"{head}<title>{title}</title>{text[end:]}"
