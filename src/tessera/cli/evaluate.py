"""Measure a model on labelled images."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tyro.conf import Positional

from tessera.cli.parse import Command

if TYPE_CHECKING:
    from tessera.evaluation.base import Score


@dataclass(kw_only=True)
class Arguments(Command):
    """Measure a model on a split of labelled images; classes are matched by name."""

    verb: ClassVar[str] = "evaluate"

    model: Positional[str]
    """A run folder, a checkpoint file or folder, or <model>.<tag> of published weights."""
    data: Positional[str]
    """As for train: a folder of class folders, a table, parquet, tar shards, `digits`."""
    split: str = "test"
    """train, val or test."""
    out: Path | None = None
    """Folder for report.html, report.json and tables of answers; it must be new or empty."""
    predictions: Literal["csv", "parquet"] = "csv"
    """Kind of the table with the answer to every image, which --out writes."""
    format: Literal["table", "json"] = "table"
    """A summary for people, or every number for programs."""
    batch_size: int = 256
    """Images per forward pass."""
    bad_share: float = 0.05
    """Share of images that may be unreadable; they are left out and named; more is an error."""
    device: str = "auto"
    """auto takes cuda, else mps, else cpu."""
    offline: bool = False
    """Never fetch published weights; take them from the cache or not at all."""

    def run(self) -> int:
        """Measure."""
        from tessera.measuring import evaluate

        found = evaluate(
            self.model,
            self.data,
            split=self.split,
            out=self.out,
            predictions=self.predictions,
            device=self.device,
            batch_size=self.batch_size,
            bad_share=self.bad_share,
            offline=self.offline,
        )
        numbers = found.as_dict()
        if self.format == "json":
            print(json.dumps(numbers, indent=2))
        else:
            for line in _lines(found.result.score, numbers, self.split):
                print(line)
            print(f"speed      {numbers['images_per_second']:,.0f} images/s")
        for message in found.result.unreadable:
            print(f"left out: {message}", file=sys.stderr)
        if found.report is not None and self.format == "table":
            print(f"report     {found.report}")
        return 0


def _lines(score: "Score", numbers: dict[str, Any], split: str) -> Iterator[str]:
    """Write what was measured for people."""
    value, low, high = (score.text(number) for number in score.interval)
    yield f"images     {numbers['images']:,} of the {split} split"
    yield f"{score.name:<10} {value}  (95 % interval {low} to {high})"
    if numbers.get("top5_accuracy"):
        value, low, high = (f"{share:.2%}" for share in numbers["top5_accuracy"].values())
        yield f"top-5      {value}  (95 % interval {low} to {high})"
    if numbers.get("macro_f1"):
        value, low, high = (f"{share:.4f}" for share in numbers["macro_f1"].values())
        yield f"macro-F1   {value}  (95 % interval {low} to {high})"
    if numbers.get("r2") is not None:
        yield f"R2         {numbers['r2']:.4f}"
    if "calibration" in numbers:
        before, after = (numbers["calibration"][key] for key in ("before", "after"))
        if after is None:
            yield f"ECE        {before['ece']:.2%}  (no temperature was fitted)"
        else:
            without = f"{before['ece']:.2%} without the temperature"
            yield f"ECE        {after['ece']:.2%}  ({without})"
    yield f"loss       {numbers['loss']:.4f}"
