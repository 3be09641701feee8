"""Checkpoints of other projects as models of ours: recognised by a table, read strictly."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tessera.checkpoint.hierarchical import HIERARCHICAL_LAYOUTS
from tessera.checkpoint.huggingface import HF_LAYOUTS
from tessera.checkpoint.layout import Hints, Layout
from tessera.checkpoint.others import GOOGLE, LUCIDRAINS, TORCHVISION
from tessera.checkpoint.read import find_weights, read_json, read_tensors
from tessera.checkpoint.resnets import BIT_LAYOUTS
from tessera.checkpoint.rules import CheckpointError, Conversion, State, convert
from tessera.checkpoint.timm import TIMM
from tessera.config import ViTConfig
from tessera.fields import build
from tessera.models.vit import ViT

LAYOUTS: tuple[Layout, ...] = (
    *(TIMM, *HF_LAYOUTS, GOOGLE, TORCHVISION, LUCIDRAINS),
    *BIT_LAYOUTS,
    *HIERARCHICAL_LAYOUTS,
)

ANOTHER = (
    "hint: it was changed, or is of a model that Tessera does not have; take the original file, "
    "or weights that `tessera models` lists"
)


@dataclass(frozen=True)
class ForeignModel:
    """A model made from somebody else's weights, and how."""

    model: ViT
    layout: Layout
    conversion: Conversion
    json: Mapping[str, Any]
    """The config.json beside the weights, empty where there is none."""
    folder: Path | None
    """Where further files, such as the preprocessing, may lie."""
    notes: tuple[str, ...]
    """What had to be assumed."""

    def report(self) -> tuple[str, ...]:
        """Say what was read, filled and left out, a line each."""
        c = self.conversion
        lines = [f"{c.read} tensors read in the layout of {self.layout.title}"]
        if c.zeros:
            lines.append(f"zero because the file has none: {', '.join(c.zeros)}")
        reasons = dict.fromkeys(why for _, why in c.dropped)
        for reason in reasons:
            names = [name for name, why in c.dropped if why == reason]
            more = f" and {len(names) - 2} more" if len(names) > 2 else ""
            lines.append(f"left out, {reason}: {', '.join(names[:2])}{more}")
        return tuple(lines)


def load_foreign(
    path: Path, *, name: str = "", overrides: Mapping[str, Any] | None = None
) -> ForeignModel:
    """Read a checkpoint of timm, transformers, Google, torchvision, lucidrains, or their kin.

    Args:
        path: A .safetensors, .npz, .pth, .pt or .bin file, or a folder with config.json.
        name: Architecture in timm's spelling, where it is known.
        overrides: Fields of ``ViTConfig`` that no tensor tells.

    Raises:
        CheckpointError: Not readable, not recognised, or not wholly used.
    """
    file = find_weights(path) if path.is_dir() else path
    if file is None:
        raise CheckpointError(f"{path} is a folder without weights that are known by name")
    json = read_json(file.parent / "config.json") if path.is_dir() else {}
    hints = Hints(
        json, name or str(json.get("architecture", "")), {**_told(json), **(overrides or {})}
    )
    tensors = read_tensors(file)
    layout, tensors = recognise(tensors, file)
    try:
        fields, notes = layout.configure(tensors, hints)
        fields |= {name: v for name, v in hints.overrides.items() if name != "img_size"}
        config = build(ViTConfig, {"pool": "cls", **fields})
        with torch.device("meta"):
            model = ViT(config)
    except CheckpointError as error:
        raise _refusal(f"{file}: {error}") from error
    except KeyError as error:
        raise _refusal(f"{file} looks like {layout.title}, but lacks {error}") from error
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        raise _refusal(
            f"{file} looks like {layout.title}, but no model fits it: {error}"
        ) from error
    shapes = {key: tensor.shape for key, tensor in model.state_dict().items()}
    try:
        conversion = convert(
            {key: tensor.float() for key, tensor in tensors.items()},
            layout.rules(fields),
            shapes,
            config.depth,
            drops=layout.drops,
            zeros=layout.zeros,
        )
    except (CheckpointError, RuntimeError, ValueError, IndexError) as error:
        raise _refusal(f"{file} looks like {layout.title}, but {error}") from error
    for key, tensor in conversion.state.items():
        if not torch.isfinite(tensor).all():
            raise _refusal(f"{file}: its {key} holds values that are not finite")
    model.load_state_dict(conversion.state, assign=True)
    folder = path if path.is_dir() else None
    return ForeignModel(model.eval(), layout, conversion, json, folder, notes)


def _refusal(message: str) -> CheckpointError:
    """Add the way out, where the message does not say it."""
    return CheckpointError(message if "\nhint: " in message else f"{message}\n{ANOTHER}")


def _told(json: Mapping[str, Any]) -> dict[str, Any]:
    """What timm's config.json says of the model, and no tensor does."""
    arguments = json.get("model_args")
    if not isinstance(arguments, Mapping):
        return {}
    told = {name: arguments[name] for name in ("num_heads", "img_size") if name in arguments}
    return {name: tuple(v) if isinstance(v, list) else v for name, v in told.items()}


def recognise(tensors: State, path: Path) -> tuple[Layout, State]:
    """Find the one layout whose signature the names bear; never guess.

    Raises:
        CheckpointError: None fits, or more than one.
    """
    found: list[tuple[Layout, State]] = []
    for layout in LAYOUTS:
        named = {_without(name, layout.prefixes): tensor for name, tensor in tensors.items()}
        if all(name in named for name in layout.signature):
            found.append((layout, named))
    if len(found) == 1:
        return found[0]
    seen = ", ".join(sorted(tensors)[:6])
    if found:
        titles = " and ".join(layout.title for layout, _ in found)
        raise _refusal(f"{path} could be {titles}: it has {seen}, ...")
    known = ", ".join(layout.title for layout in LAYOUTS)
    raise CheckpointError(
        f"{path} is in no known layout: it has {seen}, ...\nhint: known are {known}"
    )


def _without(name: str, prefixes: tuple[str, ...]) -> str:
    for prefix in prefixes:
        name = name.removeprefix(prefix)
    return name
