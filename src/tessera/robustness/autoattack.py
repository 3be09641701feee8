"""AutoAttack, from the library pyautoattack where it is installed (Croce and Hein, 2020)."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tessera.errors import RunError

BATCH = 64
"""Images that are attacked together; fixed, because the library's random numbers depend on it."""

TARGETS = 9
"""Classes that its targeted attacks aim at, where there are as many others."""


def attacks_for(classes: int) -> tuple[str, ...]:
    """Return the names of AutoAttack's attacks that a number of classes allows.

    The standard four; below four classes the targeted loss (DLR) is not defined, and the untargeted
    FAB stands in for it.
    """
    if classes >= 4:
        return "apgd-ce", "apgd-t", "fab-t", "square"
    return "apgd-ce", "fab", "square"


def require_autoattack() -> Any:
    """Return the library.

    Raises:
        RunError: It is not installed.
    """
    try:
        import pyautoattack
    except ImportError as error:
        raise RunError(
            "AutoAttack needs pyautoattack\nhint: pip install pyautoattack, or leave autoattack "
            "out of --tests"
        ) from error
    return pyautoattack


def autoattack(
    model: nn.Module,
    pixels: Float[Tensor, "n c h w"],
    labels: Int[Tensor, " n"],
    *,
    eps: float,
    classes: int,
    seed: int,
) -> Float[Tensor, "n c h w"]:
    """Return what the ensemble of attacks makes of images, within eps of each pixel (l_inf).

    Args:
        pixels: In [0, 1].
        classes: Outputs of the model.

    Raises:
        RunError: The library is not installed.
    """
    library = require_autoattack()
    device = pixels.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        attack = library.AutoAttack(
            model,
            attacks=list(attacks_for(classes)),
            version="custom",
            norm="Linf",
            eps=eps,
            seed=seed,
            device=device,
        )
        attack.apgd.n_restarts = attack.fab.n_restarts = 1
        targets = min(TARGETS, classes - 1)
        attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
        found = attack.run_standard_evaluation(pixels, labels, batch_size=BATCH)
    changed: Tensor = found[0] if isinstance(found, tuple) else found
    return changed.to(device)
