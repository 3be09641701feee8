"""Tessera: turn a folder of images into a Vision Transformer that you can trust."""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tessera.api import train as train
    from tessera.checkup import Checkup as Checkup
    from tessera.checkup import doctor as doctor
    from tessera.comparing import Comparison as Comparison
    from tessera.comparing import compare as compare
    from tessera.config import ViTConfig as ViTConfig
    from tessera.crossval import cross_validate as cross_validate
    from tessera.explaining import explain as explain
    from tessera.explaining import explain_model as explain_model
    from tessera.finishing import TrainedRun as TrainedRun
    from tessera.measuring import Evaluation as Evaluation
    from tessera.measuring import evaluate as evaluate
    from tessera.models.variants import list_models as list_models
    from tessera.models.vit import Tokens as Tokens
    from tessera.models.vit import ViT as ViT
    from tessera.models.vit import create_model as create_model
    from tessera.predict import Prediction as Prediction
    from tessera.predict import Predictor as Predictor
    from tessera.predict import load as load
    from tessera.probing import probe as probe
    from tessera.recipe import Recipe as Recipe
    from tessera.stressing import stress as stress
    from tessera.studies.conduct import study as study
    from tessera.transferring import transfer as transfer

PUBLIC = {
    "Evaluation": "measuring",
    "TrainedRun": "finishing",
    "evaluate": "measuring",
    "train": "api",
    "Checkup": "checkup",
    "doctor": "checkup",
    "Comparison": "comparing",
    "compare": "comparing",
    "ViTConfig": "config",
    "cross_validate": "crossval",
    "explain": "explaining",
    "explain_model": "explaining",
    "list_models": "models.variants",
    "Tokens": "models.vit",
    "ViT": "models.vit",
    "create_model": "models.vit",
    "Prediction": "predict",
    "Predictor": "predict",
    "load": "predict",
    "probe": "probing",
    "Recipe": "recipe",
    "study": "studies.conduct",
    "stress": "stressing",
    "transfer": "transferring",
}
"""Public names and their modules, imported when first used: torch takes seconds, `--help` none."""


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'tessera' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"tessera.{PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(PUBLIC)


class _Package(ModuleType):
    """A package whose verbs are functions, although folders bear the names of some."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in PUBLIC and isinstance(value, ModuleType)):  # what an import leaves behind
            super().__setattr__(name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by name, as modules are by libraries that send functions to other processes."""
        return importlib.import_module, (self.__name__,)


sys.modules[__name__].__class__ = _Package
