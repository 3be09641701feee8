"""Say what is in a model file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from tyro.conf import Positional

from tessera.cli.parse import Command


@dataclass(kw_only=True)
class Arguments(Command):
    """Say what is in a model file: architecture, preprocessing, classes, origin."""

    verb: ClassVar[str] = "inspect"

    model: Positional[str]
    """A run folder, a checkpoint file or folder, or <model>.<tag> of published weights."""
    format: Literal["table", "json"] = "table"
    """A summary for people, or the whole header for programs."""
    offline: bool = False
    """Never fetch published weights; take them from the cache or not at all."""

    def run(self) -> int:
        """Check the file against its header, and print that."""
        from tessera.checkpoint.load import load_model

        loaded = load_model(self.model, offline=self.offline)
        header = loaded.header
        facts: dict[str, Any] = {
            "file": str(loaded.path),
            "bytes": _size(loaded.path),
            "parameters": sum(p.numel() for p in loaded.model.parameters()),
            "config": asdict(header.config),
            "preprocessing": header.preprocessing.as_dict(),
            "task": header.task,
            "class_names": list(header.class_names),
            "calibration": None if header.calibration is None else asdict(header.calibration),
            "card": header.card,
        }
        if self.format == "json":
            print(json.dumps(facts, indent=2))
            return 0
        print(f"file            {facts['file']}  ({facts['bytes'] / 1e6:.2f} MB)")
        print(f"parameters      {facts['parameters']:,}")
        for title in ("config", "preprocessing"):
            print(f"\n{title}")
            for name, value in facts[title].items():
                print(f"  {name:<20}{value}")
        kind = {"classify": "classes", "multilabel": "labels", "regress": "number"}[header.task]
        print(f"\n{kind:<16}{len(header.class_names)}: {_short(header.class_names)}")
        if header.calibration is not None:
            print("\ncalibration")
            for name, value in facts["calibration"].items():
                print(f"  {name:<20}{value}")
        print("\ncard")
        for name, value in header.card.items():
            if name != "recipe":
                print(f"  {name:<20}{value}")
        return 0


def _size(path: Path) -> int:
    files = [path] if path.is_file() else [p for p in path.iterdir() if p.is_file()]
    return sum(file.stat().st_size for file in files)


def _short(names: tuple[str, ...], most: int = 20) -> str:
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
