"""What is measured: a model, what it does, on how many images, and in which mode."""

import copy
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tessera.checkpoint.load import load_model
from tessera.checkpoint.weights import published
from tessera.config import ViTConfig
from tessera.errors import RunError
from tessera.models.variants import parse
from tessera.models.vit import ViT


class Mode(NamedTuple):
    """How the same weights are computed with."""

    dtype: torch.dtype
    """Of matrix products, by autocast; weights stay in float32."""
    compiled: bool


MODES = {
    "float32": Mode(torch.float32, False),
    "bfloat16": Mode(torch.bfloat16, False),
    "compile": Mode(torch.float32, True),
    "compile-bfloat16": Mode(torch.bfloat16, True),
}

TASKS = ("forward", "train")
"""Forward pass in evaluation; or a training step: forward, cross-entropy, backward, AdamW."""

Images = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    model: str
    task: str
    mode: str
    batch_size: int


def open_model(ref: str, *, offline: bool = False) -> ViT:
    """Return a model to measure: any MODEL, or a name with random weights, the head's included.

    Raises:
        ValueError: Nothing of that name is there.
        RunError: Published weights cannot be fetched.
    """
    if Path(ref).expanduser().exists() or ref in published():
        return load_model(ref, offline=offline).model
    try:
        config = parse(ref)
    except ValueError as error:
        if Path(ref).suffix or ref.startswith((".", "/", "~")):
            return load_model(ref, offline=offline).model  # which says that no file is there
        raise ValueError(f"{error}, and files and run folders can be given by path") from error
    torch.manual_seed(0)
    model = ViT(config)
    if isinstance(model.head, nn.Linear):  # it starts at zero, and would hide every difference
        nn.init.trunc_normal_(model.head.weight, std=0.02)
    return model


def draw_images(config: ViTConfig, batch_size: int, device: torch.device) -> Tensor:
    """Return normal noise in the model's own size, ``b c h w``, the same at every call."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, config.in_chans, *config.image_shape)
    return torch.randn(shape, generator=generator).to(device)


class Subject:
    """A model on the device, with a copy of its own for training.

    Compiled models are compiled when first called, once for every batch size.

    Args:
        cases: What it will be asked for.

    Raises:
        ValueError: A training step of a model without a head.
    """

    def __init__(self, model: ViT, device: torch.device, cases: Sequence[Case]) -> None:
        self.config, self.device = model.config, device
        self.models: dict[str, nn.Module] = {"forward": model.to(device).eval()}
        if any(case.task == "train" for case in cases):
            if not model.config.num_classes:
                raise ValueError(
                    f"{cases[0].model} has no head, so no training step\nhint: --what forward"
                )
            self.models["train"] = copy.deepcopy(model).train()
            parameters = self.models["train"].parameters()
            self.optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)
        self._callables: dict[tuple[str, bool], Images] = {}

    def work(self, case: Case) -> Callable[[], object]:
        """Return what is to be timed."""
        images = draw_images(self.config, case.batch_size, self.device)
        model, dtype = self._model(case), MODES[case.mode].dtype
        if case.task == "forward":
            return lambda: _forward(model, images, dtype)
        count = self.config.num_classes
        labels = torch.arange(case.batch_size, device=self.device) % count
        return lambda: _train_step(model, self.optimizer, images, labels, dtype)

    def logits(self, case: Case) -> Tensor:
        """Return what the model answers in that mode, ``b k`` in float32."""
        images = draw_images(self.config, case.batch_size, self.device)
        return _forward(self._model(case), images, MODES[case.mode].dtype).float()

    def _model(self, case: Case) -> Images:
        key = (case.task, MODES[case.mode].compiled)
        if key not in self._callables:
            model = self.models[case.task]
            self._callables[key] = torch.compile(model, dynamic=False) if key[1] else model
        return self._callables[key]


@torch.inference_mode()
def _forward(model: Images, images: Tensor, dtype: torch.dtype) -> Tensor:
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        return model(images)


def _train_step(
    model: Images,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    dtype: torch.dtype,
) -> None:
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        loss = F.cross_entropy(model(images).float(), labels)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def require_compiler(device: torch.device) -> None:
    """Refuse to compile for a processor without a C++ compiler.

    Raises:
        RunError: There is none.
    """
    usual = "clang++" if sys.platform == "darwin" else "g++"
    compiler = os.environ.get("CXX", usual)
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise RunError(
            f"compile modes need a C++ compiler, and there is no {compiler}\n"
            "hint: install one (on Debian: apt install g++), name another in the variable CXX, "
            "or leave these modes out"
        )


@contextmanager
def compiling() -> Iterator[None]:
    """Compile in silence, for any number of shapes; what goes wrong is one message.

    Raises:
        RunError: The compiler failed.
    """
    loggers = [logging.getLogger(f"torch.{name}") for name in ("_dynamo", "_inductor")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), torch._dynamo.config.patch(recompile_limit=1000):
            warnings.filterwarnings("ignore", module=r"torch\..*")
            yield
    except torch._dynamo.exc.TorchDynamoException as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        said = next((line for line in lines if "error:" in line), lines[0] if lines else "")
        raise RunError(
            f"compiling failed: {said.strip()}\n"
            "hint: it needs a C++ compiler and the headers of Python (on Debian: apt install g++ "
            "python3-dev); or leave the compile modes out"
        ) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
