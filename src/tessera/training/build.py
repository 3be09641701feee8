"""The model that a run starts from: new, or with weights that somebody trained."""

import math
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tessera.checkpoint.adapt import CHANGEABLE, adapt
from tessera.checkpoint.artifact import Header
from tessera.checkpoint.choose import choose
from tessera.checkpoint.load import load_model
from tessera.data.preprocessing import HALF, Preprocessing
from tessera.data.splits import DataSplits
from tessera.devices import pick_device
from tessera.errors import RunError
from tessera.models.variants import parse
from tessera.models.vit import ViT
from tessera.recipe import Recipe, dumps


def build(recipe: Recipe, splits: DataSplits, say: Callable[[str], None]) -> tuple[ViT, Header]:
    """Make the model, from nothing or from weights, and the header of its artefact.

    Args:
        say: Shows a line to the user.

    Raises:
        ValueError: The model or its settings cannot be.
        RunError: Published weights cannot be had.
    """
    names, given = splits.class_names, recipe.arch.given()
    if recipe.weights == "none":
        config = parse(recipe.model, num_classes=len(names), **given)
        if config.in_chans not in (1, 3):
            raise ValueError(f"arch.in_chans={config.in_chans}: images have 1 channel (grey) or 3")
        half = HALF[: config.in_chans]
        preprocessing = Preprocessing(
            size=config.image_shape, channels=config.in_chans, mean=half, std=half
        )
        model, start = ViT(config, init=recipe.init), {"model": recipe.model, "weights": "none"}
        if recipe.loss == "bce" and len(names) > 1:
            _expect_one_of(model, len(names))
    else:
        model, preprocessing, start = _start_from(recipe, splits, say)
    if recipe.data.crop != "auto":
        step = model.config.patch_size if recipe.data.crop == "native" else 1
        preprocessing = replace(
            preprocessing, crop=recipe.data.crop, crop_pct=1.0, multiple_of=step
        )
    return model, Header(
        config=model.config,
        preprocessing=preprocessing,
        class_names=names,
        task=splits.task,
        card={**start, **_card(splits, recipe)},
    )


def _expect_one_of(model: ViT, classes: int) -> None:
    """Let a new head answer 1 / classes for each, which spares a binary loss its first steps.

    That is -6.9 for ImageNet and -10 for ImageNet-21k, as in the paper's own code.
    """
    assert isinstance(model.head, nn.Linear)
    nn.init.constant_(model.head.bias, -math.log(classes - 1))


def _start_from(
    recipe: Recipe, splits: DataSplits, say: Callable[[str], None]
) -> tuple[ViT, Preprocessing, dict[str, Any]]:
    """Load the weights that the recipe names, or choose some, and fit them to the classes."""
    ref = recipe.weights
    if ref == "auto":
        device = pick_device(recipe.device)
        weights, why = choose(len(splits["train"]), device.type, offline=recipe.offline)
        ref = weights.name
        say(
            f"weights {ref}: {why}, {weights.parameters:,} parameters, licence {weights.license}",
        )
    given = recipe.arch.given()
    told = {name: value for name, value in given.items() if name not in CHANGEABLE}
    try:
        loaded = load_model(ref, overrides=told, offline=recipe.offline)
    except RunError as error:
        raise RunError(
            f"{error}\nhint: give a file with --weights, or say --weights none to train from "
            "scratch, which needs many thousands of images"
        ) from error
    model, notes = adapt(
        loaded,
        splits.class_names,
        given,
        task=splits.task,
        plain_head=recipe.objective == "linear-probe",
    )
    card = loaded.header.card
    for note in (*card.get("conversion", ()), *notes):
        say(f"weights {note}")
    preprocessing = replace(loaded.header.preprocessing, size=model.config.image_shape)
    kept = ("model", "license", "paper", "trained_on")
    origin = {key: card[key] for key in kept if key in card}
    if "recipe" not in card:
        return model, preprocessing, {**origin, "weights": card.get("weights", Path(ref).name)}
    # A model of our own, which was itself trained from something.
    start = {"weights": str(ref), "which_started_from": card.get("weights", "none")}
    return model, preprocessing, {**origin, **start}


def _card(splits: DataSplits, recipe: Recipe) -> dict[str, Any]:
    """What an artefact says about how it came to be."""
    return {
        "data": Path(splits.spec).name,
        "fingerprint": splits["train"].fingerprint(),
        "seed": recipe.seed,
        "recipe": dumps(recipe),
        "tessera": version("tessera-vit"),
        "torch": str(torch.__version__),
    }
