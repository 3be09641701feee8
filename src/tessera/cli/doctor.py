"""Say what is wrong with a data set."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tyro.conf import Positional

from tessera.cli.parse import Command

SHOWN = 5


@dataclass(kw_only=True)
class Arguments(Command):
    """Look at every image of a data set, and say what is wrong with it, file by file.

    It finds damaged and odd files, leaks between splits, duplicates and contradicting labels; with
    weights also labels that are probably wrong.
    """

    verb: ClassVar[str] = "doctor"

    data: Positional[str]
    """As for train: a folder of class folders, a table, parquet, tar shards, ..."""
    weights: str | None = None
    """A MODEL whose features are used to find labels that are probably wrong."""
    recipe: str | None = None
    """Of which a training batch is shown; the one that train would take if left out."""
    out: Path | None = None
    """Folder for report.html, findings.csv and exclude.csv; runs/doctor-<name> if left out."""
    near: bool = True
    """Whether to look for images that are alike, and not only for the same file."""
    device: str = "auto"
    """For the weights: auto takes cuda, else mps, else cpu."""
    offline: bool = False
    """Never fetch published weights; take them from the cache or not at all."""

    def run(self) -> int:
        """Look, print what was found, and write it down."""
        from rich.console import Console

        from tessera.checkup import doctor
        from tessera.data.images import printable
        from tessera.report.doctor import remedy

        found = doctor(
            self.data,
            weights=self.weights,
            recipe=self.recipe,
            out=self.out,
            near=self.near,
            device=self.device,
            offline=self.offline,
            console=Console(stderr=True),
        )
        diagnosis = found.diagnosis
        for kind, count in diagnosis.counts().items():
            rows = [row for row in diagnosis.rows if row.kind == kind]
            print(f"{rows[0].severity:<8} {kind} ({count:,})")
            for row in rows[:SHOWN]:
                where = f"{row.image}: " if row.image else ""
                print(f"         {printable(where + row.detail)}")
            if count > SHOWN:
                print(f"         and {count - SHOWN:,} more")
        if not diagnosis.rows:
            print(f"nothing is wrong with the {diagnosis.images:,} images")
        print(f"report   {found.report}")
        if any(row.exclude for row in diagnosis.rows):
            print(f"without  {remedy(diagnosis, found.report.parent)}")
        return 0
