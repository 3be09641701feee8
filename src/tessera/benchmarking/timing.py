"""Fair clocks: cases take turns, so that a slow moment of the machine hits them all."""

import random
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch

K = TypeVar("K", bound=Hashable)


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def interleave(
    cases: Mapping[K, Callable[[], object]],
    *,
    rounds: int,
    seconds: float,
    device: torch.device,
    limit: float | None = None,
    done: Callable[[int], None] = lambda pieces: None,
    seed: int = 0,
) -> dict[K, list[list[float]]]:
    """Time cases in rounds, in another random order each round, after a call or two to warm up.

    Args:
        cases: What to call, by any key.
        rounds: At least 1.
        seconds: For at least so long each case is called in each round, and at least once.
        limit: Seconds after which no further round begins, the first two excepted.
        done: Is told how many pieces of work have been done; there are ``rounds + 1`` a case.

    Returns:
        Seconds of every call, by round.
    """
    calls: dict[K, int] = {}
    for key, case in cases.items():
        took = _time(case, device)
        if took < 1:  # the first call allocates and compiles; of a long one that is a small part
            took = _time(case, device)
        calls[key] = max(1, round(seconds / took))
        done(1)
    found: dict[K, list[list[float]]] = {key: [] for key in cases}
    shuffle, order = random.Random(seed).shuffle, list(cases)
    start = time.perf_counter()
    for number in range(rounds):
        if limit is not None and number > 1 and time.perf_counter() - start > limit:
            done((rounds - number) * len(cases))
            break
        shuffle(order)
        for key in order:
            found[key].append([_time(cases[key], device) for _ in range(calls[key])])
            done(1)
    return found


def _time(case: Callable[[], object], device: torch.device) -> float:
    synchronise(device)
    start = time.perf_counter()
    case()
    synchronise(device)
    return time.perf_counter() - start
