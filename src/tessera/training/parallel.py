"""How a step runs on one process or on several: what is wrapped, when gradients are shared."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import cast

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel

from tessera.data.loader import Batch
from tessera.devices import is_joined, world_size
from tessera.models.vit import ViT
from tessera.nn.stages import Stages
from tessera.objectives.base import Objective
from tessera.recipe import Recipe

Forward = Callable[[Batch], dict[str, Tensor]]


class Engine(ABC):
    """Runs an objective forward, and shares its gradients with other processes.

    Args:
        compiled: Whether torch.compile builds the kernels.
    """

    forward: Forward

    def __init__(self, objective: Objective, *, compiled: bool) -> None:
        self.objective, self.compiled = objective, compiled
        self.wrap()

    @abstractmethod
    def wrap(self) -> None:
        """Set ``forward``; called again when other parameters are to learn."""

    @abstractmethod
    def sharing(self, *, last: bool) -> AbstractContextManager[None]:
        """Return the context of a micro-batch; gradients are shared after the last one."""

    def _built(self, module: nn.Module) -> Forward:
        return cast(Forward, torch.compile(module) if self.compiled else module)


class Alone(Engine):
    """One process."""

    def wrap(self) -> None:
        self.forward = self._built(self.objective)

    def sharing(self, *, last: bool) -> AbstractContextManager[None]:
        return nullcontext()


class Ddp(Engine):
    """Every process has all weights; gradients are averaged (Li et al., 2020)."""

    def wrap(self) -> None:
        config = cast(ViT, self.objective.model).config
        drops_columns = (
            config.patch_embed == "fractal" or config.drop_path_kind != "stochastic_depth"
        )
        self.wrapped = DistributedDataParallel(
            self.objective, broadcast_buffers=False, find_unused_parameters=drops_columns
        )
        self.forward = self._built(self.wrapped)

    @contextmanager
    def sharing(self, *, last: bool) -> Iterator[None]:
        with nullcontext() if last else self.wrapped.no_sync():
            yield


class Fsdp(Engine):
    """Every process has a share of each weight and of the optimizer's state (Zhao et al., 2023)."""

    METHODS = ("forward_features", "forward_head", "forward_heads")
    """Of a model, called from outside it: its own weights must be whole in them as well."""

    def wrap(self) -> None:
        model = cast(ViT, self.objective.model)
        if not isinstance(model, FSDPModule):
            stem = model.patch_embed
            for block in stem.blocks if isinstance(stem, Stages) else model.blocks:
                fully_shard(block)
            fully_shard(model)
            for name in self.METHODS:
                register_fsdp_forward_method(model, name)
        self.forward = self._built(self.objective)

    @contextmanager
    def sharing(self, *, last: bool) -> Iterator[None]:
        cast(FSDPModule, self.objective.model).set_requires_gradient_sync(last)
        yield


def make_engine(objective: Objective, recipe: Recipe) -> Engine:
    """Return the engine for the processes at hand.

    Raises:
        ValueError: The recipe asks for what does not work on several processes.
    """
    if not is_joined():
        return Alone(objective, compiled=recipe.compile)
    if recipe.data.images_per_step < 2 * world_size():
        raise ValueError(
            f"data.batch_size={recipe.data.images_per_step} is too small for {world_size()} "
            "processes\nhint: at least two images a process"
        )
    if recipe.parallel == "ddp":
        return Ddp(objective, compiled=recipe.compile)
    for name, value, allowed in (
        ("optim.name", recipe.optim.name, ("adamw", "adam", "nadam", "radam", "sgd")),
        ("precision", recipe.precision, ("auto", "float32", "bfloat16")),
    ):
        if value not in allowed:
            raise ValueError(
                f"{name}={value} does not work with weights in pieces (--parallel fsdp)\n"
                f"hint: one of {', '.join(allowed)}; or --parallel ddp"
            )
    data = recipe.data
    if data.micro_batch_size is not None and data.images_per_step % (2 * world_size()):
        raise ValueError(
            f"data.batch_size={data.images_per_step} with data.micro_batch_size and --parallel "
            f"fsdp must be a multiple of {2 * world_size()}, so that all processes run as often"
        )
    return Fsdp(objective, compiled=recipe.compile)
