"""Learning rate and length of a run, in steps."""

import math

from tessera.recipe import Schedule


def total_steps(schedule: Schedule, images: int, batch_size: int) -> int:
    """Return the optimizer steps of a run: round(N / B * epochs), as big_vision counts."""
    return schedule.total_steps or max(1, round(images / batch_size * schedule.epochs))


def lr_at(step: int, *, peak: float, steps: int, schedule: Schedule) -> float:
    """Return the rate of a step, counted from 0: linear warm-up from 0, then the way down.

    The first step has rate peak / warm-up rather than 0, so that no step is spent on nothing.
    """
    warmup = min(schedule.warmup_steps, steps // 5)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    match schedule.shape:
        case "constant":
            return peak
        case "linear":
            share = 1 - progress
        case "cosine":
            share = (1 + math.cos(math.pi * progress)) / 2
    return schedule.final_lr + (peak - schedule.final_lr) * share
