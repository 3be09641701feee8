"""What a long piece of work has finished, kept on disk after every part of it."""

import json
from pathlib import Path
from typing import Any

from tessera.checkpoint.artifact import write_atomically

JOURNAL = "journal.json"


class Journal:
    """Finished pieces of work by name, in a folder.

    Args:
        identity: What the work is about: all that must be the same when it is taken up again.
        extent: How much of it is wanted, which may be another then.
    """

    def __init__(
        self, folder: Path, identity: dict[str, Any], extent: dict[str, Any] | None = None
    ) -> None:
        self.path = folder / JOURNAL
        self.identity, self.extent = identity, extent or {}
        self.done: dict[str, Any] = {}

    def restore(self) -> None:
        """Take up what an earlier sitting finished.

        Raises:
            ValueError: Nothing is there, or it is about something else.
        """
        if not self.path.is_file():
            raise ValueError(
                f"{self.path.parent} holds nothing that could be resumed\n"
                "hint: start one without --resume"
            )
        saved = _read(self.path)
        now = json.loads(json.dumps(self.identity))
        other = [key for key in now if saved["identity"].get(key) != now[key]]
        if other:
            raise ValueError(
                f"{self.path.parent} was started with another {', '.join(other)}\n"
                "hint: give what it began with, or another folder with --out"
            )
        self.done = saved["done"]

    def record(self, key: str, value: Any) -> None:
        """Keep the result of a piece of work."""
        self.done[key] = value
        self.save()

    @staticmethod
    def wanted(folder: Path) -> dict[str, Any]:
        """Return the extent of the work in a folder; empty where there is none."""
        path = folder / JOURNAL
        return dict(_read(path)["extent"]) if path.is_file() else {}

    def save(self) -> None:
        """Write everything down."""
        found = {"identity": self.identity, "extent": self.extent, "done": self.done}
        text = json.dumps(found, indent=1) + "\n"
        write_atomically(self.path, lambda part: part.write_text(text, encoding="utf-8"))


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found
