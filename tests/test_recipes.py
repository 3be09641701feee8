"""Shipped recipes: their numbers are those of their sources, and each of them trains."""

from pathlib import Path
from typing import Any

import pytest

import tessera
from tessera.recipe import Recipe, load, shipped

PAPERS = sorted(set(shipped()) - {"digits", "finetune", "head-then-all", "linear-probe", "scratch"})

# From the papers and their authors' code: facts 1.3, 1.4, 2.1 to 2.4.
NUMBERS: dict[str, dict[str, Any]] = {
    "paper-in21k": {
        "data.batch_size": 4096,
        "optim.lr": 1e-3,
        "optim.weight_decay": 0.03,
        "schedule.epochs": 90,
        "schedule.warmup_steps": 10_000,
        "schedule.shape": "linear",
        "arch.drop_rate": 0.1,
        "optim.clip_grad_norm": None,
    },
    "paper-in1k": {
        "data.batch_size": 4096,
        "optim.lr": 3e-3,
        "optim.weight_decay": 0.3,
        "schedule.epochs": 300,
        "schedule.shape": "cosine",
        "arch.drop_rate": 0.1,
        "optim.clip_grad_norm": 1,
    },
    "paper-finetune": {
        "data.batch_size": 512,
        "optim.name": "sgd",
        "optim.momentum": 0.9,
        "optim.weight_decay": 0,
        "optim.clip_grad_norm": 1,
        "arch.img_size": 384,
        "schedule.shape": "cosine",
        "schedule.total_steps": 20_000,
    },
    "augreg": {
        "data.batch_size": 4096,
        "loss": "bce",
        "optim.lr": 1e-3,
        "optim.weight_decay": 0.1,
        "augment.augreg": "medium1",
        "schedule.epochs": 300,
    },
    "better-plain-vit": {
        "data.batch_size": 1024,
        "arch.pos_embed": "sincos2d",
        "arch.pool": "avg",
        "augment.crop_scale": (0.05, 1),
        "augment.num_ops": 2,
        "augment.magnitude": 10,
        "augment.mixup": 0.2,
        "optim.weight_decay": 0.1,
        "schedule.epochs": 90,
    },
    "deit": {
        "data.batch_size": 1024,
        "optim.lr": 5e-4 * 1024 / 512,
        "optim.weight_decay": 0.05,
        "optim.ema_decay": 0.99996,
        "schedule.epochs": 300,
        "schedule.final_lr": 1e-5,
        "label_smoothing": 0.1,
        "augment.magnitude": 9,
        "augment.repeats": 3,
        "augment.erasing": 0.25,
        "augment.mixup": 0.8,
        "augment.cutmix": 1,
        "arch.drop_path_rate": 0.1,
        "distill.kind": "hard",
        "distill.weight": 0.5,
    },
    "deit3": {
        "data.batch_size": 2048,
        "loss": "bce",
        "augment.policy": "three-augment",
        "augment.color_jitter": 0.3,
        "arch.layer_scale_init": 1e-4,
        "arch.drop_path_rate": 0.05,
        "schedule.epochs": 800,
    },
    "mae-finetune": {
        "data.batch_size": 1024,
        "optim.lr": 5e-4 * 1024 / 256,
        "optim.layer_decay": 0.65,
        "arch.drop_path_rate": 0.1,
        "schedule.epochs": 100,
        "augment.erasing": 0.25,
        "augment.mixup": 0.8,
        "augment.cutmix": 1,
    },
}

TINY = {
    "model": "vit_mu_patch8_16",
    "weights": "none",
    "arch.depth": 2,
    "arch.embed_dim": 32,
    "arch.num_heads": 2,
    "arch.mlp_dim": 64,
    "arch.img_size": 16,
    "arch.in_chans": 1,
    "arch.patch_size": 4,
    "data.batch_size": 16,
    "data.val_fraction": 0.15,
    "data.workers": 0,
    "schedule.total_steps": 3,
    "eval_every": 1.0,
    "precision": "float32",
    "compile": False,
}


def value(recipe: Recipe, name: str) -> Any:
    found: Any = recipe
    for part in name.split("."):
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("name", NUMBERS)
def test_a_recipe_has_the_numbers_of_its_source(name: str) -> None:
    recipe = load(name)
    for setting, expected in NUMBERS[name].items():
        assert value(recipe, setting) == expected, setting


@pytest.mark.parametrize("name", shipped())
def test_a_recipe_says_command_and_result(name: str) -> None:
    head = [line for line in shipped()[name].read_text().splitlines() if line.startswith("#")]
    text = " ".join(line.removeprefix("#").strip() for line in head)
    assert f"--recipe {name}" in text or name in ("digits", "finetune", "scratch")
    assert "easured" in text, "what we measured, or that we did not"
    if name in NUMBERS:
        assert "Source:" in text
        assert "not measured by us" in text


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPERS)
def test_a_recipe_trains(name: str, tmp_path: Path) -> None:
    run = tessera.train("digits", recipe=name, out=tmp_path / "run", overrides=TINY)
    assert len(run.results["test"].labels) == 359


def test_the_guide_lists_every_recipe() -> None:
    guide = (Path(__file__).parents[1] / "docs" / "guides" / "recipes.md").read_text()
    assert [name for name in shipped() if f"`{name}`" not in guide] == []
