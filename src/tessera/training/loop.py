"""One training step, and the loop around it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tessera.data.loader import Batch
from tessera.errors import RunError
from tessera.objectives.base import Objective
from tessera.optim.ema import Ema
from tessera.recipe import Recipe

Metrics = dict[str, Tensor]
"""Named scalars of a step, on the device until somebody reads them."""


class DivergedError(RunError):
    """The loss is not finite; going on would only spoil what has been saved."""


@dataclass
class TrainState:
    """What a run has come to: all that is needed to go on, apart from the recipe."""

    objective: Objective
    optimizer: torch.optim.Optimizer
    step: int = 0
    """Steps taken so far."""
    ema: Ema | None = None
    """Average of the weights, which is then what is measured and saved."""


Action = Callable[[TrainState, Metrics], None]


def train(
    state: TrainState,
    batches: Iterable[Batch],
    recipe: Recipe,
    *,
    stop: int,
    lr_of: Callable[[int], float],
    every: Sequence[tuple[int, Action]],
    device: torch.device,
) -> None:
    """Train from ``state.step`` to step ``stop``.

    Args:
        batches: One for each step that is left.
        lr_of: Learning rate of a step, counted from 0.
        every: What to do each so many steps, and after the last: log, evaluate, save.
    """
    for batch in batches:
        metrics = train_step(state, batch, recipe, lr=lr_of(state.step), device=device)
        for interval, action in every:
            if state.step % interval == 0 or state.step == stop:
                action(state, metrics)


def train_step(
    state: TrainState, batch: Batch, recipe: Recipe, *, lr: float, device: torch.device
) -> Metrics:
    """Take one optimizer step.

    Dropout and stochastic depth draw from a generator seeded by (recipe.seed, step), so a step
    depends on nothing but the state it starts from.
    """
    torch.manual_seed(step_seed(recipe.seed, state.step))
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    state.optimizer.zero_grad(set_to_none=True)
    metrics: Metrics = {}
    for micro in _split(batch, recipe.data.micro_batch_size):
        with torch.autocast(device.type, torch.bfloat16, enabled=use_bfloat16(recipe, device)):
            losses = state.objective(micro)
        share = _size(micro) / _size(batch)
        (losses["loss"] * share).backward()
        for name, value in losses.items():
            metrics[name] = (
                metrics.get(name, torch.zeros((), device=device)) + value.detach() * share
            )
    max_norm = recipe.optim.clip_grad_norm or float("inf")
    metrics["grad_norm"] = nn.utils.clip_grad_norm_(state.objective.parameters(), max_norm)
    state.optimizer.step()
    if state.ema is not None:
        state.ema.update(state.objective)
    state.objective.after_step(state.step)
    state.step += 1
    return metrics


def step_seed(seed: int, step: int) -> int:
    """Return a seed for the random numbers of one step, well mixed from both."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1)[0])


def use_bfloat16(recipe: Recipe, device: torch.device) -> bool:
    """Decide ``precision="auto"``: bfloat16 on a CUDA device that computes in it."""
    if recipe.precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return recipe.precision == "bfloat16"


def pick_device(name: str) -> torch.device:
    """Turn ``auto`` into the best device at hand.

    Raises:
        ValueError: The named device is not there.
    """
    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used here\nhint: try auto or cpu") from error
    return device


def _split(batch: Batch, micro_batch_size: int | None) -> Iterator[Batch]:
    size = micro_batch_size or _size(batch)
    parts = {name: tensor.split(size) for name, tensor in batch.items()}
    for values in zip(*parts.values(), strict=True):
        yield dict(zip(parts, values, strict=True))


def _size(batch: Batch) -> int:
    return batch["image"].shape[0]
