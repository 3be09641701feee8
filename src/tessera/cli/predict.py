"""Label images with a trained model."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from tyro.conf import Positional

from tessera.cli.parse import Command


@dataclass(kw_only=True)
class Arguments(Command):
    """Label images with a trained model; an image that cannot be read is named and left out."""

    verb: ClassVar[str] = "predict"

    model: Positional[str]
    """A run folder, a checkpoint file or folder, or <model>.<tag> of published weights."""
    inputs: Positional[tuple[str, ...]]
    """Image files, folders of them, or images of a data set, such as digits:test."""
    top_k: int = 5
    """How many classes to name for each image."""
    format: Literal["table", "csv", "jsonl", "parquet"] = "table"
    """A table for people, or one row an image for programs; parquet needs --out."""
    out: Path | None = None
    """File to write instead of the terminal; it must not exist."""
    limit: int | None = None
    """Stop after so many images."""
    device: str = "auto"
    """auto takes cuda, else mps, else cpu."""
    offline: bool = False
    """Never fetch published weights; take them from the cache or not at all."""

    def run(self) -> int:
        """Predict; the status is 1 when some image could not be read."""
        from tessera.cli.answers import predict

        return predict(self)
