"""The optimizers that a recipe may name, all of them PyTorch's own."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tessera.optim.groups import parameter_groups
from tessera.recipe import Optim

Groups = list[dict[str, Any]]


class Together(Optimizer):
    """Several optimizers that step as one, each with parameters of its own.

    Args:
        parts: At least one.
    """

    def __init__(self, parts: Iterable[Optimizer]) -> None:
        self.parts = list(parts)
        self.defaults: dict[str, Any] = {}

    @property
    def param_groups(self) -> Groups:  # type: ignore[override]
        """All groups, which share the dictionaries of the parts."""
        return [group for part in self.parts for group in part.param_groups]

    @property
    def state(self) -> dict[Tensor, Any]:  # type: ignore[override]
        """What the parts remember of every parameter."""
        return {p: state for part in self.parts for p, state in part.state.items()}

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step with each."""
        for part in self.parts:
            part.step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of every part."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state of every part."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)


def _adamw(groups: Groups, optim: Optim, inside: set[int]) -> Optimizer:
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, fused=True)


def _adam(groups: Groups, optim: Optim, inside: set[int]) -> Optimizer:
    return torch.optim.Adam(groups, lr=optim.lr, betas=optim.betas, fused=True)


def _nadam(groups: Groups, optim: Optim, inside: set[int]) -> Optimizer:
    return torch.optim.NAdam(groups, lr=optim.lr, betas=optim.betas, decoupled_weight_decay=True)


def _radam(groups: Groups, optim: Optim, inside: set[int]) -> Optimizer:
    return torch.optim.RAdam(groups, lr=optim.lr, betas=optim.betas, decoupled_weight_decay=True)


def _sgd(groups: Groups, optim: Optim, inside: set[int]) -> Optimizer:
    return torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.nesterov)


def _adafactor(groups: Groups, optim: Optim, inside: set[int]) -> Optimizer:
    return torch.optim.Adafactor(groups, lr=optim.lr)


def _muon(groups: Groups, optim: Optim, inside: set[int]) -> Optimizer:
    """Muon for the matrices of the blocks, AdamW for all else, as Jordan et al. (2024) do.

    ``match_rms_adamw`` scales Muon's steps so that a rate suited to AdamW suits it as well.
    """
    matrices = _only(groups, lambda p: id(p) in inside)
    others = _only(groups, lambda p: id(p) not in inside)
    if not matrices:
        return _adamw(others, optim, inside)
    muon = torch.optim.Muon(
        matrices, lr=optim.lr, momentum=optim.momentum, adjust_lr_fn="match_rms_adamw"
    )
    return Together([muon, _adamw(others, optim, inside)]) if others else muon


def _only(groups: Groups, wanted: Callable[[Tensor], bool]) -> Groups:
    """Keep some of the parameters, and the groups that have any."""
    kept = [{**group, "params": [p for p in group["params"] if wanted(p)]} for group in groups]
    return [group for group in kept if group["params"]]


OPTIMIZERS: dict[str, Callable[[Groups, Optim, set[int]], Optimizer]] = {
    "adamw": _adamw,
    "adam": _adam,
    "nadam": _nadam,
    "radam": _radam,
    "sgd": _sgd,
    "adafactor": _adafactor,
    "muon": _muon,
}
"""By the names of a recipe; each gets the groups and the identities of the blocks' matrices."""


def make_optimizer(model: nn.Module, optim: Optim, *, depth: int = 0) -> Optimizer:
    """Build the optimizer that a recipe names, with decay for matrices and rates by layer."""
    groups = parameter_groups(model, optim.weight_decay, layer_decay=optim.layer_decay, depth=depth)
    blocks = {id(p) for name, p in model.named_parameters() if "blocks." in name and p.ndim == 2}
    return OPTIMIZERS[optim.name](groups, optim, blocks)
