"""The whole state of a run as named tensors and a few numbers, and the files that hold it.

One process, or several that each have all weights, write one file. Processes that have a share of
each weight write their shares side by side. Either can be read by any number of processes.
"""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_shares
from torch.distributed.checkpoint.state_dict_saver import save as save_shares
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from tessera.checkpoint.artifact import write_atomically
from tessera.devices import is_joined, is_main, wait_for_all
from tessera.objectives.base import Objective
from tessera.optim.ema import Average

CHECKPOINT = Path("checkpoints") / "last.pt"
SHARDED = Path("checkpoints") / "last.json"
"""Which folder of shares is the last whole one; renamed into place when all of it is written."""


class Saved(NamedTuple):
    """What a file holds, or will hold."""

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]
    """As JSON knows them."""


class Parts(NamedTuple):
    """Whatever has tensors that a run cannot go on without."""

    objective: Objective
    optimizer: Optimizer
    average: Average | None

    def tensors(self) -> dict[str, Tensor]:
        """Return all of them by name; none is copied."""
        found = {f"objective/{n}": t for n, t in self.objective.state_dict().items()}
        if self.average is not None:
            found |= {f"average/{n}": t for n, t in self.average.weights.items()}
        for name, parameter in self.objective.named_parameters():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    found[f"optimizer/{name}/{key}"] = value
        return found

    @torch.no_grad()
    def take(self, tensors: dict[str, Tensor]) -> None:
        """Take over saved tensors, whole ones or shares."""
        own = self.tensors()
        for name in own:
            if not name.startswith("optimizer/"):
                own[name].copy_(_like(own[name], tensors[name]))
        for name, parameter in self.objective.named_parameters():
            start = f"optimizer/{name}/"
            state = {k.removeprefix(start): t for k, t in tensors.items() if k.startswith(start)}
            if state:
                self._restore(parameter, state)

    def _restore(self, parameter: nn.Parameter, state: dict[str, Tensor]) -> None:
        for part in getattr(self.optimizer, "parts", [self.optimizer]):
            for group in part.param_groups:
                if not any(p is parameter for p in group["params"]):
                    continue
                on_device = group.get("fused") or group.get("capturable")
                part.state[parameter] = {
                    key: (t if on_device else t.cpu()) if t.ndim == 0 else _like(parameter, t)
                    for key, t in state.items()
                }


def exists(folder: Path) -> bool:
    """Whether a run has saved a state."""
    return (folder / CHECKPOINT).is_file() or (folder / SHARDED).is_file()


def save(folder: Path, parts: Parts, numbers: dict[str, Any]) -> None:
    """Write the state; the last one stays until this one is whole. All processes must call it."""
    tensors = parts.tensors()
    if any(isinstance(t, DTensor) for t in tensors.values()):
        _save_shares(folder, tensors, numbers)
    elif is_main():
        saved = {"tensors": tensors, "numbers": numbers}
        write_atomically(folder / CHECKPOINT, lambda part: torch.save(saved, part))
        _remove_shares(folder, keep=None)
    wait_for_all()


def load(folder: Path, parts: Parts, device: torch.device) -> dict[str, Any]:
    """Read the last state into the parts; return its numbers."""
    pointer, path = folder / SHARDED, folder / CHECKPOINT
    shares = json.loads(pointer.read_text(encoding="utf-8")) if pointer.is_file() else None
    single = None
    if path.is_file():
        single = torch.load(path, map_location=device, weights_only=True)
    if single is not None and (shares is None or single["numbers"]["step"] >= shares["step"]):
        saved = Saved(single["tensors"], single["numbers"])
    else:
        assert shares is not None, "callers ask whether a state exists"
        saved = _read_shares(path.parent / shares["folder"], parts, device)
    parts.take(saved.tensors)
    return saved.numbers


def _save_shares(folder: Path, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    place = folder / SHARDED.parent / f"step-{numbers['step']}"
    if is_main():
        shutil.rmtree(place, ignore_errors=True)  # what a killed run left half written
    wait_for_all()
    save_shares(dict(tensors), checkpoint_id=place)
    if is_main():
        (place / "numbers.json").write_text(json.dumps(numbers), encoding="utf-8")
        text = json.dumps({"folder": place.name, "step": numbers["step"]})
        write_atomically(folder / SHARDED, lambda part: part.write_text(text, encoding="utf-8"))
        _remove_shares(folder, keep=place)
        (folder / CHECKPOINT).unlink(missing_ok=True)


def _remove_shares(folder: Path, keep: Path | None) -> None:
    if keep is None:
        (folder / SHARDED).unlink(missing_ok=True)
    for old in (folder / SHARDED.parent).glob("step-*"):
        if old != keep:
            shutil.rmtree(old, ignore_errors=True)


def _read_shares(place: Path, parts: Parts, device: torch.device) -> Saved:
    numbers = json.loads((place / "numbers.json").read_text(encoding="utf-8"))
    found = FileSystemReader(place).read_metadata().state_dict_metadata
    own = parts.tensors()
    parameters = dict(parts.objective.named_parameters())
    wanted: dict[str, Tensor] = {}
    for key, facts in found.items():
        assert isinstance(facts, TensorStorageMetadata)
        parameter = parameters.get(key.split("/")[1])
        like = parameter if key.startswith("optimizer/") and facts.size else own.get(key)
        if isinstance(like, DTensor):
            wanted[key] = torch.zeros_like(like, dtype=facts.properties.dtype)
        else:
            wanted[key] = torch.zeros(facts.size, dtype=facts.properties.dtype, device=device)
    load_shares(cast(dict[str, Any], wanted), checkpoint_id=place, no_dist=not is_joined())
    return Saved(wanted, numbers)


def whole(tensor: Tensor) -> Tensor:
    """Return a tensor with all its shares; all processes must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _like(own: Tensor, saved: Tensor) -> Tensor:
    """Cut a whole tensor into shares where its place has shares, or put shares together."""
    if not isinstance(own, DTensor):
        return whole(saved).to(own.device)
    if isinstance(saved, DTensor):
        return saved
    return distribute_tensor(saved.to(own.device), own.device_mesh, own.placements)
