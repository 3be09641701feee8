"""What ``tessera predict`` does: images in, rows out."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from tessera.cli.predict import Arguments
from tessera.data.images import ImageError
from tessera.data.inputs import find_images
from tessera.devices import pick_device
from tessera.predict import Prediction, Predictor, Source, load
from tessera.progress import counting
from tessera.report.tables import require_pyarrow, write_parquet


class Row(NamedTuple):
    """An image and what the model says of it."""

    image: str
    answer: Prediction


def predict(args: Arguments) -> int:
    """Predict; return 1 when some image could not be read."""
    if args.out is not None and args.out.exists():
        raise ValueError(f"{args.out} exists, and nothing is overwritten\nhint: name another file")
    if args.top_k < 1:
        raise ValueError(f"--top-k {args.top_k} must be at least 1")
    if args.limit is not None and args.limit < 1:
        raise ValueError(f"--limit {args.limit} must be at least 1")
    if args.out is not None and not args.out.parent.is_dir():
        raise ValueError(f"{args.out.parent} is no folder\nhint: make it first")
    if not args.inputs:
        raise ValueError("no images given\nhint: give files, folders, or digits:test")
    if args.format == "parquet":
        if args.out is None:
            raise ValueError("parquet is not for a terminal\nhint: name a file with --out")
        require_pyarrow()
    predictor = load(args.model, device=pick_device(args.device), offline=args.offline)
    sources = find_images(args.inputs)[: args.limit]
    errors: list[ImageError] = []
    rows = list(_answers(predictor, sources, args.top_k, errors))
    if args.format == "parquet" and args.out is not None:
        write_parquet(args.out, as_columns(rows))
    else:
        text = WRITERS[args.format](rows) if rows or not errors else ""
        if args.out is not None:
            # File names on Linux may be no UTF-8, and Python then holds them as lone surrogates.
            args.out.write_text(text, encoding="utf-8", errors="backslashreplace")
        else:
            sys.stdout.write(text)
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return 1 if errors else 0


def _answers(
    predictor: Predictor,
    sources: list[tuple[str, Source]],
    top_k: int,
    errors: list[ImageError],
) -> Iterator[Row]:
    """Answer in batches; a batch with a bad image is answered one by one."""
    size = predictor.batch_size
    console = Console(stderr=True)
    with counting(console, "predicting", len(sources)) as counter:
        for start in range(0, len(sources), size):
            batch = sources[start : start + size]
            try:
                answers = predictor.predict([source for _, source in batch], top_k=top_k)
                yield from (Row(name, a) for (name, _), a in zip(batch, answers, strict=True))
            except ImageError:
                for name, source in batch:
                    try:
                        yield Row(name, predictor.predict([source], top_k=top_k)[0])
                    except ImageError as error:
                        errors.append(error)
            counter.advance(len(batch))


def as_table(rows: list[Row]) -> str:
    """Write for people, most likely class first."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("image", overflow="fold")
    if any(row.answer.value is not None for row in rows):
        table.add_column("value", justify="right")
    for k in range(max((len(row.answer.labels) for row in rows), default=0)):
        table.add_column(f"{k + 1}.", overflow="fold")
    for name, answer in rows:
        value = [] if answer.value is None else [f"{answer.value:.4g}"]
        pairs = zip(answer.labels, answer.probabilities, strict=True)
        table.add_row(name, *value, *(f"{label} {p:.1%}" for label, p in pairs))
    stream = io.StringIO()
    width = None if sys.stdout.isatty() else 10_000  # a pipe has no edge to fold at
    console = Console(file=stream, width=width, highlight=False, markup=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def as_csv(rows: list[Row]) -> str:
    """Write columns image, label_1, probability_1, label_2, ...; or image, value."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    width = max((len(row.answer.labels) for row in rows), default=0)
    pairs = [f"{what}_{k}" for k in range(1, width + 1) for what in ("label", "probability")]
    numbers = any(row.answer.value is not None for row in rows)
    writer.writerow(["image", *(["value"] if numbers else []), *pairs])
    for name, answer in rows:
        values: list[Any] = [name] if answer.value is None else [name, f"{answer.value:.6g}"]
        for label, probability in zip(answer.labels, answer.probabilities, strict=True):
            values += [label, f"{probability:.6f}"]
        writer.writerow(values)
    return stream.getvalue()


def as_columns(rows: list[Row]) -> dict[str, list[Any]]:
    """Return the columns of ``as_csv``."""
    columns: dict[str, list[Any]] = {"image": [row.image for row in rows]}
    if any(row.answer.value is not None for row in rows):
        columns["value"] = [row.answer.value for row in rows]
    for k in range(max((len(row.answer.labels) for row in rows), default=0)):
        columns[f"label_{k + 1}"] = [row.answer.labels[k] for row in rows]
        columns[f"probability_{k + 1}"] = [row.answer.probabilities[k] for row in rows]
    return columns


def as_jsonl(rows: list[Row]) -> str:
    """Write one JSON object an image."""
    found = [{k: v for k, v in row.answer._asdict().items() if v is not None} for row in rows]
    pairs = zip(rows, found, strict=True)
    return "".join(json.dumps({"image": row.image, **answer}) + "\n" for row, answer in pairs)


WRITERS = {"table": as_table, "csv": as_csv, "jsonl": as_jsonl}
