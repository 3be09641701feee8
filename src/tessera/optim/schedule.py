"""Learning rate and length of a run, in steps."""

import math

from tessera.recipe import Schedule


def total_steps(schedule: Schedule, images: int, batch_size: int) -> int:
    """Return the optimizer steps of a run: round(N / B * epochs), as big_vision counts."""
    return schedule.total_steps or max(1, round(images / batch_size * schedule.epochs))


def lr_at(step: int, *, peak: float, steps: int, schedule: Schedule) -> float:
    """Return the rate of a step, counted from 0: linear warm-up from 0, then the way down.

    The first step has rate peak / warm-up rather than 0, so that no step is spent on nothing. The
    reciprocal root and its cool-down are Zhai et al.'s (2022, section 3.5).
    """
    warmup = min(schedule.warmup_steps, steps // 5)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    final = schedule.final_lr
    match schedule.shape:
        case "constant" | "rsqrt":
            start = max(steps - schedule.cooldown_steps, warmup)
            reached = min(step, start)
            is_root = schedule.shape == "rsqrt"
            rate = peak * math.sqrt(max(warmup, 1) / max(reached, warmup, 1)) if is_root else peak
            if step < start:
                return rate
            return final + (rate - final) * (steps - step) / (steps - start)
        case "linear":
            share = 1 - progress
        case "cosine":
            share = (1 + math.cos(math.pi * progress)) / 2
    return final + (peak - final) * share
