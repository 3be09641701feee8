"""The MODEL argument: an artefact, a run folder, a foreign checkpoint, or published weights."""

import logging
from collections import Counter
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from tessera.checkpoint.artifact import (
    RUN_FILE,
    ArtifactError,
    Header,
    LoadedModel,
    is_artifact,
    load_artifact,
)
from tessera.checkpoint.foreign import ForeignModel, load_foreign
from tessera.checkpoint.preprocess import find_preprocessing
from tessera.checkpoint.read import SUFFIXES, find_weights
from tessera.checkpoint.weights import Weights, fetch, published, record_of

logger = logging.getLogger("tessera")


def load_model(
    ref: str | Path, *, overrides: Mapping[str, Any] | None = None, offline: bool = False
) -> LoadedModel:
    """Load any MODEL with its preprocessing and class names.

    Args:
        ref: A file, a folder, or ``<model>.<tag>`` for published weights.
        overrides: Fields of ``ViTConfig`` that a foreign file does not tell.
        offline: Never fetch.

    Raises:
        ValueError: Nothing is there, or it is not what it should be.
        RunError: Published weights cannot be fetched.
    """
    path = Path(ref).expanduser()
    if not path.exists() and str(ref) in published():
        record = published()[str(ref)]
        return _foreign(fetch(record, offline=offline), record, overrides)
    if not path.exists():
        raise ArtifactError(
            f"no model at {str(ref)!r}\n"
            "hint: give a run folder of `tessera train`, a checkpoint file or folder, or a name "
            "that `tessera models` lists"
        )
    file = path / RUN_FILE if path.is_dir() else path
    if is_artifact(file):
        loaded = load_artifact(file)
        _refuse_overrides(loaded, overrides or {})
        return loaded
    if path.is_dir() and find_weights(path) is None:
        raise ArtifactError(
            f"{path} is a folder without {RUN_FILE}\n"
            "hint: give a run folder of `tessera train`, a folder with config.json and weights, "
            f"or a file ending in {', '.join(SUFFIXES)}"
        )
    return _foreign(path, record_of(path), overrides)


def _refuse_overrides(loaded: LoadedModel, overrides: Mapping[str, Any]) -> None:
    """An artefact says itself what it is."""
    for name, value in overrides.items():
        own = getattr(loaded.header.config, name)
        if own != value:
            raise ArtifactError(f"{loaded.path} has {name}={own!r}, which cannot be {value!r}")


def _foreign(
    path: Path, record: Weights | None, overrides: Mapping[str, Any] | None
) -> LoadedModel:
    name = record.architecture if record else ""
    found = load_foreign(path, name=name, overrides=overrides)
    preprocessing, where = find_preprocessing(found, record)
    for note in (*found.notes, *where):
        logger.warning("%s: %s", path.name, note)
    header = Header(
        config=found.model.config,
        preprocessing=preprocessing,
        class_names=_class_names(found, record),
        card=_card(path, found, record),
    )
    return LoadedModel(model=found.model, header=header, path=path)


def imagenet_names() -> tuple[str, ...]:
    """Return the first name of each of ImageNet-1k's classes, in their usual order."""
    text = (files("tessera.checkpoint") / "imagenet_1k.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t")[1] for line in text.splitlines() if not line.startswith("#")]
    return tuple(row.partition(",")[0] for row in rows)


def _class_names(found: ForeignModel, record: Weights | None) -> tuple[str, ...]:
    """Return the names of transformers' id2label, or of timm's label_names, or none.

    Published weights with a thousand classes have ImageNet-1k's.

    A name that stands twice gets its number: ImageNet has cranes that fly and cranes that lift.
    """
    count = found.model.config.num_classes
    labels = found.json.get("id2label")
    names: tuple[str, ...] = ()
    if isinstance(labels, Mapping):
        names = tuple(str(labels.get(str(k), k)) for k in range(count))
    elif isinstance(found.json.get("label_names"), list):
        names = tuple(map(str, found.json["label_names"]))
    elif record is not None and count == len(imagenet_names()) == record.num_classes:
        names = imagenet_names()
    times = Counter(names)
    names = tuple(f"{name} ({k})" if times[name] > 1 else name for k, name in enumerate(names))
    return names if len(set(names)) == count else ()


def _card(path: Path, found: ForeignModel, record: Weights | None) -> dict[str, Any]:
    card: dict[str, Any] = {
        "model": record.architecture if record else str(found.json.get("architecture", path.stem)),
        "layout": found.layout.title,
        "conversion": list(found.report()),
    }
    if record:
        card |= {
            "weights": record.name,
            "license": record.license,
            "paper": record.paper,
            "trained_on": record.trained_on,
        }
    return card
