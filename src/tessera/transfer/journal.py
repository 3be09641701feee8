"""What a suite has finished, kept on disk after every piece of work."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tessera.checkpoint.artifact import LoadedModel, write_atomically
from tessera.transfer.draws import TaskData
from tessera.transfer.suite import Suite

JOURNAL = "journal.json"


class Journal:
    """Finished pieces of work by name, in a folder.

    Args:
        identity: What the work is about; see ``identity_of``.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]) -> None:
        self.path = folder / JOURNAL
        self.identity = identity
        self.done: dict[str, Any] = {}

    def restore(self) -> None:
        """Take up what an earlier sitting finished.

        Raises:
            ValueError: Nothing is there, or it is about another model, suite or data.
        """
        if not self.path.is_file():
            raise ValueError(
                f"{self.path.parent} holds no suite that could be resumed\n"
                "hint: start one without --resume"
            )
        saved = json.loads(self.path.read_text(encoding="utf-8"))
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

    def save(self) -> None:
        """Write everything down."""
        text = json.dumps({"identity": self.identity, "done": self.done}, indent=1) + "\n"
        write_atomically(self.path, lambda part: part.write_text(text, encoding="utf-8"))


def identity_of(suite: Suite, data: list[TaskData], model: LoadedModel) -> dict[str, Any]:
    """Return what must be the same when a suite is taken up again."""
    return {
        "suite": asdict(suite),
        "model": model_fingerprint(model),
        "data": {part.task.name: part.fingerprint for part in data},
    }


def model_fingerprint(loaded: LoadedModel) -> str:
    """Return a hash of the weights and of the preprocessing, whatever file they come from."""
    digest = hashlib.sha256(json.dumps(loaded.header.preprocessing.as_dict()).encode())
    for name, tensor in sorted(loaded.model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
