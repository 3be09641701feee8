"""Weight decay is for matrices, and every parameter is trained by exactly one group."""

from typing import Any

import pytest
import torch

from tessera.models.vit import ViT, create_model
from tessera.objectives.classify import Classify
from tessera.optim.groups import is_matrix, parameter_groups
from tessera.optim.optimizers import make_optimizer
from tessera.recipe import Optim

ARCHS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all": {
        "num_registers": 2,
        "pool": "map",
        "layer_scale_init": 0.1,
        "qk_norm": True,
        "representation_dim": 16,
        "patch_embed": "linear",
        "patch_norm": True,
    },
    "modern": {"norm": "rmsnorm", "mlp": "swiglu", "cls_token": False, "pool": "avg"},
}


def make(name: str) -> ViT:
    return create_model("vit_mu_patch16", num_classes=3, img_size=32, **ARCHS[name])


@pytest.mark.parametrize("name", ARCHS)
def test_every_parameter_is_in_exactly_one_group(name: str) -> None:
    model = make(name)
    grouped = [id(p) for group in parameter_groups(model, 0.1) for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in model.parameters()}


def test_only_matrices_decay() -> None:
    model = make("all")
    decaying, rest = parameter_groups(model, 0.1)
    assert (decaying["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    assert sorted(names[id(p)] for p in decaying["params"]) == sorted(
        [
            "patch_embed.proj.weight",
            "blocks.0.attn.qkv.weight",
            "blocks.0.attn.proj.weight",
            "blocks.0.mlp.fc1.weight",
            "blocks.0.mlp.fc2.weight",
            "attn_pool.q.weight",
            "attn_pool.kv.weight",
            "attn_pool.proj.weight",
            "attn_pool.mlp.fc1.weight",
            "attn_pool.mlp.fc2.weight",
            "pre_logits.weight",
            "head.weight",
        ]
    )
    assert sorted(names[id(p)] for p in rest["params"]) == sorted(
        [
            "cls_token",
            "register_tokens",
            "pos_embed.table",
            "attn_pool.latent",
            *(f"patch_embed.{part}" for part in ("proj.bias",)),
            *(f"patch_embed.norm_{end}.{p}" for end in ("in", "out") for p in ("weight", "bias")),
            *(f"blocks.0.norm{k}.{p}" for k in (1, 2) for p in ("weight", "bias")),
            *(f"blocks.0.attn.{x}_norm.{p}" for x in "qk" for p in ("weight", "bias")),
            *(f"blocks.0.ls{k}.gamma" for k in (1, 2)),
            *(f"blocks.0.attn.{part}.bias" for part in ("qkv", "proj")),
            *(f"blocks.0.mlp.{part}.bias" for part in ("fc1", "fc2")),
            *(f"attn_pool.{part}.bias" for part in ("q", "kv", "proj", "mlp.fc1", "mlp.fc2")),
            *(f"attn_pool.norm.{p}" for p in ("weight", "bias")),
            *(f"norm.{p}" for p in ("weight", "bias")),
            "pre_logits.bias",
            "head.bias",
        ]
    )


def test_a_convolution_decays_and_an_rms_norm_does_not() -> None:
    parameters = dict(make("modern").named_parameters())
    assert is_matrix("patch_embed.proj.weight", parameters["patch_embed.proj.weight"])
    assert parameters["patch_embed.proj.weight"].ndim == 4
    assert not is_matrix("norm.weight", parameters["norm.weight"])


def test_an_objective_around_the_model_changes_no_group() -> None:
    model = make("all")
    for plain, wrapped in zip(
        parameter_groups(model, 0.1), parameter_groups(Classify(model), 0.1), strict=True
    ):
        assert [id(p) for p in plain["params"]] == [id(p) for p in wrapped["params"]]


def test_a_frozen_parameter_is_in_no_group() -> None:
    model = make("plain")
    model.patch_embed.requires_grad_(False)
    grouped = {id(p) for group in parameter_groups(model, 0.1) for p in group["params"]}
    assert grouped == {id(p) for p in model.parameters() if p.requires_grad}


def test_the_optimizer_has_the_numbers_of_the_recipe() -> None:
    optim = Optim(lr=0.25, weight_decay=0.5, betas=(0.8, 0.95))
    optimizer = make_optimizer(make("plain"), optim)
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.0]
    assert {group["lr"] for group in optimizer.param_groups} == {0.25}
    assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.95)}


def test_without_a_gradient_a_matrix_shrinks_and_a_bias_stays() -> None:
    model = make("plain")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    optimizer = make_optimizer(model, Optim(lr=0.1, weight_decay=0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert isinstance(model.head, torch.nn.Linear)
    assert torch.equal(model.head.weight, torch.full_like(model.head.weight, 1 - 0.1 * 0.5))
    assert torch.equal(model.head.bias, torch.ones_like(model.head.bias))
    assert model.cls_token is not None
    assert torch.equal(model.cls_token, torch.ones_like(model.cls_token))
