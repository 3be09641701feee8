"""How a model is trained, as data: a typed tree that TOML files and flags narrow."""

import json
import math
import tomllib
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar

from tessera.config import ViTOverrides
from tessera.fields import coerce

T = TypeVar("T")

Policy = Literal[
    "none",
    "randaugment",
    "randaugment-big-vision",
    "randaugment-timm",
    "trivialaugment",
    "autoaugment-cifar",
    "autoaugment-imagenet",
    "three-augment",
]

DEFAULTS = {"digits": "digits"}
"""Shipped recipe by DATA; all else is photographs, fine-tuned or from scratch."""

Rule = tuple[str, Callable[[Any], bool]]
"""What is wanted of a value, in words and as a test, which NaN fails."""

AT_LEAST_1: Rule = ("at least 1", lambda n: n >= 1)
POSITIVE: Rule = ("greater than 0 and finite", lambda x: 0 < x < math.inf)
NOT_NEGATIVE: Rule = ("at least 0 and finite", lambda x: 0 <= x < math.inf)
SHARE: Rule = ("in [0, 1]", lambda x: 0 <= x <= 1)
SHARES: Rule = (
    "a low and a high with 0 < low <= high <= 1",
    lambda pair: 0 < pair[0] <= pair[1] <= 1,
)
RATIOS: Rule = (
    "a low and a high with 0 < low <= high",
    lambda pair: 0 < pair[0] <= pair[1] < math.inf,
)


def _require(table: Any, name: str, rule: Rule) -> None:
    """Refuse, before a run, a value that would break it later; None is always fine."""
    wanted, holds = rule
    value = getattr(table, name.rpartition(".")[2])
    if value is not None and not holds(value):
        raise ValueError(f"{name}={value} must be {wanted}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Which images are seen, and how many at a time."""

    batch_size: int = 64
    """Images per optimizer step, over all devices and micro-batches."""
    micro_batch_size: int | None = None
    """Images per forward pass; changes memory, never results. None is the whole batch."""
    eval_batch_size: int = 256
    """Images per forward pass when measuring."""
    workers: int | None = None
    """Processes that decode images; 0 is none, None fits the machine and the data."""
    val_fraction: float = 0.15
    """Share of the training images kept for validation where the data has no such split."""
    folds: int | None = None
    """Cut the training images into so many folds instead, one of which is validation."""
    fold: int = 0
    """Which of the folds that is, from 0."""
    near_duplicates: bool | None = None
    """Keep images that look alike on one side of that cut; None does so up to 20,000 images."""
    exclude: str | None = None
    """A CSV whose column ``image`` names images to leave out, such as the doctor's."""
    crop: Literal["auto", "crop", "squash", "letterbox", "native"] = "auto"
    """How evaluation makes images of any shape fit; auto does as the weights want it, else crop."""
    balanced: bool = False
    """Draw every class equally often, the images of rare ones again and again."""
    bad_share: float = 0.05
    """Share of images that may be unreadable: they are named and replaced; more ends the run."""

    def __post_init__(self) -> None:
        for name in ("data.batch_size", "data.micro_batch_size", "data.eval_batch_size"):
            _require(self, name, AT_LEAST_1)
        _require(self, "data.folds", ("at least 2", lambda n: n >= 2))
        _require(self, "data.bad_share", SHARE)
        if not 0 <= self.fold < (self.folds or 1):
            raise ValueError(
                f"data.fold={self.fold} must be at least 0 and below data.folds={self.folds}"
            )
        _require(self, "data.workers", NOT_NEGATIVE)
        _require(self, "data.val_fraction", ("between 0 and 1", lambda x: 0 < x < 1))


@dataclass(frozen=True, kw_only=True, slots=True)
class Augment:
    """What is done to a training image, and to no other."""

    crop_scale: tuple[float, float] | None = None
    """Share of the area that a random resized crop keeps (Szegedy et al., 2015); None: no crop."""
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    """Aspect ratios of that crop."""
    flip: float = 0.0
    """Probability of a left-right flip."""
    shift: float = 0.0
    """Largest translation, as a share of the side."""
    rotate: float = 0.0
    """Largest rotation, in degrees."""
    zoom: float = 0.0
    """Largest change of scale: 0.1 is between 1/1.1 and 1.1."""
    policy: Policy = "none"
    """Published mixture of operations on shape and colour; see docs/guides/data.md."""
    num_ops: int = 2
    """Operations that a RandAugment applies to an image."""
    magnitude: float = 9.0
    """Strength of a RandAugment; the scale is the policy's own, 10 is much."""
    augreg: Literal["none", "light1", "light2", "medium1", "medium2", "strong1", "strong2"] = "none"
    """A level of "How to train your ViT?" (Steiner et al., 2021): sets policy and mixup."""
    color_jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation."""
    erasing: float = 0.0
    """Probability that a rectangle is filled with noise (Zhong et al., 2020)."""
    repeats: int = 1
    """Versions of an image in the same stretch of batches (Hoffer et al., 2020)."""
    mixup: float = 0.0
    """Beta-distribution parameter of mixup (Zhang et al., 2018); 0 is off."""
    cutmix: float = 0.0
    """Beta-distribution parameter of cutmix (Yun et al., 2019); 0 is off."""
    mix_prob: float = 1.0
    """Share of the batches that are mixed at all."""
    mix_switch: float = 0.5
    """Where both are on, share of the mixed batches that get cutmix."""
    on_device: bool = False
    """Crop, flip, move and erase whole batches on the training device instead of image by image."""

    def __post_init__(self) -> None:
        for name in ("flip", "shift", "erasing", "mix_prob", "mix_switch"):
            _require(self, f"augment.{name}", SHARE)
        for name in ("rotate", "zoom", "mixup", "cutmix", "magnitude", "color_jitter"):
            _require(self, f"augment.{name}", NOT_NEGATIVE)
        for name in ("augment.num_ops", "augment.repeats"):
            _require(self, name, AT_LEAST_1)
        if self.augreg != "none" and (self.policy != "none" or self.mixup):
            raise ValueError(
                f"augment.augreg={self.augreg} sets policy and mixup, which are given as well"
            )
        if self.on_device and (self.policy, self.augreg, self.color_jitter) != ("none", "none", 0):
            raise ValueError(
                "augment.on_device knows crop, flip, moves and erasing, not policies or colours"
            )
        _require(self, "augment.crop_scale", SHARES)
        _require(self, "augment.crop_ratio", RATIOS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Optim:
    """The optimizer and what surrounds it."""

    name: Literal["adamw", "adam", "nadam", "radam", "sgd", "adafactor", "muon"] = "adamw"
    """PyTorch's; muon orthogonalises the matrices of the blocks and leaves the rest to adamw."""
    momentum: float = 0.9
    """Of sgd and muon."""
    nesterov: bool = False
    """Look-ahead momentum, for sgd."""
    lr: float = 1e-3
    """Peak learning rate, as the optimizer sees it; never rescaled behind your back."""
    weight_decay: float = 0.05
    """Multiplied by the rate, and applied to matrices only: not to biases, norms and tokens."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running averages of the gradient and of its square."""
    clip_grad_norm: float | None = 1.0
    """Largest norm of the whole gradient; None is off."""
    layer_decay: float = 1.0
    """Factor on the rate from each block to the one below (Clark et al., 2020); 1 is off."""
    ema_decay: float | None = None
    """Average the weights over steps with this decay, and use the average; None is off."""
    head_only_epochs: float = 0.0
    """Passes at the beginning in which only the head learns, so that it is not the backbone that
    follows a random head."""

    def __post_init__(self) -> None:
        _require(self, "optim.lr", POSITIVE)
        _require(self, "optim.momentum", ("in [0, 1)", lambda x: 0 <= x < 1))
        if self.nesterov and not self.momentum:
            raise ValueError("optim.nesterov wants optim.momentum greater than 0")
        _require(self, "optim.clip_grad_norm", POSITIVE)
        for name in ("optim.weight_decay", "optim.head_only_epochs"):
            _require(self, name, NOT_NEGATIVE)
        _require(self, "optim.layer_decay", POSITIVE)
        _require(self, "optim.ema_decay", SHARE)
        each = ("in [0, 1), each", lambda pair: all(0 <= beta < 1 for beta in pair))
        _require(self, "optim.betas", each)


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Learning rate over steps."""

    epochs: float = 30.0
    """Passes over the training images; steps are round(images / batch_size * epochs)."""
    total_steps: int | None = None
    """Optimizer steps; when given, epochs is not read."""
    warmup_steps: int = 50
    """Steps of linear growth from 0 to the peak; at most a fifth of all."""
    shape: Literal["cosine", "linear", "constant", "rsqrt"] = "cosine"
    """Way down from the peak; rsqrt falls with the root of the steps since warm-up began."""
    cooldown_steps: int = 0
    """Last steps of constant and rsqrt, in which the rate falls linearly to the final one."""
    final_lr: float = 0.0
    """Rate after the last step."""

    def __post_init__(self) -> None:
        _require(self, "schedule.epochs", POSITIVE)
        _require(self, "schedule.total_steps", AT_LEAST_1)
        for name in ("schedule.warmup_steps", "schedule.cooldown_steps"):
            _require(self, name, NOT_NEGATIVE)
        _require(self, "schedule.final_lr", NOT_NEGATIVE)


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
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; auto is bfloat16 on a GPU that has it, and float32 elsewhere."""
    device: str = "auto"
    """auto takes cuda, else mps, else cpu."""
    init: str = "paper"
    """First weights: a key of ``tessera.nn.init.INITS``: paper, timm, mae."""
    objective: Literal["classify", "linear-probe"] = "classify"
    """classify trains by gradient; linear-probe fits the head alone, on features of the images as
    they are."""
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
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    optim: Optim = field(default_factory=Optim)
    schedule: Schedule = field(default_factory=Schedule)
    arch: ViTOverrides = field(default_factory=ViTOverrides)

    def __post_init__(self) -> None:
        _require(self, "seed", ("at least 0 and below 2**64", lambda n: 0 <= n < 2**64))
        _require(self, "eval_every", POSITIVE)
        _require(self, "save_every", AT_LEAST_1)
        _require(self, "label_smoothing", ("in [0, 1)", lambda x: 0 <= x < 1))


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


def difference(old: Recipe, new: Recipe) -> str:
    """Name the settings that differ, as they stand in the recipe file."""
    before, after = (tomllib.loads(dumps(r)) for r in (old, new))
    flat: list[dict[str, Any]] = []
    for tree in (before, after):
        tables = {k: v for k, v in tree.items() if isinstance(v, dict)}
        inner = {f"{t}.{k}": v for t, table in tables.items() for k, v in table.items()}
        flat.append({**{k: v for k, v in tree.items() if k not in tables}, **inner})
    keys = sorted(set(flat[0]) | set(flat[1]))
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
