"""The measurement behind ``tessera bench``."""

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from itertools import product
from typing import Any

import torch

from tessera.benchmarking.counts import Peak, count_macs, find_peak, matrix_product
from tessera.benchmarking.memory import ask_child
from tessera.benchmarking.timing import interleave
from tessera.benchmarking.work import (
    MODES,
    TASKS,
    Case,
    Subject,
    compiling,
    open_model,
    require_compiler,
)
from tessera.report.environment import environment


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure, and how long."""

    models: tuple[str, ...]
    batch_sizes: tuple[int, ...]
    modes: tuple[str, ...]
    tasks: tuple[str, ...]
    rounds: int = 5
    seconds: float = 0.5
    """For at least so long a case is called in each round."""
    memory: bool = True
    offline: bool = False

    def __post_init__(self) -> None:
        for name in ("models", "batch_sizes", "modes", "tasks"):
            if not getattr(self, name):
                raise ValueError(f"no {name.replace('_', ' ')} given")
        for mode in self.modes:
            _known("mode", mode, tuple(MODES))
        for task in self.tasks:
            _known("task", task, TASKS)
        for batch_size in self.batch_sizes:
            if batch_size < 1:
                raise ValueError(f"batch size {batch_size} must be at least 1")
        if self.rounds < 1 or not self.seconds > 0:
            raise ValueError(
                f"rounds={self.rounds} must be at least 1 and seconds={self.seconds} more than 0"
            )

    def cases(self) -> list[Case]:
        """Return every combination, without repetitions."""
        every = product(self.models, self.tasks, self.modes, self.batch_sizes)
        return list(dict.fromkeys(Case(*values) for values in every))


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was found of one case."""

    case: Case
    images_per_second: float
    """Batch size over the median latency."""
    latency_ms: float
    """Median over all calls of all rounds."""
    latency_p90_ms: float
    calls: int
    peak_memory: int | None
    """Bytes: weights, and what three calls need; see ``Meter``."""
    gmac: float
    """Billions of multiply-accumulates of one image; see ``count_macs``."""
    mfu: float | None
    """Share of the peak: 2 GMAC images/s / peak in a forward pass, thrice that in training."""
    logit_difference: float | None
    """Largest distance of a logit from float32's, in this run; None for float32 and training."""

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON holds."""
        return {**asdict(self.case), **{k: v for k, v in vars(self).items() if k != "case"}}


@dataclass(frozen=True)
class Report:
    """All rows, and where they were measured."""

    rows: list[Row]
    peaks: dict[str, Peak | None]
    """By mode."""
    plan: Plan
    environment: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return what JSON holds."""
        peaks = {mode: peak and peak._asdict() for mode, peak in self.peaks.items()}
        return {
            "environment": self.environment,
            "threads": self.environment["threads"],
            "plan": asdict(self.plan),
            "peaks": peaks,
            "rows": [row.as_dict() for row in self.rows],
        }


def bench(
    plan: Plan, device: torch.device, *, done: Callable[[int], None] = lambda pieces: None
) -> Report:
    """Measure every case: time in interleaved rounds, memory in a process of its own.

    Args:
        done: Is told how many pieces of work have been done; there are ``pieces(plan, device)``.

    Raises:
        ValueError: No such model, or a training step of a model without a head.
        RunError: Weights cannot be fetched, or a compiler is missing or fails.
    """
    cases = plan.cases()
    if any(MODES[case.mode].compiled for case in cases):
        require_compiler(device)
    subjects = {}
    for ref in plan.models:
        own = [case for case in cases if case.model == ref]
        subjects[ref] = Subject(open_model(ref, offline=plan.offline), device, own)
    macs = {ref: count_macs(subject.config) for ref, subject in subjects.items()}
    on_cpu = device.type == "cpu"
    products = {
        MODES[mode].dtype: matrix_product(MODES[mode].dtype) for mode in plan.modes if on_cpu
    }
    work = {case: subjects[case.model].work(case) for case in cases}
    with compiling():
        differences = {case: _difference(subjects[case.model], case) for case in cases}
        times = interleave(
            {**work, **products},
            rounds=plan.rounds,
            seconds=plan.seconds,
            device=device,
            done=done,
        )
    calls = {key: [t for each in rounds for t in each] for key, rounds in times.items()}
    peaks = {mode: find_peak(device, calls.get(MODES[mode].dtype, ())) for mode in plan.modes}
    found = environment(device)
    del work, subjects  # the processes that follow need the memory
    rows = []
    for case in cases:
        memory = _memory(case, device, plan) if plan.memory else None
        done(1)
        numbers = (macs[case.model], peaks[case.mode], memory, differences[case])
        rows.append(_row(case, calls[case], *numbers))
    return Report(rows, peaks, plan, found)


def pieces(plan: Plan, device: torch.device) -> int:
    """Return how many pieces of work a plan has, for a progress bar.

    Each case is warmed up, timed in every round, and weighed; a processor's products are timed too.
    """
    products = len(_product_types(plan, device))
    return len(plan.cases()) * (plan.rounds + 2) + products * (plan.rounds + 1)


def _product_types(plan: Plan, device: torch.device) -> set[torch.dtype]:
    """The types of number in which a processor's peak is measured."""
    return {MODES[mode].dtype for mode in plan.modes} if device.type == "cpu" else set()


def _row(
    case: Case,
    calls: Sequence[float],
    macs: int,
    peak: Peak | None,
    memory: int | None,
    difference: float | None,
) -> Row:
    median = statistics.median(calls)
    speed = case.batch_size / median
    passes = 3 if case.task == "train" else 1  # backward costs twice the forward pass
    return Row(
        case=case,
        images_per_second=speed,
        latency_ms=median * 1e3,
        latency_p90_ms=percentile(calls, 0.9) * 1e3,
        calls=len(calls),
        peak_memory=memory,
        gmac=macs / 1e9,
        mfu=passes * 2 * macs * speed / (peak.tflops * 1e12) if peak else None,
        logit_difference=difference,
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that a share of all is at most, interpolated linearly between two."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _difference(subject: Subject, case: Case) -> float | None:
    if case.mode == "float32" or case.task != "forward":
        return None
    exact = subject.logits(Case(case.model, "forward", "float32", case.batch_size))
    return float((subject.logits(case) - exact).abs().max())


def _memory(case: Case, device: torch.device, plan: Plan) -> int | None:
    told: Mapping[str, Any] = {
        "case": asdict(case),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "offline": plan.offline,
    }
    return ask_child(["-m", "tessera.benchmarking.child", json.dumps(told)])


def _known(what: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        close = get_close_matches(value, known, n=1)
        guess = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"unknown {what} {value!r}\nhint: {guess}known are {', '.join(known)}")
