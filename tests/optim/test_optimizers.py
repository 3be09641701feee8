"""Every optimizer of a recipe learns, decays what it should, and goes on exactly where it was."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

import tessera
from tessera.optim.groups import is_matrix
from tessera.optim.optimizers import OPTIMIZERS, Together, make_optimizer
from tessera.recipe import Optim

RATES = {"sgd": 0.1, "adafactor": 0.05}


def make() -> nn.Module:
    torch.manual_seed(0)
    return tessera.create_model(
        "vit_mu_patch8_16", num_classes=3, embed_dim=16, depth=2, num_heads=2, mlp_dim=32
    )


def optim(name: str, **changes: Any) -> Optim:
    return Optim(name=name, lr=RATES.get(name, 1e-2), **changes)  # type: ignore[arg-type]


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> list[float]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(12, 3, 16, 16, generator=generator)
    labels = torch.arange(12) % 3
    losses = []
    for _ in range(count):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_learns_a_few_images_by_heart(name: str) -> None:
    model = make()
    losses = steps(model, make_optimizer(model, optim(name, weight_decay=0.0)), 60)
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_its_state_goes_on_bit_for_bit(name: str) -> None:
    whole = make()
    steps(whole, first := make_optimizer(whole, optim(name)), 4)
    state, weights = deepcopy(first.state_dict()), deepcopy(whole.state_dict())
    steps(whole, first, 3)

    broken = make()
    broken.load_state_dict(weights)
    again = make_optimizer(broken, optim(name))
    again.load_state_dict(state)
    steps(broken, again, 3)
    ours, theirs = broken.state_dict(), whole.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_parameter_is_in_one_group_and_only_matrices_decay(name: str) -> None:
    model = make()
    optimizer = make_optimizer(model, optim(name, weight_decay=0.3, layer_decay=0.8), depth=2)
    seen = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    assert len(seen) == len(list(model.parameters()))
    for key, parameter in model.named_parameters():
        group = seen[id(parameter)]
        assert group["weight_decay"] == (0.3 if is_matrix(key, parameter) else 0.0), key
        assert 0 < group["lr_scale"] <= 1


def test_muon_has_the_matrices_of_the_blocks_and_adamw_the_rest() -> None:
    model = make()
    optimizer = make_optimizer(model, optim("muon"))
    assert isinstance(optimizer, Together)
    muon, adamw = optimizer.parts
    names = {id(p): name for name, p in model.named_parameters()}
    inside = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    assert inside == {
        name for name, p in model.named_parameters() if name.startswith("blocks.") and p.ndim == 2
    }
    outside = {names[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert not inside & outside
    assert "head.weight" in outside


def test_rates_set_from_outside_reach_every_part() -> None:
    model = make()
    optimizer = make_optimizer(model, optim("muon", weight_decay=0.0))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    steps(model, optimizer, 2)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
