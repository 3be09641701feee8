"""The pages of ``tessera explain``, and their pictures."""

import base64
import io
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import matplotlib as mpl
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from PIL import Image
from torch import Tensor

from tessera.report.figures import BLUE, GRID, INK, RED, SKY, STYLE, as_svg

PALE = "#b3bcc7"

SHOWN = 420
"""Longer side of a picture on the page, in pixels; the PNG beside it has the image's own size."""


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Fill a template of this folder and write the page."""
    loader = jinja2.FunctionLoader(
        lambda name: (files("tessera.report") / name).read_text(encoding="utf-8")
    )
    engine = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    path.write_text(
        engine.get_template(template).render(**values),
        encoding="utf-8",
        errors="backslashreplace",
    )
    return path


def shown(image: Image.Image) -> Image.Image:
    """Return a copy that fits on the page; small images are enlarged as the pixels they are."""
    scale = SHOWN / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if scale >= 1:
        return image.resize(size, Image.Resampling.NEAREST)
    reduced = image.reduce(max(1, int(1 / scale / 2)))
    return reduced.resize(size, Image.Resampling.LANCZOS)


def photo(image: Image.Image) -> str:
    """Return an image as a JPEG data address, a tenth of the bytes of a PNG."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def game(
    own: Mapping[str, Sequence[float]],
    random: Mapping[str, Sequence[Sequence[float]]],
    unit: str,
) -> str:
    """Draw deletion and insertion curves of a map, and those of random maps, as SVG.

    Args:
        own: The curves of the map by "deletion" and "insertion".
        random: The same of each random map.
        unit: What is answered, such as "probability".
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 2.3), layout="constrained")
        panels = figure.subplots(1, 2, sharey=True)
        for axes, name in zip(panels, ("deletion", "insertion"), strict=True):
            for number, curve in enumerate(random[name]):
                x = np.linspace(0, 1, len(curve))
                axes.plot(x, curve, color=PALE, lw=1, label="random" if not number else None)
            x = np.linspace(0, 1, len(own[name]))
            axes.plot(x, own[name], color=BLUE, lw=1.8, label="map")
            axes.set_xlabel(f"patches {'removed' if name == 'deletion' else 'shown'}")
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        panels[0].set_ylabel(unit)
        panels[1].legend(frameon=False)
        return as_svg(figure, "Deletion and insertion curves of the map and of random maps")


def filter_sheet(components: Float[Tensor, "k c p p"], *, side: int = 64) -> Image.Image:
    """Draw filters as small pictures, 7 a row, each stretched to its own range; 0 is grey."""
    peaks = components.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
    tiles = ((components / peaks + 1) * 127.5).round().to(torch.uint8)
    if tiles.shape[1] != 3:
        tiles = tiles[:, :1].expand(-1, 3, -1, -1)
    rows = -(-len(tiles) // 7)
    page = Image.new("RGB", (7 * (side + 4) - 4, rows * (side + 4) - 4), "white")
    for number, tile in enumerate(tiles):
        small = Image.fromarray(tile.permute(1, 2, 0).numpy().copy())
        row, column = divmod(number, 7)
        large = small.resize((side, side), Image.Resampling.NEAREST)
        page.paste(large, (column * (side + 4), row * (side + 4)))
    return page


def similarity_sheet(
    values: Float[Tensor, "n n"], grid: tuple[int, int], *, side: int = 720
) -> Image.Image:
    """Draw for every patch how alike all others are, one picture a patch, in their places."""
    low, high = float(values.min()), float(values.max())
    scaled = (values - low) / max(high - low, 1e-12)
    rows, columns = grid
    cell = max(1, side // (max(grid) * (max(grid) + 1)))
    painted = mpl.colormaps["viridis"](scaled.reshape(rows, columns, rows, columns).numpy())
    height, width = rows * cell, columns * cell
    page = np.full((rows * (height + cell) - cell, columns * (width + cell) - cell, 3), 255)
    for row in range(rows):
        for column in range(columns):
            tile = painted[row, column, :, :, :3].repeat(cell, 0).repeat(cell, 1) * 255
            y, x = row * (height + cell), column * (width + cell)
            page[y : y + height, x : x + width] = tile
    return Image.fromarray(page.astype(np.uint8))


def distance_figure(values: Float[Tensor, "depth heads"], width: int) -> str:
    """Draw attention distance over depth, a point a head, as SVG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(6, 3.6), layout="constrained")
        axes = figure.subplots()
        for head in range(values.shape[1]):
            axes.plot(range(len(values)), values[:, head].numpy(), "o", ms=4, alpha=0.8)
        axes.plot(range(len(values)), values.mean(dim=1).numpy(), color=INK, lw=1, label="mean")
        axes.set(xlabel="block", ylabel="mean attention distance (pixels)", ylim=(0, None))
        axes.set_title(f"images {width} pixels wide", size=10, color=INK)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False)
        return as_svg(figure, "Mean attention distance by block and head")


def norm_figure(
    quantiles: Float[Tensor, "depth 5"],
    specials: dict[str, list[float]],
    last: Float[Tensor, " n"],
    limit: float,
) -> str:
    """Draw token norms over depth, and how those of the last block are spread, as SVG."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        x, q = np.arange(len(quantiles)), quantiles.numpy()
        marker = "o" if len(x) == 1 else None
        left.fill_between(x, q[:, 0], q[:, 4], color=GRID, label="patches, all")
        left.fill_between(x, q[:, 1], q[:, 3], color=SKY, label="middle half")
        left.plot(x, q[:, 2], color=BLUE, label="median", marker=marker)
        names = {"cls": "class token", "dist": "distillation token", "registers": "registers"}
        for style, (kind, values) in zip((":", "-.", "--"), specials.items(), strict=False):
            left.plot(x, values, color=RED, ls=style, label=names[kind])
        left.set(xlabel="block", ylabel="norm of a token", yscale="log")
        left.xaxis.set_major_locator(MaxNLocator(integer=True))
        left.legend(frameon=False, fontsize=8)
        right.hist(last.numpy(), bins=50, color=BLUE, log=True)
        right.axvline(limit, color=RED, ls=":", label="outliers are beyond (median image)")
        right.set(xlabel="norm after the last block", ylabel="patch tokens")
        right.legend(frameon=False, fontsize=8)
        for axes in (left, right):  # powers of ten without markup
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        return as_svg(figure, "Norms of tokens by block")
