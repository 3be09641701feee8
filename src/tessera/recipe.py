"""How a model is trained, as data: a typed tree that TOML files and flags narrow."""

import json
import tomllib
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar

from tessera.fields import coerce
from tessera.overrides import ViTOverrides
from tessera.settings import AT_LEAST_1, POSITIVE, require
from tessera.settings import Augment as Augment
from tessera.settings import Data as Data
from tessera.settings import Distill as Distill
from tessera.settings import Optim as Optim
from tessera.settings import Schedule as Schedule

T = TypeVar("T")

DEFAULTS = {"digits": "digits"}
"""Shipped recipe by DATA; all else is photographs, fine-tuned or from scratch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """All that decides the outcome of a run, apart from data and hardware."""

    model: str = "vit_tiny_patch16_224"
    """Name of a model: ViT-B/16, vit_base_patch16 and vit_base_patch16_224 all parse."""
    weights: str = "auto"
    """Where to start: none is from scratch, auto chooses published weights for the data and the
    machine; else a MODEL, of which all but the head is taken, and ``model`` is then not read."""
    offline: bool = False
    """Never use the network: take published weights from the cache or not at all."""
    seed: int = 0
    """Decides the first weights, the order of images, augmentation and dropout."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Of matrix products; auto is bfloat16 on a GPU that has it, and float32 elsewhere. float16
    scales the loss, so that small gradients do not vanish (Micikevicius et al., 2018)."""
    compile: bool = False
    """Let torch.compile build kernels for the model: a minute or two first, then faster steps."""
    parallel: Literal["ddp", "fsdp"] = "ddp"
    """What several processes share, started by torchrun: ddp the gradients, fsdp the weights and
    the optimizer's state as well."""
    device: str = "auto"
    """auto takes cuda, else mps, else cpu."""
    init: str = "paper"
    """First weights: a key of ``tessera.nn.init.INITS``: paper, timm, mae."""
    objective: Literal["classify", "linear-probe"] = "classify"
    """classify trains by gradient; linear-probe fits the head alone, on features of the images as
    they are."""
    loss: Literal["cross-entropy", "bce"] = "cross-entropy"
    """Of classify: over all classes together, or binary for each class, summed over them (Beyer et
    al., 2020; Steiner et al., 2021)."""
    label_smoothing: float = 0.0
    """Probability mass spread over all classes (Szegedy et al., 2016)."""
    class_weights: Literal["none", "balanced"] = "none"
    """balanced weighs a class by the inverse of its number of training images."""
    grad_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    save_every: int | None = None
    """Steps between two saved states, besides those at every look; None is at looks only."""
    eval_every: float = 1.0
    """Epochs between two looks at the validation images."""
    patience: int | None = None
    """Looks without a lower validation loss after which the run ends; None is never."""
    tensorboard: bool = False
    """Write the log for TensorBoard as well, into the folder tensorboard of the run."""
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    distill: Distill = field(default_factory=Distill)
    arch: ViTOverrides = field(default_factory=ViTOverrides)

    def __post_init__(self) -> None:
        require(self, "seed", ("at least 0 and below 2**64", lambda n: 0 <= n < 2**64))
        require(self, "eval_every", POSITIVE)
        require(self, "save_every", AT_LEAST_1)
        require(self, "patience", AT_LEAST_1)
        require(self, "label_smoothing", ("in [0, 1)", lambda x: 0 <= x < 1))
        if self.precision == "float16" and self.optim.sam_rho:
            raise ValueError(
                "precision=float16 scales gradients, which optim.sam_rho measures\n"
                "hint: --precision bfloat16"
            )


def shipped() -> dict[str, Path]:
    """Return the recipes inside the package by name."""
    folder = Path(str(files("tessera") / "recipes"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def default_recipe(data: str, weights: str = "auto") -> Recipe:
    """Return the shipped recipe for a DATA argument when the user names none."""
    return load(default_recipe_name(data, weights))


def default_recipe_name(data: str, weights: str = "auto") -> str:
    """Return the name of that recipe."""
    if weights not in ("auto", "none"):
        return "finetune"
    return DEFAULTS.get(data, "scratch" if weights == "none" else "finetune")


def load(ref: str | Path, base: Recipe | None = None) -> Recipe:
    """Read a shipped recipe by name, or a TOML file by path, over the defaults.

    Raises:
        ValueError: No such recipe, no valid TOML, an unknown key, or a value of the wrong type.
    """
    known = shipped()
    path = known.get(str(ref), Path(ref))
    if not path.is_file():
        raise ValueError(
            f"no recipe {str(ref)!r}\nhint: shipped are {', '.join(known)}; or give a file"
        )
    try:
        changes = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no valid TOML: {error}") from error
    return merge(base or Recipe(), changes)


def merge(base: T, changes: dict[str, Any], prefix: str = "") -> T:
    """Replace fields of a dataclass tree.

    Args:
        changes: Nested as in TOML; lists stand for tuples, and ``"none"`` for None.

    Raises:
        ValueError: A name that the tree does not have, or a value of the wrong type.
    """
    known = {f.name: f for f in fields(base)}  # type: ignore[arg-type]
    new: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in known:
            close = get_close_matches(name, known, n=1)
            hint = (
                f"did you mean {prefix + close[0]!r}?" if close else f"known are {', '.join(known)}"
            )
            raise ValueError(f"recipe has no {prefix + name!r}\nhint: {hint}")
        old = getattr(base, name)
        if is_dataclass(old):
            if not isinstance(value, dict):
                raise ValueError(f"recipe: {prefix + name!r} is a table, not {value!r}")
            new[name] = merge(old, value, f"{prefix}{name}.")
        else:
            new[name] = coerce(f"recipe: {prefix}{name}", value, known[name].type)
    return replace(base, **new)  # type: ignore[type-var]


def nested(overrides: dict[str, Any]) -> dict[str, Any]:
    """Turn ``{"optim.lr": 3e-4}`` into ``{"optim": {"lr": 3e-4}}``.

    Raises:
        ValueError: A name is a value and a table at once.
    """
    tree: dict[str, Any] = {}
    for key, value in deepcopy(overrides).items():
        *parents, leaf = key.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(
                    f"{key!r} is given, and {parent!r} is {node!r}\nhint: give one of them"
                )
        node[leaf] = value
    return tree


def dumps(recipe: Recipe) -> str:
    """Write every value, given or default, as TOML that ``load`` reads back to an equal recipe."""
    tree, default = asdict(recipe), asdict(Recipe())
    lines = _rows({k: v for k, v in tree.items() if not isinstance(v, dict)}, default)
    for name, table in tree.items():
        if isinstance(table, dict) and (rows := _rows(table, default[name])):
            lines += ["", f"[{name}]", *rows]
    return "\n".join(lines) + "\n"


HARDWARE = {
    "compile",
    "data.eval_batch_size",
    "data.micro_batch_size",
    "data.workers",
    "device",
    "grad_checkpointing",
    "offline",
    "parallel",
    "tensorboard",
}
"""Settings that a run may be resumed with any value of: they change nothing but rounding."""


def difference(old: Recipe, new: Recipe) -> str:
    """Name the settings that differ, as they stand in the recipe file, but for ``HARDWARE``."""
    before, after = (tomllib.loads(dumps(r)) for r in (old, new))
    flat: list[dict[str, Any]] = []
    for tree in (before, after):
        tables = {k: v for k, v in tree.items() if isinstance(v, dict)}
        inner = {f"{t}.{k}": v for t, table in tables.items() for k, v in table.items()}
        flat.append({**{k: v for k, v in tree.items() if k not in tables}, **inner})
    keys = sorted((set(flat[0]) | set(flat[1])) - HARDWARE)
    changed = [k for k in keys if flat[0].get(k) != flat[1].get(k)]
    return ", ".join(f"{k} was {flat[0].get(k)}, now {flat[1].get(k)}" for k in changed)


def _rows(table: dict[str, Any], default: dict[str, Any]) -> list[str]:
    """One line a value. None is left out where it is the default, since TOML has no such value."""
    kept = {k: v for k, v in table.items() if v is not None or default[k] is not None}
    return [f"{k} = {_toml(v)}" for k, v in kept.items()]


def _toml(value: Any) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # A JSON string is a TOML string, but for DEL, which TOML alone wants escaped.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return f"[{', '.join(_toml(v) for v in value)}]"
    return repr(value)
