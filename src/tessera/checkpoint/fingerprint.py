"""What tells a model from any other."""

import hashlib
import json

from tessera.checkpoint.artifact import LoadedModel


def model_fingerprint(loaded: LoadedModel) -> str:
    """Return a hash of the weights and of the preprocessing, whatever file they come from."""
    digest = hashlib.sha256(json.dumps(loaded.header.preprocessing.as_dict()).encode())
    for name, tensor in sorted(loaded.model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
