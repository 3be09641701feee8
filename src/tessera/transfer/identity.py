"""What a suite is about: the model, the suite itself, the data."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

from tessera.checkpoint.artifact import LoadedModel
from tessera.transfer.draws import TaskData
from tessera.transfer.suite import Suite


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
