"""What tells a model from any other."""

import hashlib
import json
from dataclasses import asdict

from tessera.checkpoint.artifact import LoadedModel


def model_fingerprint(loaded: LoadedModel) -> str:
    """Return a hash of all that answers depend on, whatever file it comes from.

    Weights, architecture, preprocessing, and what is made of logits: classes and temperature.
    """
    header = loaded.header
    told = {
        "config": asdict(header.config),
        "preprocessing": header.preprocessing.as_dict(),
        "classes": list(header.class_names),
        "temperature": header.temperature,
    }
    digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    for name, tensor in sorted(loaded.model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
