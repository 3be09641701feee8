"""What a model has learnt, apart from any class: the paper's Figure 7 for any model."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from tessera.explain.distance import distances
from tessera.explain.filters import principal_filters
from tessera.explain.norms import OUTLIER, token_norms
from tessera.explain.positions import position_similarity
from tessera.models.vit import ViT
from tessera.report.explained import (
    distance_figure,
    filter_sheet,
    norm_figure,
    similarity_sheet,
    write_page,
)
from tessera.report.figures import png
from tessera.report.maps import NUMBERS, PAGE


@dataclass
class Section:
    """One thing to see, or why there is nothing to see."""

    title: str
    note: str = ""
    """Why it is not shown."""
    image: Image.Image | None = None
    figure: str = ""
    """SVG."""
    text: str = ""
    numbers: dict[str, Any] = field(default_factory=dict)
    """What JSON keeps."""
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    """What the .npz keeps."""

    @property
    def picture(self) -> str:
        """Return the image as a data address."""
        return "" if self.image is None else png(self.image)


Images = Sequence[Float[Tensor, "1 c h w"]]


def look_inside(model: ViT, images: Images) -> dict[str, Section]:
    """Return every section by the name that files and JSON use; a model may lack some.

    Args:
        images: Prepared images, for what is measured on images; may be none.
    """
    found = {}
    for name, (title, make) in SECTIONS.items():
        section = Section(title)
        try:
            make(model, images, section)
        except ValueError as error:
            section.note = str(error)
        found[name] = section
    return found


def write_inside(
    folder: Path, sections: dict[str, Section], *, title: str, facts: dict[str, Any]
) -> Path:
    """Write pictures, numbers, arrays and the page."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {name: {"note": s.note, **s.numbers} for name, s in sections.items()}
    text = json.dumps({**facts, **numbers}, indent=2)
    (folder / NUMBERS).write_text(text + "\n", encoding="utf-8")
    for name, section in sections.items():
        if section.image is not None:
            section.image.save(folder / f"{name}.png")
    arrays: dict[str, Any] = {}
    for section in sections.values():
        arrays |= section.arrays
    np.savez_compressed(folder / "model.npz", **arrays)
    parts = {"title": title, "sections": list(sections.values())}
    return write_page(folder / PAGE, "inside.html.j2", **parts, **facts)


def _filters(model: ViT, images: Images, section: Section) -> None:
    parts = principal_filters(model)
    section.image = filter_sheet(parts.components)
    share = float(parts.shares.sum())
    section.text = (
        f"The first {len(parts.shares)} principal components of the filters of {parts.layer}, each "
        f"stretched to its own range; together {share:.1%} of the filters' variance."
    )
    section.numbers = {"layer": parts.layer, "variance_shares": parts.shares.tolist()}
    section.arrays = {"filters": parts.components.numpy()}


def _positions(model: ViT, images: Images, section: Section) -> None:
    found = position_similarity(model)
    section.image = similarity_sheet(found.values, found.grid)
    low, high = float(found.values.min()), float(found.values.max())
    section.text = (
        f"For each patch, in its place, all patches: {found.meaning}; dark is {low:.2f}, "
        f"bright {high:.2f}. The grid is {found.grid[0]} rows by {found.grid[1]} columns."
    )
    section.numbers = {"meaning": found.meaning, "grid": found.grid, "low": low, "high": high}
    section.arrays = {"position_similarity": found.values.numpy()}


def _distance(model: ViT, images: Images, section: Section) -> None:
    values = distances(model, images)
    section.figure = distance_figure(values, images[0].shape[-1])
    section.text = (
        f"A point a head: the mean distance in pixels between a patch and what it looks at, "
        f"weighted by attention, over {len(images)} images. Small is local, as a convolution is."
    )
    section.numbers = {"pixels_by_block_and_head": values.tolist(), "images": len(images)}
    section.arrays = {"attention_distance": values.numpy()}


def _norms(model: ViT, images: Images, section: Section) -> None:
    found = token_norms(model, images)
    limit = OUTLIER * float(found.last.median())
    section.figure = norm_figure(found.quantiles, found.specials, found.last, limit)
    section.text = (
        f"{found.outliers:.2%} of the patch tokens of {found.images} images have a norm of "
        f"more than {OUTLIER:g} times the median of their image after the last block. Such tokens "
        "stand for no place, and maps of attention show them as spots on the background."
    )
    section.numbers = found.as_dict()
    section.arrays = {"token_norms": found.last.numpy()}


SECTIONS: dict[str, tuple[str, Callable[[ViT, Images, Section], None]]] = {
    "filters": ("What the first layer looks for", _filters),
    "positions": ("How alike positions are", _positions),
    "distance": ("How far attention looks", _distance),
    "norms": ("Norms of tokens", _norms),
}
