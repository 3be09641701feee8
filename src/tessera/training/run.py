"""A whole run: from recipe and data to a folder that holds the model and how it came to be."""

import json
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from rich.console import Console
from torch import Tensor, nn

from tessera.checkpoint.artifact import RUN_FILE, Header, save_artifact, write_atomically
from tessera.data.loader import Unreadable, train_batches
from tessera.data.splits import DataSplits
from tessera.evaluation.base import Measured, Score
from tessera.evaluation.linear_probe import features, fit_head
from tessera.evaluation.measure import measure
from tessera.models.vit import ViT
from tessera.objectives.tasks import make_objective
from tessera.optim.ema import Ema
from tessera.optim.groups import is_head, make_optimizer
from tessera.optim.schedule import lr_at, total_steps
from tessera.recipe import Recipe, dumps
from tessera.training.display import Display, clock, make_display
from tessera.training.loop import (
    DivergedError,
    Metrics,
    TrainState,
    pick_device,
    train,
)

CHECKPOINT = Path("checkpoints") / "last.pt"
FEATURES = Path("checkpoints") / "features.npz"
LOG = "log.jsonl"
RECIPE = "recipe.toml"
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
        _truncate_log(self.folder / LOG, self.state.step)

    def train(self) -> None:
        """Train to the end; measure and save at every look at the validation images.

        Raises:
            DivergedError: The loss is no longer finite.
            ImageError: More images cannot be read than the recipe allows.
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
        )
        display = make_display(self.console, start=self.state.step, stop=self.stop)
        self._thaw(self.state, {})
        with display:
            recorder = _Recorder(self, display)
            train(
                self.state,
                batches,
                self.recipe,
                stop=self.stop,
                lr_of=self.lr_of,
                every=[(1, self._thaw), (1, recorder.count), (interval, recorder.look)],
                device=self.device,
            )

    def probe(self) -> None:
        """Fit the head alone, on features that are computed once and kept in the folder.

        Raises:
            ImageError: More images cannot be read than the recipe allows.
            ValueError: The data is not of one class an image.
        """
        if self.data.task != "classify":
            raise ValueError(
                "linear-probe fits one class an image, and the labels are not of that kind\n"
                "hint: leave --recipe linear-probe out"
            )
        began = time.perf_counter()
        path = self.folder / FEATURES
        if not path.exists():
            found: dict[str, np.ndarray] = {}
            for name in ("train", "val"):
                found[name], found[f"{name}_rows"] = self._features(name)
            write_atomically(path, lambda part: _save_arrays(part, found))
        with np.load(path, allow_pickle=False) as file:
            sides = [
                (file[name], self.data[name].labels[file[f"{name}_rows"]])
                for name in ("train", "val")
            ]
        head = fit_head(sides[0], sides[1], len(self.data.class_names))
        linear = self.model.head
        assert isinstance(linear, nn.Linear)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(head.weight))
            linear.bias.copy_(torch.from_numpy(head.bias))
        p = self.progress
        p.seconds, p.images = time.perf_counter() - began, len(self.data["train"])
        self.state.step = self.stop = 1
        result = self.measure("val")
        self.console.print(f"head fitted on frozen features: C={head.strength:g}", highlight=False)
        self.save(result)

    def _features(self, split: str) -> tuple[Float[np.ndarray, "n d"], Int[np.ndarray, " n"]]:
        return features(
            self.model,
            self.data[split],
            self.header.preprocessing,
            device=self.device,
            batch_size=self.recipe.data.eval_batch_size,
            workers=self.recipe.data.workers,
            unreadable=Unreadable(self.data[split], self.recipe.data.bad_share),
        )

    def lr_of(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        return lr_at(
            step, peak=self.recipe.optim.lr, steps=self.stop, schedule=self.recipe.schedule
        )

    def _thaw(self, state: TrainState, metrics: Metrics) -> None:
        """Let only the head learn in the first epochs, if the recipe wants that, then all."""
        steps = round(self.recipe.optim.head_only_epochs * self._steps_per_epoch())
        if state.step == 0 or state.step == steps:
            for name, parameter in state.objective.named_parameters():
                parameter.requires_grad_(state.step >= steps or is_head(name))

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
        saved = {
            "ema": self.state.ema.state() if self.state.ema is not None else None,
            "objective": self.state.objective.state_dict(),
            "optimizer": self.state.optimizer.state_dict(),
            "step": self.state.step,
            "progress": asdict(p),
        }
        write_atomically(self.folder / CHECKPOINT, lambda part: torch.save(saved, part))
        return better

    def epoch(self) -> float:
        """Return the passes over the training images so far."""
        return self.state.step / self._steps_per_epoch()

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

    def count(self, state: TrainState, metrics: Metrics) -> None:
        """Add a step; show it when the last reading is old enough."""
        for name, value in metrics.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
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
            raise DivergedError(
                f"the loss became {means['loss']} before step {self.run.state.step}; "
                f"{RUN_FILE} in {self.run.folder} is from before\n"
                f"hint: lower --optim.lr (it is {self.run.recipe.optim.lr}), "
                "or use --precision float32"
            )
        return means

    def look(self, state: TrainState, metrics: Metrics) -> None:
        """Measure on the validation images, log, and save."""
        run, numbers = self.run, self.means()
        numbers["loss"] *= state.objective.loss_unit
        run.progress.seconds += time.perf_counter() - self.since
        with run.as_used():
            result = run.measure("val")
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
        self.display.note(_line(row, run.stop, result.score, best))
        self.reset()
        self.since = time.perf_counter()


def _line(row: dict[str, Any], stop: int, score: Score, best: str) -> str:
    return (
        f"step {row['step']:>{len(str(stop))}}/{stop}  epoch {row['epoch']:6.2f}  "
        f"loss {row['train_loss']:.3f}  val loss {row['val_loss']:.3f}  "
        f"val {score.name} {score.text(score.interval.value):>6}  "
        f"{row['images_per_second']:,.0f} images/s  "
        f"{clock(row['seconds'])}{best}"
    )


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a run's log, oldest first."""
    path = folder / LOG
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:  # given a name, numpy would add a suffix of its own
        np.savez(file, allow_pickle=False, **arrays)


def _truncate_log(path: Path, step: int) -> None:
    """Drop rows after the checkpoint, which the resumed run writes again."""
    rows = [row for row in read_log(path.parent) if row["step"] <= step]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
