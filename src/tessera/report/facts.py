"""What a report says of a model and of its data, apart from what was measured."""

from dataclasses import asdict
from typing import Any

from tessera.checkpoint.artifact import Header
from tessera.data.splits import DataSplits
from tessera.models.vit import ViT


def model_facts(model: ViT, header: Header) -> dict[str, Any]:
    """Return what a report says of a model."""
    origin = ("weights", "which_started_from", "license", "paper", "trained_on")
    return {
        "name": header.card.get("model", "ViT"),
        "origin": {key: header.card[key] for key in origin if key in header.card},
        "parameters": count_parameters(model),
        "config": asdict(header.config),
        "preprocessing": header.preprocessing.as_dict(),
    }


def data_facts(splits: DataSplits, names: list[str]) -> dict[str, Any]:
    """Return what a report says of the data, for these splits of it."""
    return {
        "spec": splits.spec,
        "classes": list(splits.class_names),
        "task": splits.task,
        "images": {name: len(splits[name]) for name in names},
        "fingerprint": {name: splits[name].fingerprint() for name in names},
        "notes": list(splits.notes),
    }


def count_parameters(model: ViT) -> int:
    """Return the number of parameters of a model."""
    return sum(p.numel() for p in model.parameters())
