"""Integrated gradients and occlusion against captum's, of the same weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tessera.config import ViTConfig
from tessera.explain.gradients import integrated_gradients
from tessera.explain.occlusion import occlusion
from tessera.explain.question import Question
from tessera.models.vit import ViT

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "captum.npz")
FACTS = json.loads(str(GOLDEN["facts"]))
IMAGES = torch.from_numpy(GOLDEN["images"])


@pytest.fixture(scope="module")
def model() -> ViT:
    """The model that captum explained; see golden/make_captum.py."""
    config = {**FACTS["config"], "img_size": tuple(FACTS["config"]["img_size"])}
    model = ViT(ViTConfig(**config)).eval()
    weights = {name.removeprefix("model."): GOLDEN[name] for name in GOLDEN if "model." in name}
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return model


@pytest.mark.parametrize("steps", FACTS["steps"])
@pytest.mark.parametrize("number", range(len(IMAGES)))
def test_integrated_gradients_are_captums(model: ViT, steps: int, number: int) -> None:
    theirs = GOLDEN[f"integrated.{steps}"][number].sum(axis=0)
    question = Question(target=FACTS["target"], steps=steps)
    ours = integrated_gradients(model, IMAGES[number : number + 1], question).numpy()
    assert ours.shape == theirs.shape == (12, 16)
    # Measured: 9e-8, of values up to 0.28.
    assert np.abs(ours - theirs).max() <= 1e-5
    assert np.abs(theirs).max() > 0.1


@pytest.mark.parametrize("number", range(len(IMAGES)))
def test_occlusion_is_captums(model: ViT, number: int) -> None:
    theirs = GOLDEN["occlusion"][number]
    ours = occlusion(model, IMAGES[number : number + 1], Question(target=FACTS["target"])).numpy()
    assert ours.shape == theirs.shape == (3, 4)
    # Measured: 7e-7, of values up to 0.48.
    assert np.abs(ours - theirs).max() <= 1e-5
    assert np.abs(theirs).max() > 0.1
