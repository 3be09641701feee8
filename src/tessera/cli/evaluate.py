"""Measure a model on labelled images."""

import json
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
    """`digits`, or a folder of class folders, as for train."""
    split: str = "test"
    """train, val or test."""
    out: Path | None = None
    """Folder for report.html and report.json; it must be new or empty."""
    format: Literal["table", "json"] = "table"
    """A summary for people, or every number for programs."""
    batch_size: int = 256
    """Images per forward pass."""
    device: str = "auto"
    """auto takes cuda, else mps, else cpu."""
    offline: bool = False
    """Never fetch published weights; take them from the cache or not at all."""

    def run(self) -> int:
        """Measure."""
        from tessera.api import evaluate

        found = evaluate(
            self.model,
            self.data,
            split=self.split,
            out=self.out,
            device=self.device,
            batch_size=self.batch_size,
            offline=self.offline,
        )
        numbers = found.as_dict()
        if self.format == "json":
            print(json.dumps(numbers, indent=2))
        else:
            a = numbers["accuracy"]
            print(f"images     {numbers['images']:,} of the {self.split} split")
            print(f"accuracy   {a['value']:.2%}  (95 % interval {a['low']:.2%} to {a['high']:.2%})")
            if numbers["top5_accuracy"]:
                print(f"top-5      {numbers['top5_accuracy']['value']:.2%}")
            print(f"macro-F1   {numbers['macro_f1']:.4f}")
            print(f"loss       {numbers['loss']:.4f}")
            print(f"speed      {numbers['images_per_second']:,.0f} images/s")
        if found.report is not None and self.format == "table":
            print(f"report     {found.report}")
        return 0
