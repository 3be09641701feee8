"""How tensors of another layout become ours, and back: rules, and one strict function each way.

A rule names our tensors and theirs; ``{i}`` stands for the block index. A rule whose tensors our
config does not have is skipped, so one table serves every variant of a layout. After all rules
every tensor of ours must be filled and every one of theirs used, or dropped by name.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

State = dict[str, Tensor]

Move = Callable[..., Sequence[Tensor]]


class CheckpointError(ValueError):
    """A checkpoint that cannot be read as what it seems to be."""


def keep(*tensors: Tensor) -> Sequence[Tensor]:
    """Take the tensors as they are."""
    return tensors


class Rule(NamedTuple):
    """Our tensors from theirs, and theirs from ours."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    read: Move = keep
    """Theirs to ours, in the order of the names."""
    write: Move = keep
    """Ours to theirs."""


class Drop(NamedTuple):
    """A tensor of theirs that is left out on purpose."""

    pattern: str
    """Regular expression for the whole name."""
    why: str


@dataclass(frozen=True)
class Conversion:
    """What reading a checkpoint did."""

    state: State
    read: int
    """Tensors of theirs that were used."""
    dropped: tuple[tuple[str, str], ...]
    """Names of theirs that were left out, and why."""
    zeros: tuple[str, ...]
    """Names of ours that theirs does not have and that are zero, which is exact."""


def pair(ours: str, theirs: str) -> tuple[Rule, Rule]:
    """Rules for the weight and the bias of a layer."""
    first, second = (Rule((f"{ours}.{p}",), (f"{theirs}.{p}",)) for p in ("weight", "bias"))
    return first, second


def pairs(names: Mapping[str, str]) -> tuple[Rule, ...]:
    """Rules for weights and biases of many layers, ours by theirs."""
    return tuple(rule for ours, theirs in names.items() for rule in pair(ours, theirs))


def packed(
    ours: str, theirs: Sequence[str], parts: Sequence[str] = ("weight", "bias")
) -> tuple[Rule, ...]:
    """Rules for one layer of ours that is several of theirs, stacked by output: q, k and v."""
    count = len(theirs)
    return tuple(
        Rule(
            (f"{ours}.{part}",),
            tuple(f"{name}.{part}" for name in theirs),
            lambda *tensors: (torch.cat(tensors),),
            lambda tensor: tensor.chunk(count),
        )
        for part in parts
    )


def convert(
    theirs: State,
    rules: Sequence[Rule],
    shapes: Mapping[str, torch.Size],
    depth: int,
    *,
    drops: Sequence[Drop] = (),
    zeros: Sequence[str] = (),
) -> Conversion:
    """Rename and reshape a checkpoint.

    Args:
        shapes: Every tensor of ours with its shape.
        drops: What may be left out of theirs.
        zeros: What theirs may lack because it is zero there, such as a bias; ``{i}`` allowed.

    Raises:
        CheckpointError: A tensor of theirs is used by no rule, one of ours is not filled, or a
            shape differs.
    """
    ours: State = {}
    used: set[str] = set()
    for rule in expand(rules, depth):
        wanted = [name for name in rule.ours if name in shapes and name not in ours]
        if not wanted or any(name not in theirs for name in rule.theirs):
            continue
        ours.update(zip(rule.ours, rule.read(*(theirs[n] for n in rule.theirs)), strict=True))
        used.update(rule.theirs)
    allowed = {name.replace("{i}", str(i)) for name in zeros for i in range(depth)}
    filled = sorted(name for name in allowed if name in shapes and name not in ours)
    ours.update({name: torch.zeros(shapes[name]) for name in filled})
    dropped = _drop(set(theirs) - used, drops)
    _refuse_leftovers(sorted(set(theirs) - used - set(dropped)), sorted(set(shapes) - set(ours)))
    for name, shape in shapes.items():
        if ours[name].shape != shape:
            raise CheckpointError(
                f"the checkpoint's {name} would be {tuple(ours[name].shape)}, not {tuple(shape)}"
            )
    state = {name: ours[name].contiguous() for name in shapes}
    return Conversion(state, len(used), tuple(dropped.items()), tuple(filled))


def revert(ours: State, rules: Sequence[Rule], depth: int, *, zeros: Sequence[str] = ()) -> State:
    """Write our tensors in another layout.

    Raises:
        CheckpointError: A tensor of ours has no place there.
    """
    theirs: State = {}
    placed: set[str] = set()
    for rule in expand(rules, depth):
        if all(n in ours for n in rule.ours) and not placed.issuperset(rule.ours):
            tensors = rule.write(*(ours[n] for n in rule.ours))
            theirs.update(zip(rule.theirs, (t.contiguous() for t in tensors), strict=True))
            placed.update(rule.ours)
    allowed = {name.replace("{i}", str(i)) for name in zeros for i in range(depth)}
    lost = [n for n in ours if n not in placed and not (n in allowed and not ours[n].any())]
    if lost:
        raise CheckpointError(f"that layout has no place for {', '.join(sorted(lost)[:3])}")
    return theirs


def expand(rules: Sequence[Rule], depth: int) -> list[Rule]:
    """Write the rules out for every block."""
    found = []
    for rule in rules:
        repeated = "{i}" in "".join(rule.ours + rule.theirs)
        for i in range(depth if repeated else 1):
            ours, theirs = (
                tuple(name.replace("{i}", str(i)) for name in names)
                for names in (rule.ours, rule.theirs)
            )
            found.append(rule._replace(ours=ours, theirs=theirs))
    return found


def _drop(names: set[str], drops: Sequence[Drop]) -> dict[str, str]:
    dropped = {}
    for name in sorted(names):
        for pattern, why in drops:
            if re.fullmatch(pattern, name):
                dropped[name] = why
                break
    return dropped


def _refuse_leftovers(unused: list[str], unfilled: list[str]) -> None:
    for names, what in (
        (unfilled, "the checkpoint lacks what is needed for"),
        (unused, "the checkpoint has tensors that no rule reads:"),
    ):
        if names:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            raise CheckpointError(f"{what} {', '.join(names[:4])}{more}")
