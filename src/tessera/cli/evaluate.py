"""Measure a model on labelled images."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from tyro.conf import Positional

from tessera.cli.parse import Command


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
    """Folder for report.html and report.json; it must be new or empty."""
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
            device=self.device,
            batch_size=self.batch_size,
            bad_share=self.bad_share,
            offline=self.offline,
        )
        numbers = found.as_dict()
        if self.format == "json":
            print(json.dumps(numbers, indent=2))
        else:
            score = found.result.score
            value, low, high = (score.text(number) for number in score.interval)
            print(f"images     {numbers['images']:,} of the {self.split} split")
            print(f"{score.name:<10} {value}  (95 % interval {low} to {high})")
            if numbers.get("top5_accuracy"):
                print(f"top-5      {numbers['top5_accuracy']['value']:.2%}")
            for key, name in (("macro_f1", "macro-F1"), ("r2", "R2")):
                if numbers.get(key) is not None:
                    print(f"{name:<10} {numbers[key]:.4f}")
            print(f"loss       {numbers['loss']:.4f}")
            print(f"speed      {numbers['images_per_second']:,.0f} images/s")
        for message in found.result.unreadable:
            print(f"left out: {message}", file=sys.stderr)
        if found.report is not None and self.format == "table":
            print(f"report     {found.report}")
        return 0
