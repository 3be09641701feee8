"""Where this process computes, and which other processes of torchrun compute with it.

In a run of one process all of this is the identity.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

_stores: list[Any] = []
"""What the processes that have joined can count in, also when they have left."""


def pick_device(name: str) -> torch.device:
    """Turn ``auto`` into the best device at hand; each process of torchrun gets a GPU of its own.

    Raises:
        ValueError: The named device is not there.
    """
    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    if name == "cuda" and world_size() > 1:
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used here\nhint: try auto or cpu") from error
    return device


@contextmanager
def joined(device: str) -> Iterator[None]:
    """Join the other processes where torchrun started this one; leave them at the end.

    Args:
        device: As in a recipe; CUDA devices talk through NCCL, all others through gloo.
    """
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1 or is_joined():
        yield
        return
    on_cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if on_cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_cuda else "gloo")
    _stores.append(dist.distributed_c10d._get_default_store())
    try:
        yield
        wait_for_all()  # gloo aborts a process whose peer has left
    finally:
        dist.destroy_process_group()


def says_first(message: str) -> bool:
    """Whether no other process has said this yet: an error of all is to be read once."""
    if not _stores:
        return is_main()
    try:
        return _stores[-1].add(f"tessera/{message}", 1) == 1
    except RuntimeError:  # the process that kept the count is gone
        return True


def is_joined() -> bool:
    """Whether this process works with others."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """Return the number of this process, from 0, also before it has joined the others."""
    return dist.get_rank() if is_joined() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Return how many processes work together."""
    return dist.get_world_size() if is_joined() else 1


def is_main() -> bool:
    """Whether this is the process that speaks and writes."""
    return rank() == 0


def wait_for_all() -> None:
    """Go on when every process is here."""
    if is_joined():
        dist.barrier()


@contextmanager
def main_first() -> Iterator[None]:
    """Let the main process do it first, so that the others find what it has left on the disk."""
    if not is_main():
        wait_for_all()
    yield
    if is_main():
        wait_for_all()


def sum_over_all(values: Tensor) -> Tensor:
    """Return the sum of a tensor over all processes."""
    if is_joined():
        values = values.clone()
        dist.all_reduce(values)
    return values


def any_of_all(here: bool) -> bool:
    """Return whether it holds in some process."""
    if not is_joined():
        return here
    flag = torch.tensor(int(here))
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag)


def in_lockstep(items: Iterable[T]) -> Iterator[T | None]:
    """Yield items until every process has had all of its own; None when this one has no more."""
    if not is_joined():
        yield from items
        return
    iterator = iter(items)
    while True:
        item = next(iterator, None)
        if not any_of_all(item is not None):
            return
        yield item


def gather_from_all(value: Any) -> list[Any]:
    """Return the values of all processes, in the order of their ranks."""
    if not is_joined():
        return [value]
    found: list[Any] = [None] * world_size()
    dist.all_gather_object(found, value)
    return found
