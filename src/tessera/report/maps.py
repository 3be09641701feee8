"""The files of ``tessera explain``: overlays, raw maps, contact sheet, numbers and page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tessera.data.images import printable, to_channels
from tessera.data.preprocessing import Preprocessing
from tessera.explain.faithfulness import RANDOM_MAPS
from tessera.explain.overlay import colours_of, overlay
from tessera.explain.results import ExplainedImage, ExplainedMap, Explanation
from tessera.report.augmented import contact_sheet
from tessera.report.explained import game, photo, shown, write_page

PAGE = "explain.html"
NUMBERS = "explain.json"
PARTS = ("model", "methods", "unreadable", "finished", "seconds", "environment")
"""What the page says apart from the images."""

PICTURED = 24
"""Images that stand on the page; of more, the others are files beside it."""


def save_maps(
    folder: Path, number: int, image: Image.Image, one: ExplainedImage, prepare: Preprocessing
) -> Image.Image:
    """Write the overlays at the image's own size, and the raw maps; return the first, small.

    Args:
        number: Of the image, which makes the names of its files different from all others.
    """
    stem, first = f"{number:04d}-{_safe(one.name)}", None
    pictured = number < PICTURED
    one.picture = photo(shown(to_channels(image, 3))) if pictured else ""
    for made in one.maps:
        painted = overlay(image, colours_of(torch.from_numpy(made.values)), prepare)
        painted.save(folder / f"{stem}.{made.method}.png")
        one.files.append(f"{stem}.{made.method}.png")
        small = shown(painted)
        first = first or small
        if pictured:
            made.picture, made.curves = photo(small), _curves(made)
    arrays: dict[str, Any] = {made.method: made.values for made in one.maps}
    arrays["seen"] = np.array(one.seen)
    np.savez_compressed(folder / f"{stem}.npz", **arrays)
    one.files.append(f"{stem}.npz")
    assert first is not None
    return first


def write_explanation(
    folder: Path, found: Explanation, title: str, sheet: Sequence[Image.Image]
) -> Path:
    """Write numbers, contact sheet and page."""
    numbers = found.as_dict()
    (folder / NUMBERS).write_text(json.dumps(numbers, indent=2) + "\n", encoding="utf-8")
    many = len(sheet) > 1
    page = contact_sheet(sheet, columns=min(6, len(sheet)), side=150)
    if many:
        page.save(folder / "contact.png")
    return write_page(
        folder / PAGE,
        "explain.html.j2",
        title=title,
        sheet=photo(page) if many else "",
        images=[image for image in found.images if image.picture],
        more=sum(not image.picture for image in found.images),
        unit="value" if found.facts["task"] == "regress" else "probability",
        random_maps=RANDOM_MAPS,
        **{key: numbers[key] for key in PARTS},
    )


def _curves(made: ExplainedMap) -> str:
    if made.faithfulness is None:
        return ""
    own = {
        "deletion": made.faithfulness.deletion_curve,
        "insertion": made.faithfulness.insertion_curve,
    }
    random = {
        "deletion": [other.deletion_curve for other in made.random],
        "insertion": [other.insertion_curve for other in made.random],
    }
    return game(own, random, "probability")


def _safe(name: str) -> str:
    """Return the stem of a name as a file may have it anywhere."""
    stem = Path(printable(name)).stem[:60]
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in stem)
