"""What a suite is about: the model, the suite itself, the data."""

from dataclasses import asdict
from typing import Any

from tessera.checkpoint.artifact import LoadedModel
from tessera.checkpoint.fingerprint import model_fingerprint
from tessera.transfer.draws import TaskData
from tessera.transfer.suite import Suite


def identity_of(suite: Suite, data: list[TaskData], model: LoadedModel) -> dict[str, Any]:
    """Return what must be the same when a suite is taken up again."""
    return {
        "suite": asdict(suite),
        "model": model_fingerprint(model),
        "data": {part.task.name: part.fingerprint for part in data},
    }
