"""Make ``captum.npz``: integrated gradients and occlusion by captum, of a tiny ViT.

Run by hand in the environment that ``make_art.py`` describes:

    PYTHONPATH=src /tmp/references-venv/bin/python tests/golden/make_captum.py

The file holds, without pickles:

- ``facts``: JSON: the model's ``config``, the ``target``, the ``steps`` and the ``versions``;
- ``model.<name>``: the weights of the model;
- ``images``: three of them, standard normal;
- ``integrated.<steps>``: attributions of every pixel and channel to the target, from a baseline
  of 0, by the midpoint rule (captum's ``riemann_middle``);
- ``occlusion``: attributions of every patch to the target, with 0 in its place.
"""

import importlib
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from make_golden import generator_of, randomise

from tessera.config import ViTConfig
from tessera.models.vit import ViT

HERE = Path(__file__).parent
CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "mlp_dim": 24,
    "patch_size": 4,
    "img_size": (12, 16),
    "num_classes": 4,
}
TARGET = 2
STEPS = (2, 8, 37)


def main() -> None:
    """Write the file, and say its size."""
    attr = importlib.import_module("captum.attr")  # not in the project's environment
    torch.set_num_threads(1)
    generator = generator_of("captum")
    model = ViT(ViTConfig(**CONFIG)).eval()
    randomise(model, generator)
    images = torch.randn(3, 3, 12, 16, generator=generator)
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors["images"] = images
    for steps in STEPS:
        found = attr.IntegratedGradients(model).attribute(
            images, baselines=0, target=TARGET, n_steps=steps, method="riemann_middle"
        )
        tensors[f"integrated.{steps}"] = found.float()
    covered = attr.Occlusion(model).attribute(
        images, sliding_window_shapes=(3, 4, 4), strides=(3, 4, 4), baselines=0, target=TARGET
    )
    tensors["occlusion"] = covered[:, 0, ::4, ::4].contiguous()  # the same all over a patch
    packages = ("captum", "torch", "numpy")
    facts = {"config": CONFIG, "target": TARGET, "steps": STEPS}
    facts["versions"] = {package: version(package) for package in packages}
    arrays: dict[str, Any] = {name: tensor.detach().numpy() for name, tensor in tensors.items()}
    np.savez_compressed(HERE / "captum.npz", facts=np.array(json.dumps(facts)), **arrays)
    sys.stdout.write(f"captum.npz {(HERE / 'captum.npz').stat().st_size}\n")


if __name__ == "__main__":
    main()
