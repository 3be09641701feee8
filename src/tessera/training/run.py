"""A whole run: from recipe and data to a folder that holds the model and how it came to be."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from tessera.checkpoint.artifact import RUN_FILE, Header, save_artifact
from tessera.data.loader import Held, Unreadable, train_batches
from tessera.data.splits import DataSplits
from tessera.devices import is_main, pick_device, rank, world_size
from tessera.evaluation.base import Measured
from tessera.evaluation.measure import measure
from tessera.models.vit import ViT
from tessera.objectives.tasks import make_objective
from tessera.optim.groups import is_head
from tessera.optim.schedule import lr_at, total_steps
from tessera.recipe import Recipe, dumps
from tessera.run_folder import RECIPE
from tessera.training.faults import largest_that_fits
from tessera.training.log import LOG, truncate_log
from tessera.training.loop import Metrics, TrainState, make_state, train_step
from tessera.training.parallel import Fsdp
from tessera.training.replay import write_replay
from tessera.training.state import CHECKPOINT, load, save, whole
from tessera.training.teacher import load_teacher

ENVIRONMENT = "environment.json"


@dataclass
class Progress:
    """What a run remembers besides weights."""

    best_loss: float = float("inf")
    best_step: int = 0
    seconds: float = 0.0
    """Training time so far, over all sittings, without the measuring."""
    images: int = 0
    looks_since_best: int = 0


@dataclass
class Run:
    """One training run in one folder.

    Args:
        header: What the artefact will say; its card is written with every save.
        console: Where progress is shown.
    """

    folder: Path
    recipe: Recipe
    data: DataSplits
    model: ViT
    header: Header
    console: Console
    progress: Progress = field(default_factory=Progress)

    def __post_init__(self) -> None:
        self.device = pick_device(self.recipe.device)
        self.model.to(self.device)
        self.model.grad_checkpointing = self.recipe.grad_checkpointing
        self.held = Held()
        self.part = (rank(), world_size())
        self.unreadable = Unreadable(self.data["train"], self.recipe.data.bad_share)
        self.images_in_training = len(self.data["train"])
        self.stop = total_steps(
            self.recipe.schedule, self.images_in_training, self.recipe.data.images_per_step
        )
        teacher = load_teacher(self.recipe, self.header, self.device)
        objective = make_objective(self.model, self.data["train"], self.recipe, teacher)
        depth = self.model.config.num_layers
        self.state = make_state(objective.to(self.device), self.recipe, depth=depth, stop=self.stop)

    def start(self, environment: dict[str, Any]) -> None:
        """Write down what is about to happen, and where."""
        if not is_main():
            return
        (self.folder / CHECKPOINT.parent).mkdir(parents=True, exist_ok=True)
        (self.folder / RECIPE).write_text(dumps(self.recipe), encoding="utf-8")
        text = json.dumps(environment, indent=2) + "\n"
        (self.folder / ENVIRONMENT).write_text(text, encoding="utf-8")

    def restore(self) -> None:
        """Take weights, optimizer and step from the last checkpoint of the folder."""
        numbers = load(self.folder, self.state.parts, self.device)
        self.state.step = numbers["step"]
        if self.state.average is not None:
            self.state.average.steps = numbers["average_steps"]
        self.state.scaler.load_state_dict(numbers["scaler"])
        self.progress = Progress(**numbers["progress"])
        if is_main():
            truncate_log(self.folder / LOG, self.state.step)

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to train."""
        patience = self.recipe.patience
        enough = patience is not None and self.progress.looks_since_best >= patience
        return enough or self.state.step >= self.stop

    def fits(self) -> tuple[int, int | None]:
        """Return how many images are wanted at a time, and how many the memory has room for."""
        data = self.recipe.data
        wanted = data.micro_batch_size or data.images_per_step
        size = self.header.preprocessing.size
        channels = self.header.preprocessing.channels

        if isinstance(self.state.engine, Fsdp):  # trying would wait for the other processes
            return wanted, None

        def attempt(count: int) -> None:
            self.state.optimizer.zero_grad(set_to_none=True)
            images = torch.zeros(count, channels, *size, device=self.device)
            self.model(images).sum().backward()

        return wanted, largest_that_fits(attempt, wanted)

    def held_images(self) -> list[str]:
        """Return the images that workers were reading last."""
        return [self.data["train"].where(index) for index in self.held.indices()]

    def lr_of(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return lr_at(
            step, peak=self.recipe.optim.lr, steps=self.stop, schedule=self.recipe.schedule
        )

    def freeze(self, step: int) -> None:
        """Let only the head learn in the first epochs, if the recipe wants that, then all."""
        for name, parameter in self.state.objective.named_parameters():
            parameter.requires_grad_(step >= self._head_only_steps() or is_head(name))
        self.state.engine.wrap()

    def thaw(self, state: TrainState, metrics: Metrics) -> None:
        """Let all learn when the first epochs are over."""
        if state.step == self._head_only_steps():
            self.freeze(state.step)

    def _head_only_steps(self) -> int:
        return round(self.recipe.optim.head_only_epochs * self.steps_per_epoch())

    @contextmanager
    def as_used(self) -> Iterator[None]:
        """Give the model, for a while, the weights that it is to be used with.

        They are averaged, if the recipe has an average, and what the objective makes of them.
        """
        objective, average = self.state.objective, self.state.average
        own = {k: t.detach().clone() for k, t in objective.state_dict().items()}
        if average is not None and average.steps:
            objective.load_state_dict(average.weights)
        objective.finish()
        try:
            yield
        finally:
            objective.load_state_dict(own)

    def measure(self, split: str) -> Measured:
        """Measure the model as it is now."""
        return measure(
            self.model,
            self.data[split],
            self.header.preprocessing,
            split=split,
            device=self.device,
            batch_size=self.recipe.data.eval_batch_size,
            workers=self.recipe.data.workers,
            bad_share=self.recipe.data.bad_share,
            part=self.part,
        )

    def save(self, result: Measured) -> bool:
        """Save all state, and the artefact where the validation loss is the lowest so far.

        The loss decides, not the accuracy: among a few hundred images an accuracy is lucky now and
        then (docs/log.md has a run that lost 4 points of test accuracy so).
        """
        p = self.progress
        better = result.loss < p.best_loss
        p.looks_since_best = 0 if better else p.looks_since_best + 1
        if better:
            p.best_loss, p.best_step = result.loss, self.state.step
            with self.as_used():
                tensors = {name: whole(t) for name, t in self.model.state_dict().items()}
                if is_main():
                    save_artifact(self.folder / RUN_FILE, self.model, self.header, tensors)
        self.save_state()
        return better

    def save_state(self) -> None:
        """Save all that it takes to go on; the last saved state stays until this one is whole.

        Raises:
            RunError: It cannot be written.
        """
        average = self.state.average
        numbers = {
            "step": self.state.step,
            "average_steps": average.steps if average is not None else 0,
            "scaler": self.state.scaler.state_dict(),
            "progress": asdict(self.progress),
        }
        save(self.folder, self.state.parts, numbers)

    def epoch(self) -> float:
        """Return the passes over the training images so far."""
        return self.state.step / self.steps_per_epoch()

    def repeat(self, last: int) -> Iterator[tuple[int, dict[str, float]]]:
        """Train up to a step without saving anything, and yield the numbers of every step."""
        batches = train_batches(
            self.data["train"],
            self.header.preprocessing,
            self.recipe,
            start=self.state.step,
            stop=last + 1,
            device=self.device,
        )
        self.freeze(self.state.step)
        for batch in batches:
            step, lr = self.state.step, self.lr_of(self.state.step)
            metrics = train_step(self.state, batch, self.recipe, lr=lr, device=self.device)
            yield step, {name: float(value) for name, value in metrics.items()}
            self.thaw(self.state, metrics)

    def explain_break(self, step: int, loss: float) -> str:
        """Write down how to meet a broken loss again, and return what to say about it."""
        command = write_replay(
            self.folder, self.data["train"], self.recipe, step=step, loss=loss, spec=self.data.spec
        )
        return (
            f"the loss became {loss} in step {step}; what {self.folder} holds is from before\n"
            f"hint: lower --optim.lr (it is {self.recipe.optim.lr}); "
            f"`{command}` shows the steps that lead there"
        )

    def steps_per_epoch(self) -> float:
        """Return how many steps make a pass over the training images; no whole number."""
        return self.images_in_training / self.recipe.data.images_per_step
