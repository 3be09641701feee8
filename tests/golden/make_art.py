"""Make ``art.npz``: what FGSM and PGD of the Adversarial Robustness Toolbox do to a tiny ViT.

Run by hand in an environment of its own, since the toolbox brings its own libraries:

    python3.11 -m venv /tmp/references-venv
    /tmp/references-venv/bin/pip install torch==2.13.0 adversarial-robustness-toolbox==1.20.1 \
        captum==0.9.0 safetensors einops jaxtyping
    PYTHONPATH=src /tmp/references-venv/bin/python tests/golden/make_art.py

The file holds, without pickles:

- ``facts``: JSON: the model's ``config``, ``eps``, the ``attacks`` and the ``versions``;
- ``model.<name>``: the weights of the model;
- ``images``: bytes, many of them 0 or 255, where an attack meets the end of the range;
- ``true`` and ``target``: the classes that the model says of them, and others;
- ``<attack>.away`` and ``<attack>.towards``: what an attack of ``ATTACKS`` made of the images, as
  float32 in [0, 1], away from ``true`` and towards ``target``.
"""

import importlib
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from make_golden import generator_of, randomise
from torch import Tensor, nn

from tessera.config import ViTConfig
from tessera.models.vit import ViT

HERE = Path(__file__).parent
EPS = 8 / 255
CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
    "mlp_dim": 24,
    "patch_size": 4,
    "img_size": 12,
    "num_classes": 4,
    "cls_token": False,
    "pool": "avg",
}
ATTACKS: dict[str, tuple[int, float]] = {
    "fgsm": (1, EPS),
    "pgd1": (1, EPS / 2),
    "pgd7": (7, EPS / 4),
}
"""Steps and their size; seven of a quarter go beyond eps, and must come back."""


def main() -> None:
    """Write the file, and say its size."""
    torch.set_num_threads(1)
    generator = generator_of("art")
    model = ViT(ViTConfig(**CONFIG)).eval()
    randomise(model, generator)
    cast(Any, model.patch_embed).proj.weight.data *= 40  # so that few pixels turn the answer
    pixels = torch.randint(-64, 320, (8, 3, 12, 12), generator=generator).clamp(0, 255)
    images = pixels.float() / 255
    with torch.no_grad():
        model.head.bias -= model(images).mean(dim=0)  # so that every class is answered
        true = model(images).argmax(dim=1)
    target = (true + 1 + torch.arange(8) % 3) % 4
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors |= {"images": pixels.byte(), "true": true, "target": target}
    for name, (steps, step) in ATTACKS.items():
        tensors[f"{name}.away"] = attack(model, images, true, name, steps, step, targeted=False)
        tensors[f"{name}.towards"] = attack(model, images, target, name, steps, step, targeted=True)
    packages = ("adversarial-robustness-toolbox", "torch", "numpy")
    facts = {"config": CONFIG, "eps": EPS, "attacks": ATTACKS}
    facts["versions"] = {package: version(package) for package in packages}
    arrays: dict[str, Any] = {name: tensor.numpy() for name, tensor in tensors.items()}
    np.savez_compressed(HERE / "art.npz", facts=np.array(json.dumps(facts)), **arrays)
    sys.stdout.write(f"art.npz {(HERE / 'art.npz').stat().st_size}\n")


def attack(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    name: str,
    steps: int,
    step: float,
    *,
    targeted: bool,
) -> Tensor:
    """Attack without a random start."""
    attacks = importlib.import_module("art.attacks.evasion")  # not in the project's environment
    classifier = importlib.import_module("art.estimators.classification").PyTorchClassifier(
        model,
        nn.CrossEntropyLoss(),
        tuple(images.shape[1:]),
        CONFIG["num_classes"],
        clip_values=(0.0, 1.0),
        device_type="cpu",
    )
    common: dict[str, Any] = {"norm": "inf", "eps": EPS, "eps_step": step, "targeted": targeted}
    common |= {"num_random_init": 0, "batch_size": len(images)}
    if name == "fgsm":
        made = attacks.FastGradientMethod(classifier, **common)
    else:
        kind = attacks.ProjectedGradientDescentPyTorch
        made = kind(classifier, max_iter=steps, verbose=False, **common)
    return torch.from_numpy(made.generate(images.numpy(), labels.numpy()))


if __name__ == "__main__":
    main()
