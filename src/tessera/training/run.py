"""A whole run: from recipe and data to a folder that holds the model and how it came to be."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from tessera.checkpoint.artifact import RUN_FILE, Header, save_artifact, write_atomically
from tessera.data.loader import Held, Unreadable, train_batches
from tessera.data.splits import DataSplits
from tessera.evaluation.base import Measured
from tessera.evaluation.measure import measure
from tessera.models.vit import ViT
from tessera.objectives.tasks import make_objective
from tessera.optim.ema import Ema
from tessera.optim.groups import is_head
from tessera.optim.optimizers import make_optimizer
from tessera.optim.schedule import lr_at, total_steps
from tessera.recipe import Recipe, dumps
from tessera.run_folder import RECIPE
from tessera.training.display import Display, make_display
from tessera.training.faults import StoppedError, Stopping, explained, largest_that_fits
from tessera.training.log import LOG, as_text, truncate_log
from tessera.training.loop import DivergedError, Metrics, TrainState, pick_device, train, train_step
from tessera.training.replay import write_replay

CHECKPOINT = Path("checkpoints") / "last.pt"
ENVIRONMENT = "environment.json"
SECONDS_BETWEEN_READINGS = 0.2
"""How often the loss is read from the device for the display; each reading waits for it."""


@dataclass
class Progress:
    """What a run remembers besides weights."""

    best_loss: float = float("inf")
    best_step: int = 0
    seconds: float = 0.0
    """Training time so far, over all sittings, without the measuring."""
    images: int = 0


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
        optim, depth = self.recipe.optim, self.model.config.depth
        objective = make_objective(self.model, self.data["train"], self.recipe).to(self.device)
        self.held = Held()
        self.unreadable = Unreadable(self.data["train"], self.recipe.data.bad_share)
        self.state = TrainState(objective, make_optimizer(objective, optim, depth=depth))
        if optim.ema_decay is not None:
            self.state.ema = Ema(objective, optim.ema_decay)
        self.images_in_training = len(self.data["train"])
        self.stop = total_steps(
            self.recipe.schedule, self.images_in_training, self.recipe.data.batch_size
        )

    def start(self, environment: dict[str, Any]) -> None:
        """Write down what is about to happen, and where."""
        (self.folder / CHECKPOINT.parent).mkdir(parents=True, exist_ok=True)
        (self.folder / RECIPE).write_text(dumps(self.recipe), encoding="utf-8")
        text = json.dumps(environment, indent=2) + "\n"
        (self.folder / ENVIRONMENT).write_text(text, encoding="utf-8")

    def restore(self) -> None:
        """Take weights, optimizer and step from the last checkpoint of the folder."""
        saved = torch.load(self.folder / CHECKPOINT, map_location=self.device, weights_only=True)
        self.state.objective.load_state_dict(saved["objective"])
        self.state.optimizer.load_state_dict(saved["optimizer"])
        self.state.step = saved["step"]
        if self.state.ema is not None:
            self.state.ema.restore(**saved["ema"])
        self.progress = Progress(**saved["progress"])
        truncate_log(self.folder / LOG, self.state.step)

    def train(self, stopping: Stopping | None = None) -> None:
        """Train to the end; measure and save at every look at the validation images.

        Args:
            stopping: Asked after every step whether to save and stop.

        Raises:
            StoppedError: It was asked to.
            DivergedError: The loss is no longer finite.
            ImageError: More images cannot be read than the recipe allows.
            RunError: There is no memory or no disk left, or a worker died.
        """
        interval = max(1, round(self.recipe.eval_every * self._steps_per_epoch()))
        batches = train_batches(
            self.data["train"],
            self.header.preprocessing,
            self.recipe,
            start=self.state.step,
            stop=self.stop,
            device=self.device,
            unreadable=self.unreadable,
            held=self.held,
        )
        display = make_display(self.console, start=self.state.step, stop=self.stop)
        self._freeze(self.state.step)
        if self.state.step == 0:  # a run that fails early can be taken up as well
            self.save_state()
        with display:
            recorder = _Recorder(self, display)
            actions = [(1, self._thaw), (1, recorder.count), (interval, recorder.look)]
            if self.recipe.save_every is not None:
                actions.append((self.recipe.save_every, recorder.save))
            if stopping is not None:
                actions.append((1, partial(self._stop_if_asked, stopping, recorder)))
            with explained(self.folder, self._fits, self._held):
                train(
                    self.state,
                    batches,
                    self.recipe,
                    stop=self.stop,
                    lr_of=self.lr_of,
                    every=actions,
                    device=self.device,
                )

    def _fits(self) -> tuple[int, int | None]:
        """Return how many images are wanted at a time, and how many the memory has room for."""
        data = self.recipe.data
        wanted = data.micro_batch_size or data.batch_size
        size = self.header.preprocessing.size
        channels = self.header.preprocessing.channels

        def attempt(count: int) -> None:
            self.state.optimizer.zero_grad(set_to_none=True)
            images = torch.zeros(count, channels, *size, device=self.device)
            self.model(images).sum().backward()

        return wanted, largest_that_fits(attempt, wanted)

    def _held(self) -> list[str]:
        """Return the images that workers were reading last."""
        return [self.data["train"].where(index) for index in self.held.indices()]

    def _stop_if_asked(
        self, stopping: Stopping, recorder: "_Recorder", state: TrainState, metrics: Metrics
    ) -> None:
        if stopping.signal is not None and state.step < self.stop:
            recorder.save(state, metrics)
            raise StoppedError(
                f"stopped by {stopping.signal} after step {state.step} of {self.stop}, and saved\n"
                f"hint: go on with --resume --out {self.folder}",
                stopping.signal,
            )

    def lr_of(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return lr_at(
            step, peak=self.recipe.optim.lr, steps=self.stop, schedule=self.recipe.schedule
        )

    def _freeze(self, step: int) -> None:
        """Let only the head learn in the first epochs, if the recipe wants that, then all."""
        for name, parameter in self.state.objective.named_parameters():
            parameter.requires_grad_(step >= self._head_only_steps() or is_head(name))

    def _thaw(self, state: TrainState, metrics: Metrics) -> None:
        if state.step == self._head_only_steps():
            self._freeze(state.step)

    def _head_only_steps(self) -> int:
        return round(self.recipe.optim.head_only_epochs * self._steps_per_epoch())

    @contextmanager
    def as_used(self) -> Iterator[None]:
        """Give the model, for a while, the weights that it is to be used with.

        They are averaged, if the recipe has an average, and what the objective makes of them.
        """
        objective, ema = self.state.objective, self.state.ema
        own = {k: t.detach().clone() for k, t in objective.state_dict().items()}
        if ema is not None:
            objective.load_state_dict(ema.average)
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
        )

    def save(self, result: Measured) -> bool:
        """Save all state, and the artefact where the validation loss is the lowest so far.

        The loss decides, not the accuracy: among a few hundred images an accuracy is lucky now and
        then (docs/log.md has a run that lost 4 points of test accuracy so).
        """
        p = self.progress
        better = result.loss < p.best_loss
        if better:
            p.best_loss, p.best_step = result.loss, self.state.step
            with self.as_used():
                save_artifact(self.folder / RUN_FILE, self.model, self.header)
        self.save_state()
        return better

    def save_state(self) -> None:
        """Save all that it takes to go on; the last saved state stays until this one is whole.

        Raises:
            RunError: It cannot be written.
        """
        saved = {
            "ema": self.state.ema.state() if self.state.ema is not None else None,
            "objective": self.state.objective.state_dict(),
            "optimizer": self.state.optimizer.state_dict(),
            "step": self.state.step,
            "progress": asdict(self.progress),
        }
        write_atomically(self.folder / CHECKPOINT, lambda part: torch.save(saved, part))

    def epoch(self) -> float:
        """Return the passes over the training images so far."""
        return self.state.step / self._steps_per_epoch()

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
        self._freeze(self.state.step)
        for batch in batches:
            step, lr = self.state.step, self.lr_of(self.state.step)
            metrics = train_step(self.state, batch, self.recipe, lr=lr, device=self.device)
            yield step, {name: float(value) for name, value in metrics.items()}
            self._thaw(self.state, metrics)

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

    def _steps_per_epoch(self) -> float:
        return self.images_in_training / self.recipe.data.batch_size


class _Recorder:
    """Sums the metrics of steps, and writes a line of the log at every look."""

    def __init__(self, run: Run, display: Display) -> None:
        self.run, self.display = run, display
        self.since = time.perf_counter()
        self.shown = 0.0
        self.noted = 0
        self.reset()

    def reset(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.steps = 0
        self.first_bad = torch.full((), -1, device=self.run.device)
        """How many steps after the last look the loss broke; -1 while it has not."""

    def count(self, state: TrainState, metrics: Metrics) -> None:
        """Add a step; show it when the last reading is old enough."""
        for name, value in metrics.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
        bad = ~torch.isfinite(metrics["loss"].detach())
        self.first_bad = torch.where(bad & (self.first_bad < 0), self.steps, self.first_bad)
        self.steps += 1
        self.run.progress.images += self.run.recipe.data.batch_size
        self.display.images += self.run.recipe.data.batch_size
        now = time.perf_counter()
        if now - self.shown > SECONDS_BETWEEN_READINGS:
            self.shown = now
            self.display.advance(state.step, self.means())

    def means(self) -> dict[str, float]:
        """Return the means since the last look.

        Raises:
            DivergedError: The loss is not finite.
        """
        means = {name: float(value) / self.steps for name, value in self.sums.items()}
        if not math.isfinite(means["loss"]):
            bad = self.run.state.step - self.steps + int(self.first_bad)
            raise DivergedError(self.run.explain_break(bad, means["loss"]))
        return means

    def settle(self) -> None:
        """Add the time since the last look to that of the run."""
        now = time.perf_counter()
        self.run.progress.seconds += now - self.since
        self.since = now

    def save(self, state: TrainState, metrics: Metrics) -> None:
        """Save all state between two looks."""
        if not self.steps:  # a look has just saved it
            return
        self.means()  # what is not finite is not worth keeping
        self.settle()
        self.run.save_state()

    def look(self, state: TrainState, metrics: Metrics) -> None:
        """Measure on the validation images, log, and save."""
        run, numbers = self.run, self.means()
        numbers["loss"] *= state.objective.loss_unit
        self.settle()
        with run.as_used():
            result = run.measure("val")
        if not math.isfinite(result.loss):
            raise DivergedError(run.explain_break(state.step - 1, result.loss))
        row: dict[str, Any] = {
            "step": state.step,
            "epoch": round(run.epoch(), 3),
            "lr": run.lr_of(state.step - 1),
            **{f"train_{name}": value for name, value in numbers.items()},
            "val_loss": result.loss,
            f"val_{result.score.name}": result.score.interval.value,
            "images_per_second": round(run.progress.images / run.progress.seconds, 1),
            "seconds": round(run.progress.seconds, 2),
        }
        if run.unreadable.found:
            row["unreadable"] = len(run.unreadable.found)
        with (run.folder / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        best = " *" if run.save(result) else ""
        for message in list(run.unreadable.found.values())[self.noted :]:
            self.display.note(f"replaced by another image: {message}")
        self.noted = len(run.unreadable.found)
        self.display.note(as_text(row, run.stop, result.score, best))
        self.reset()
        self.since = time.perf_counter()
