"""Measure what a model's features are worth."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from tyro.conf import Positional

from tessera.cli.parse import Command


@dataclass(kw_only=True)
class Arguments(Command):
    """Measure what the features of a frozen model are worth on labelled images of any classes.

    Nothing of the model is trained, and its head is not used: a classifier on its features learns
    from the training split and is measured on another.
    """

    verb: ClassVar[str] = "probe"

    model: Positional[str]
    """A run folder, a checkpoint file or folder, or <model>.<tag> of published weights."""
    data: Positional[str]
    """As for train: a folder of class folders, a table, parquet, tar shards, `digits`."""
    method: tuple[Literal["few-shot", "knn", "linear"], ...] = ("few-shot", "knn", "linear")
    """few-shot is ridge regression on few images a class, in closed form; knn a weighted vote of
    the nearest images; linear is logistic regression on all of them."""
    split: str = "test"
    """What is measured: test or val."""
    shots: tuple[int, ...] | None = None
    """Training images a class; those of 1, 5, 10 and 25 that every class has, if left out."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of the few-shot draws."""
    penalty: tuple[float, ...] = (1024.0,)
    """Lambda of the ridge regression; of several, all are shown."""
    k: int = 20
    """Neighbours that vote."""
    temperature: float = 0.07
    """Of the votes: exp(similarity / temperature)."""
    preprocessing: Literal["model", "published"] = "model"
    """The model's own, or that of the paper's few-shot figures: short side 256, crop 224, pixels
    to [-1, 1]."""
    out: Path | None = None
    """File for every number as JSON; it must be new."""
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
        """Measure, and print what was found."""
        from rich.console import Console

        from tessera.probing import ProbeSettings, probe

        if self.out is not None and self.out.exists():
            raise ValueError(f"{self.out} is there already, and nothing is overwritten")
        settings = ProbeSettings(
            methods=self.method,
            shots=self.shots,
            seeds=self.seeds,
            penalties=self.penalty,
            k=self.k,
            temperature=self.temperature,
            preprocessing=self.preprocessing,
        )
        found = probe(
            self.model,
            self.data,
            settings,
            split=self.split,
            device=self.device,
            batch_size=self.batch_size,
            bad_share=self.bad_share,
            offline=self.offline,
            console=Console(stderr=True),
        )
        numbers = found.as_dict()
        text = json.dumps(numbers, indent=2)
        if self.out is not None:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self.out.write_text(text + "\n", encoding="utf-8")
        print(text if self.format == "json" else _table(numbers, self.split))
        return 0


def _table(numbers: dict[str, Any], split: str) -> str:
    counts = numbers["images"]
    lines = [
        f"features   {counts['train']:,} train, {counts[split]:,} {split} images "
        f"in {numbers['seconds']:.1f} s"
    ]
    for score in numbers["scores"]:
        value, low, high = (f"{score['accuracy'][key]:.2%}" for key in ("value", "low", "high"))
        each = ", ".join(f"{number:.2%}" for number in score["seeds"].values())
        draws = f"; seeds {each}" if each else ""
        how = ", ".join(f"{name} {setting:g}" for name, setting in score["settings"].items())
        lines.append(
            f"{score['method']:<10} {value:>7}  (95 % interval {low} to {high}; {how}{draws})"
        )
    return "\n".join(lines + [f"left out: {message}" for message in numbers["unreadable"]])
