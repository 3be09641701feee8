"""What tells a model from any other."""

import hashlib
import json
from dataclasses import asdict

from tessera.checkpoint.artifact import LoadedModel


def model_fingerprint(loaded: LoadedModel) -> str:
    """Return a hash of all that logits depend on, whatever file it comes from.

    Weights, preprocessing and the architecture, but for its rates of dropout.
    """
    config = asdict(loaded.header.config)
    told = {
        "config": {name: value for name, value in config.items() if "drop" not in name},
        "preprocessing": loaded.header.preprocessing.as_dict(),
    }
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
    for name, tensor in sorted(loaded.model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
