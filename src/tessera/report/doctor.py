"""The doctor's page: what was found, with pictures of it."""

import shlex
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from PIL import Image

from tessera.data.doctor import ALL_KINDS, Diagnosis, Row
from tessera.data.images import ImageError, decoding, printable, quiet, to_channels, upright
from tessera.report.augmented import contact_sheet
from tessera.report.figures import png, thumbnail

SHOWN = 24
"""Rows of a kind that the page has; the CSV has all."""

CLASSES = 60
"""Classes of which the page gives the counts."""


def write_diagnosis(
    folder: Path,
    diagnosis: Diagnosis,
    *,
    environment: dict[str, Any],
    batch: Sequence[Image.Image] = (),
    recipe: str = "",
) -> Path:
    """Write ``report.html``, ``findings.csv`` and ``exclude.csv``, and return the page.

    Args:
        batch: Training images after augmentation.
        recipe: What they were augmented by.
    """
    diagnosis.write(folder)
    loader = jinja2.FunctionLoader(
        lambda name: (files("tessera.report") / name).read_text(encoding="utf-8")
    )
    engine = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    engine.filters["printable"] = printable
    data = diagnosis.data
    columns = [part.class_counts().tolist() for part in data.splits.values()]
    classes = list(zip(data.class_names, zip(*columns, strict=True), strict=False))
    text = engine.get_template("doctor.html.j2").render(
        title=f"What the doctor found in {data.spec}",
        remedy=remedy(diagnosis, folder),
        images=diagnosis.images,
        counts=diagnosis.counts(),
        kinds=ALL_KINDS,
        excluded=len({row.places[0] for row in diagnosis.rows if row.exclude}),
        task=data.task,
        splits={name: len(part) for name, part in data.splits.items()},
        classes=classes[:CLASSES],
        more_classes=max(0, len(classes) - CLASSES),
        most=max(1, max(columns[0])),
        sheet=png(contact_sheet(batch)) if batch else "",
        recipe=recipe,
        sections=[_section(diagnosis, kind) for kind in diagnosis.counts()],
        environment=environment,
    )
    page = folder / "report.html"
    page.write_text(text, encoding="utf-8", errors="backslashreplace")
    return page


def remedy(diagnosis: Diagnosis, folder: Path) -> str:
    """Return the command that trains without what had better be left out."""
    words = ("tessera", "train", diagnosis.data.spec, "--exclude", str(folder / "exclude.csv"))
    return shlex.join(words)


def _section(diagnosis: Diagnosis, kind: str) -> dict[str, Any]:
    """Everything that the page says of one kind of finding."""
    rows = [row for row in diagnosis.rows if row.kind == kind]
    shown = [
        {
            "image": row.image,
            "label": row.label,
            "detail": row.detail,
            "pictures": _pictures(diagnosis, row),
        }
        for row in rows[:SHOWN]
    ]
    severity, meaning = ALL_KINDS[kind]
    return {
        "kind": kind,
        "severity": severity,
        "meaning": meaning,
        "rows": shown,
        "more": len(rows) - len(shown),
        "pictured": any(row["pictures"] for row in shown),
    }


def _pictures(diagnosis: Diagnosis, row: Row) -> list[str]:
    """The image, and the one that it is like; nothing where they cannot be read."""
    found = []
    side = 72 if row.other else 112
    for split, index in row.places:
        part = diagnosis.data.splits[split]
        try:
            with quiet(), decoding(part.where(index)), part.open(index) as image:
                image.draft(image.mode, (2 * side, 2 * side))  # JPEGs are decoded smaller
                whole = to_channels(upright(image), 3)
                factor = max(whole.size) // (4 * side)
                found.append(thumbnail(whole.reduce(factor) if factor > 1 else whole, side))
        except ImageError:
            continue
    return found
