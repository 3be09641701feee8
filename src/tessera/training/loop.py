"""One training step, and the loop around it."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tessera.data.loader import Batch
from tessera.devices import sum_over_all, world_size
from tessera.errors import RunError
from tessera.nn.noise import key_noise
from tessera.objectives.base import Objective
from tessera.optim.ema import Average
from tessera.optim.optimizers import make_optimizer
from tessera.optim.sam import uphill
from tessera.recipe import Recipe
from tessera.training.parallel import Engine, make_engine
from tessera.training.state import Parts

Metrics = dict[str, Tensor]
"""Named scalars of a step, on the device until somebody reads them."""


class DivergedError(RunError):
    """The loss is not finite; going on would only spoil what has been saved."""


@dataclass
class TrainState:
    """What a run has come to: all that is needed to go on, apart from the recipe."""

    objective: Objective
    optimizer: torch.optim.Optimizer
    engine: Engine
    scaler: torch.amp.GradScaler
    """Scales the loss of float16, and does nothing in other precisions."""
    step: int = 0
    """Steps taken so far."""
    average: Average | None = None
    """Average of the weights, which is then what is measured and saved."""

    @property
    def parts(self) -> Parts:
        """Whatever has tensors that are saved."""
        return Parts(self.objective, self.optimizer, self.average)


def make_state(objective: Objective, recipe: Recipe, *, depth: int, stop: int) -> TrainState:
    """Return the state before the first step.

    Args:
        objective: On the device where it is to learn.
        depth: Blocks of the model, which learn at rates of their own with layer-wise decay.
        stop: Steps of the whole run.
    """
    optim = recipe.optim
    engine = make_engine(objective, recipe)  # before the optimizer, which is for what it leaves
    device = next(objective.parameters()).device
    state = TrainState(
        objective,
        make_optimizer(objective, optim, depth=depth),
        engine,
        torch.amp.GradScaler(device.type, enabled=recipe.precision == "float16"),
    )
    if optim.ema_decay is not None:
        state.average = Average(objective, optim.ema_decay)
    if optim.average_from is not None:
        state.average = Average(objective, None, start=round(optim.average_from * stop))
    return state


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

    Dropout and stochastic depth draw numbers that depend on (recipe.seed, step, image) alone, so a
    step depends on nothing but the state it starts from, however its batch is cut into parts.

    Args:
        batch: Of the whole step, or the part of it that this process has.
    """
    torch.manual_seed(step_seed(recipe.seed, state.step))
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    state.optimizer.zero_grad(set_to_none=True)
    metrics = _gradients(state, batch, recipe, device)
    if recipe.optim.sam_rho:
        with uphill(state.objective.parameters(), recipe.optim.sam_rho):
            state.optimizer.zero_grad(set_to_none=True)
            _gradients(state, batch, recipe, device)
    state.scaler.unscale_(state.optimizer)
    max_norm = recipe.optim.clip_grad_norm or float("inf")
    norm = nn.utils.clip_grad_norm_(state.objective.parameters(), max_norm)
    metrics["grad_norm"] = norm.full_tensor() if isinstance(norm, DTensor) else norm
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.average is not None:
        state.average.update(state.objective, state.step)
    state.objective.after_step(state.step)
    state.step += 1
    return metrics


def _gradients(state: TrainState, batch: Batch, recipe: Recipe, device: torch.device) -> Metrics:
    """Run forward and backward over the micro-batches; return means over the whole batch."""
    seed = step_seed(recipe.seed, state.step)
    batch = {"row": torch.arange(_size(batch)), **batch}
    total = recipe.data.images_per_step if world_size() > 1 else _size(batch)
    metrics: Metrics = {}
    micros = list(_split(batch, recipe.data.micro_batch_size))
    precision = autocast_type(recipe, device)
    for i, micro in enumerate(micros):
        key_noise(state.objective, seed, micro["row"])
        share = _size(micro) / total
        with state.engine.sharing(last=i == len(micros) - 1):
            with torch.autocast(device.type, precision, enabled=precision is not None):
                losses = state.engine.forward(micro)
            # Engines share the mean over processes; the sum is what makes up the batch.
            state.scaler.scale(losses["loss"] * (share * world_size())).backward()
        for name, value in losses.items():
            before = metrics.get(name, torch.zeros((), device=device))
            metrics[name] = before + value.detach().float() * share
    values = sum_over_all(torch.stack(list(metrics.values())))
    return dict(zip(metrics, values.unbind(), strict=True))


def step_seed(seed: int, step: int) -> int:
    """Return a seed for the random numbers of one step, well mixed from both."""
    return int(np.random.SeedSequence((seed, step)).generate_state(1)[0])


def autocast_type(recipe: Recipe, device: torch.device) -> torch.dtype | None:
    """Return the type of matrix products, None for float32.

    ``precision="auto"`` is bfloat16 on a CUDA device that computes in it.
    """
    if recipe.precision == "auto":
        is_fast = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if is_fast else None
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(recipe.precision)


def _split(batch: Batch, micro_batch_size: int | None) -> Iterator[Batch]:
    size = micro_batch_size or _size(batch)
    parts = {name: tensor.split(size) for name, tensor in batch.items()}
    for values in zip(*parts.values(), strict=True):
        yield dict(zip(parts, values, strict=True))


def _size(batch: Batch) -> int:
    return batch["image"].shape[0]
