"""The artefact: one safetensors file that holds a model and all it takes to use it.

The header carries, as JSON, the config, the preprocessing, the class names and a card that says
how the model came to be. Reading never runs code from the file.
"""

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tessera.config import ViTConfig
from tessera.data.dataset import Task
from tessera.data.preprocessing import Preprocessing
from tessera.fields import build, coerce
from tessera.models.vit import ViT

FORMAT = 1
"""Version of the header; a reader refuses what is newer than itself."""

RUN_FILE = "model.safetensors"
"""Name of the artefact inside a run folder."""


class ArtifactError(ValueError):
    """A file that is no artefact, or not what its header says."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The temperature of a classifier, and what it was fitted to (Guo et al., 2017).

    Logits stay as they are, and so does the order of classes; probabilities are the softmax of
    logits divided by the temperature. Errors are from the images that it was fitted to.
    """

    temperature: float
    split: str
    """Where the images are from: never the test split."""
    images: int
    nll_before: float
    """Mean cross-entropy in nats, at temperature 1."""
    nll_after: float
    ece_before: float
    """Expected calibration error over 15 bins, at temperature 1."""
    ece_after: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature={self.temperature} must be a positive number")
        if self.images < 1:
            raise ValueError(f"a temperature fitted to {self.images} images says nothing")
        for name in ("nll_before", "nll_after", "ece_before", "ece_after"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}={value} must be a number that is not negative")


@dataclass(frozen=True, kw_only=True)
class Header:
    """Everything in an artefact but the tensors."""

    config: ViTConfig
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    task: Task = "classify"
    """What the outputs are: scores of classes, of labels of which several may hold, or a number."""
    card: dict[str, Any] = field(default_factory=dict)
    """How the model came to be: recipe, data and its fingerprint, metrics, versions."""
    calibration: Calibration | None = None
    """What makes a classifier's confidence its accuracy; None if that was never fitted."""

    def __post_init__(self) -> None:
        if self.calibration is not None and self.task != "classify":
            raise ValueError(f"a model for the task {self.task} has no temperature")

    @property
    def temperature(self) -> float | None:
        """What logits are divided by for probabilities; None if none was fitted."""
        return None if self.calibration is None else self.calibration.temperature


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model ready for use, and what came with it."""

    model: ViT
    header: Header
    path: Path


def save_artifact(
    path: Path, model: ViT, header: Header, tensors: dict[str, Tensor] | None = None
) -> None:
    """Write an artefact: beside its place first, synced, then renamed, so that none is ever half.

    Args:
        tensors: The model's, where it has only shares of them itself.

    Raises:
        ValueError: The class names do not fit the head.
    """
    _check_names(header.class_names, model.config.num_classes, path)
    text: dict[str, Any] = {
        "format": FORMAT,
        "config": asdict(header.config),
        "preprocessing": header.preprocessing.as_dict(),
        "class_names": list(header.class_names),
        "task": header.task,
        "card": header.card,
    }
    if header.calibration is not None:
        text["calibration"] = asdict(header.calibration)
    found = model.state_dict() if tensors is None else tensors
    tensors = {k: v.detach().cpu().contiguous() for k, v in found.items()}
    metadata = {"tessera": json.dumps(text)}
    write_atomically(path, lambda part: save_file(tensors, part, metadata=metadata))


def load_artifact(path: Path) -> LoadedModel:
    """Read an artefact, and check that its tensors are the ones its header promises.

    Raises:
        ArtifactError: The file is missing, truncated, of another format, or its header lies.
    """
    header = read_header(path)
    tensors = _read_tensors(path)
    blocks = header.config.depth + sum(header.config.stem_blocks)
    if blocks > len(tensors):  # before so many blocks are built
        raise ArtifactError(
            f"{path} does not hold the model its header describes: "
            f"it has {len(tensors)} tensors for {blocks} blocks"
        )
    try:
        with torch.device("meta"):
            model = ViT(header.config)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ArtifactError(f"{path} describes a model that cannot be: {error}") from error
    _check_tensors(model, tensors, path)
    model.load_state_dict(tensors, assign=True)
    return LoadedModel(model=model.eval(), header=header, path=path)


def read_header(path: Path) -> Header:
    """Read what an artefact says about itself, without its tensors.

    Raises:
        ArtifactError: The file is missing, truncated, of another format, or does not make sense.
    """
    if not path.is_file():
        raise ArtifactError(f"no model file at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ArtifactError(
            f"{path} is no complete safetensors file: {error}\n"
            "hint: it may be truncated or of another format; copy or train it again"
        ) from error
    if "tessera" not in metadata:
        raise ArtifactError(
            f"{path} holds tensors but no Tessera header\n"
            "hint: a model written by `tessera train` has one"
        )
    try:
        text = json.loads(metadata["tessera"])
        version = coerce("format", text["format"], int)
        if version < 1:
            raise ValueError(f"format={version} must be at least 1")
        if version > FORMAT:
            raise ArtifactError(
                f"{path} has format {version}, and this version reads up to {FORMAT}\n"
                "hint: update tessera-vit"
            )
        header = Header(
            config=build(ViTConfig, text["config"]),
            preprocessing=build(Preprocessing, text["preprocessing"]),
            class_names=coerce("class_names", text["class_names"], tuple[str, ...]),
            task=coerce("task", text.get("task", "classify"), Task),
            card=coerce("card", text["card"], dict),
            calibration=_calibration(text.get("calibration")),
        )
    except ArtifactError:
        raise
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ArtifactError(f"{path} has a header that makes no sense: {error}") from error
    _check_names(header.class_names, header.config.num_classes, path)
    _check_preprocessing(header, path)
    return header


def is_artifact(path: Path) -> bool:
    """Whether a file bears our header, whatever else may be wrong with it."""
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return "tessera" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call ``write`` with a path beside ``path``, sync it to the disk, and rename it into place."""
    part = path.with_name(path.name + ".part")
    try:
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _calibration(values: Any) -> Calibration | None:
    return None if values is None else build(Calibration, coerce("calibration", values, dict))


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            # Copied to where PyTorch aligns them: sums of a product depend on that in the last bit.
            return {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error


def _check_names(names: Sequence[str], num_classes: int, path: Path) -> None:
    if names and len(names) != num_classes:
        raise ArtifactError(f"{path}: {len(names)} class names for a head of {num_classes} outputs")
    if len(set(names)) != len(names):
        raise ArtifactError(f"{path}: a class name stands twice")


def _check_preprocessing(header: Header, path: Path) -> None:
    config, preprocessing = header.config, header.preprocessing
    if preprocessing.channels != config.in_chans:
        raise ArtifactError(
            f"{path}: preprocessing makes {preprocessing.channels} channels, "
            f"the model wants {config.in_chans}"
        )
    if any(side % config.patch_size for side in preprocessing.size):
        raise ArtifactError(
            f"{path}: preprocessing makes images of {preprocessing.size}, "
            f"the model wants multiples of its patch_size={config.patch_size}"
        )


def _check_tensors(model: ViT, tensors: dict[str, Tensor], path: Path) -> None:
    """Compare names, shapes and types with what the config asks for."""
    expected = model.state_dict()
    missing, extra = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    wrong = [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(expected[name].shape)}"
        for name in expected
        if name in tensors and tensors[name].shape != expected[name].shape
    ]
    for what, names in (("lacks", missing), ("has the unknown", extra), ("has", wrong)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ArtifactError(
                f"{path} does not hold the model its header describes: "
                f"it {what} {', '.join(names[:3])}{more}"
            )
    for name, tensor in tensors.items():
        if tensor.dtype != expected[name].dtype:
            raise ArtifactError(
                f"{path}: {name} is of type {tensor.dtype}, not {expected[name].dtype}"
            )
        if not torch.isfinite(tensor).all():
            raise ArtifactError(f"{path}: {name} holds values that are not finite")
