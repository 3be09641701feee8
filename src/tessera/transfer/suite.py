"""The suite file: which data sets, and what is done with each, as TOML."""

import math
import re
import tomllib
from collections import Counter
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeVar

from tessera.evaluation.few_shot import PENALTY
from tessera.fields import coerce
from tessera.recipe import Recipe, merge
from tessera.settings import Data, Optim, Schedule

T = TypeVar("T")

Method = Literal["finetune", "few-shot", "linear"]

VTAB = {
    "caltech101": "natural",
    "cifar100": "natural",
    "dtd": "natural",
    "flowers102": "natural",
    "pets": "natural",
    "sun397": "natural",
    "svhn": "natural",
    "diabetic-retinopathy": "specialized",
    "eurosat": "specialized",
    "patch-camelyon": "specialized",
    "resisc45": "specialized",
    "clevr-count": "structured",
    "clevr-distance": "structured",
    "dmlab": "structured",
    "dsprites-location": "structured",
    "dsprites-orientation": "structured",
    "kitti-distance": "structured",
    "smallnorb-azimuth": "structured",
    "smallnorb-elevation": "structured",
}
"""The 19 tasks of VTAB by group (Zhai et al., 2019, "A large-scale study of representation
learning with the Visual Task Adaptation Benchmark", table 1)."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What tuning chooses from."""

    lr: tuple[float, ...]
    steps: tuple[int, ...]
    batch_size: int


SWEEPS = {
    "grid": Sweep(lr=(0.001, 0.003, 0.01, 0.03), steps=(500, 2500), batch_size=512),
    "paper": Sweep(lr=(0.01,), steps=(2500,), batch_size=512),
    "light": Sweep(lr=(0.01,), steps=(1000,), batch_size=64),
}
"""The rates and lengths that the paper fine-tunes small data sets with (Dosovitskiy et al., 2020,
table 4); its one setting for VTAB; the short one that VTAB's own code shows (task_adaptation)."""

WARMUP = 0.08
"""Share of the steps: 80 of 1,000 in task_adaptation, 200 of 2,500."""


@dataclass(frozen=True, kw_only=True)
class Finetune:
    """How every weight is trained; what is not given is the sweep's."""

    sweep: Literal["grid", "paper", "light"] = "grid"
    lr: tuple[float, ...] | None = None
    steps: tuple[int, ...] | None = None
    batch_size: int | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    """Other fields of the recipe, as in a recipe file."""

    def __post_init__(self) -> None:
        if any(not 0 < lr < math.inf for lr in self.lr or ()) or self.lr == ():
            raise ValueError(f"lr = {self.lr} must be positive numbers, at least one")
        if any(steps < 1 for steps in self.steps or ()) or self.steps == ():
            raise ValueError(f"steps = {self.steps} must be at least 1 each, at least one")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size = {self.batch_size} must be at least 1")

    @property
    def settings(self) -> tuple[tuple[float, int], ...]:
        """Pairs of learning rate and steps, all of which are tried."""
        known = SWEEPS[self.sweep]
        return tuple(product(self.lr or known.lr, self.steps or known.steps))

    def make_recipe(self, weights: str, *, lr: float, steps: int, seed: int) -> Recipe:
        """Return the recipe of one run: SGD, momentum 0.9, cosine, no decay, whole images.

        Raises:
            ValueError: The suite's own fields make no recipe.
        """
        batch = self.batch_size or SWEEPS[self.sweep].batch_size
        base = Recipe(
            weights=weights,
            seed=seed,
            eval_every=1e9,  # at the end alone, so that nothing is chosen among looks
            save_every=250,
            data=Data(batch_size=batch, crop="squash"),
            optim=Optim(name="sgd", lr=lr, weight_decay=0.0),
            schedule=Schedule(total_steps=steps, warmup_steps=round(WARMUP * steps)),
        )
        return merge(base, self.recipe)


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """Settings of the few-shot method."""

    shots: int = 5
    penalty: float = PENALTY

    def __post_init__(self) -> None:
        if self.shots < 1:
            raise ValueError(f"shots = {self.shots} must be at least 1")
        if not 0 < self.penalty < math.inf:
            raise ValueError(f"penalty = {self.penalty} must be positive and finite")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One data set."""

    name: str
    data: str
    """See ``tessera.data.sources.GRAMMAR``."""
    group: str = "all"
    split: str = "test"
    """What is measured, whole."""
    note: str = ""
    """What a reader of the number must know, such as that the images are a copy."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"\w[\w .+-]*", self.name):  # it becomes the name of a folder
            raise ValueError(f"name = {self.name!r} may hold letters, digits, spaces, and . + - _")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Everything that a suite file says."""

    name: str
    tasks: tuple[Task, ...]
    benchmark: Literal["none", "VTAB-1k"] = "none"
    """Whose tasks these are; names and groups are then checked."""
    method: Method = "finetune"
    train_images: int = 800
    """Trained on while tuning."""
    val_images: int = 200
    """Tuned on; the final run trains on both."""
    seeds: tuple[int, ...] = ()
    """Of draw and training; 0 for finetune, else 0, 1, 2, unless given."""
    preprocessing: Literal["model", "published"] = "model"
    """Of the frozen methods: the model's own, or resize 256, crop 224, pixels to [-1, 1]."""
    finetune: Finetune = field(default_factory=Finetune)
    few_shot: FewShot = field(default_factory=FewShot)

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError("it has no [[task]]")
        if self.train_images < 1 or self.val_images < 1:
            raise ValueError("train_images and val_images must be at least 1")
        if not self.seeds:
            object.__setattr__(self, "seeds", (0,) if self.method == "finetune" else (0, 1, 2))
        if min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds = {self.seeds} must be different and at least 0")
        twice = [name for name, n in Counter(task.name for task in self.tasks).items() if n > 1]
        if twice:
            raise ValueError(f"two tasks are called {twice[0]!r}")
        if self.benchmark == "VTAB-1k":
            for task in self.tasks:
                _check_vtab(task)

    @property
    def title(self) -> str:
        """What a table of it may be called: a subset says that it is one."""
        if self.benchmark == "none":
            count = f"{len(self.tasks)} task{'s' if len(self.tasks) > 1 else ''}"
            return f"{self.name}: {count} of our own choice"
        whole = len(self.tasks) == len(VTAB)
        share = "all 19 tasks" if whole else f"{len(self.tasks)} of 19 tasks"
        return f"{self.name}: VTAB-style, {share}"

    @property
    def images_in_training(self) -> int:
        """Images of the final run."""
        return self.train_images + self.val_images


def read_suite(path: str | Path) -> Suite:
    """Read a suite file.

    Raises:
        ValueError: No such file, no valid TOML, or something in it that makes no suite; the message
            names the file and the place.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ValueError(f"no suite file at {str(path)!r}\nhint: docs/guides/transfer.md shows one")
    try:
        tree = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no valid TOML: {error}") from error
    try:
        return _suite(tree, file.stem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _suite(tree: dict[str, Any], stem: str) -> Suite:
    values = {"name": stem, **tree}
    rows = values.pop("task", [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("tasks are tables of their own: write [[task]] above each")
    tables: dict[str, Any] = {}
    for key, kind in (("finetune", Finetune), ("few-shot", FewShot)):
        table = values.pop(key, {})
        if not isinstance(table, dict):
            raise ValueError(f"{key!r} is a table, not {table!r}")
        tables[key.replace("-", "_")] = _build(kind, table, f"[{key}]")
    tasks = []
    for number, row in enumerate(rows, 1):
        where = f"[[task]] {row.get('name', number)}"
        if values.get("benchmark") == "VTAB-1k":
            row = {"group": VTAB.get(str(row.get("name")), "all"), **row}
        tasks.append(_build(Task, row, where))
    suite = _build(Suite, values, "the suite", tasks=tuple(tasks), **tables)
    _check_recipe(suite)
    return suite


def _build(kind: type[T], table: dict[str, Any], where: str, **ready: Any) -> T:
    """Make a dataclass from a table, and say where in the file something is wrong."""
    known = {f.name: f for f in fields(kind) if f.name not in ready}  # type: ignore[arg-type]
    typed: dict[str, Any] = {}
    try:
        for name, value in table.items():
            if name not in known:
                close = get_close_matches(name, known, n=1)
                guess = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"
                raise ValueError(f"there is no {name!r}\nhint: {guess}")
            typed[name] = value if known[name].type == dict[str, Any] else None
            typed[name] = typed[name] or coerce(name, value, known[name].type)
        missing = [n for n in ("name", "data") if n in known and n not in table]
        if missing:
            raise ValueError(f"{missing[0]!r} is missing")
        return kind(**ready, **typed)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _check_vtab(task: Task) -> None:
    if task.name not in VTAB:
        raise ValueError(
            f"{task.name!r} is no task of VTAB-1k\nhint: these are {', '.join(VTAB)}; leave "
            "benchmark out for data of your own"
        )
    if task.group != VTAB[task.name]:
        raise ValueError(f"{task.name!r} is in VTAB's group {VTAB[task.name]}, not {task.group!r}")


def _check_recipe(suite: Suite) -> None:
    """Refuse, before any work, fields of the recipe that are wrong or not the suite's to set."""
    own = {
        "": ("weights", "model", "seed", "objective", "eval_every"),
        "optim": ("lr",),
        "schedule": ("total_steps", "epochs"),
        "data": ("batch_size", "folds", "fold", "exclude", "val_fraction"),
    }
    tree = suite.finetune.recipe
    for table, names in own.items():
        inner = tree.get(table, {}) if table else tree
        taken = [name for name in names if isinstance(inner, dict) and name in inner]
        if taken:
            raise ValueError(
                f"[finetune.recipe]: {taken[0]!r} is the suite's own\n"
                "hint: rates, steps and batch size stand in [finetune], seeds at the top"
            )
    lr, steps = suite.finetune.settings[0]
    try:
        suite.finetune.make_recipe("none", lr=lr, steps=steps, seed=suite.seeds[0])
    except ValueError as error:
        raise ValueError(f"[finetune.recipe]: {error}") from error
