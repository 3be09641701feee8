"""Measure a model on a suite of data sets."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from tyro.conf import Positional

from tessera.cli.parse import Command


@dataclass(kw_only=True)
class Arguments(Command):
    """Measure how a model does on every data set of a suite, by the protocol of VTAB-1k.

    By default every weight is fine-tuned on 800 images, settings are chosen on 200, and a model
    trained on all 1,000 is measured on the whole test split. A suite may ask for few-shot or linear
    accuracy of the frozen model instead.
    """

    verb: ClassVar[str] = "transfer"

    model: Positional[str]
    """A run folder, a checkpoint file or folder, or <model>.<tag> of published weights."""
    suite: Positional[Path]
    """A TOML file that names data sets and how they are used; see docs/guides/transfer.md."""
    out: Path | None = None
    """Folder for results.html, results.md and results.json; runs/transfer-<suite> if left out."""
    resume: bool = False
    """Go on where the folder was left; finished work is not done again."""
    keep_models: bool = False
    """Keep the final model of every task and seed, when fine-tuning."""
    format: Literal["table", "json"] = "table"
    """A table for people, or every number for programs."""
    batch_size: int = 256
    """Images per forward pass when measuring."""
    device: str = "auto"
    """auto takes cuda, else mps, else cpu."""
    offline: bool = False
    """Never fetch published weights; take them from the cache or not at all."""

    def run(self) -> int:
        """Measure, and print the table."""
        from rich.console import Console

        from tessera.training.faults import StoppedError
        from tessera.transfer.results import markdown
        from tessera.transferring import transfer

        console = Console(stderr=True)
        try:
            found = transfer(
                self.model,
                self.suite,
                out=self.out,
                resume=self.resume,
                keep_models=self.keep_models,
                device=self.device,
                batch_size=self.batch_size,
                offline=self.offline,
                console=console,
            )
        except StoppedError as stopped:
            if stopped.signal_name != "SIGTERM":
                raise
            console.print(str(stopped), highlight=False, markup=False, soft_wrap=True)
            return 0
        if self.format == "json":
            print(json.dumps(found.as_dict(), indent=2))
        else:
            print(markdown(found), end="")
            print(f"\nreport  {found.folder / 'results.html'}")
        return 0
