"""Conducts a run through its steps: looks, logs, saves, and stops when it is told to."""

import math
import time
from contextlib import closing, suppress
from functools import partial
from typing import Any

from tessera.data.loader import train_batches
from tessera.devices import any_of_all, gather_from_all, is_main
from tessera.training.display import Display, make_display
from tessera.training.faults import StoppedError, Stopping, explained
from tessera.training.log import as_text, make_loggers
from tessera.training.loop import DivergedError, Metrics, TrainState, train
from tessera.training.meter import Meter
from tessera.training.run import Run

SECONDS_BETWEEN_READINGS = 0.2
"""How often the loss is read from the device for the display; each reading waits for it."""


class EnoughError(Exception):
    """The validation loss has not fallen for as long as the recipe waits."""


class Recorder:
    """Sums the metrics of steps, and writes a line of the log at every look."""

    def __init__(self, run: Run, display: Display) -> None:
        self.run, self.display = run, display
        self.since = time.perf_counter()
        self.shown = 0.0
        self.noted = 0
        self.meter = Meter(run.device)
        self.loggers = make_loggers(run.folder, run.recipe) if is_main() else []

    def count(self, state: TrainState, metrics: Metrics) -> None:
        """Add a step; show it when the last reading is old enough."""
        self.meter.add(metrics)
        self.run.progress.images += self.run.recipe.data.images_per_step
        self.display.images += self.run.recipe.data.images_per_step
        now = time.perf_counter()
        if now - self.shown > SECONDS_BETWEEN_READINGS:
            self.shown = now
            self.display.advance(state.step, self.means())

    def means(self) -> dict[str, float]:
        """Return the means since the last look.

        Raises:
            DivergedError: The loss is not finite.
        """
        means = self.meter.means()
        if not math.isfinite(means["loss"]):
            bad = self.run.state.step - self.meter.steps_since_bad()
            raise DivergedError(self.run.explain_break(bad, means["loss"]))
        return means

    def settle(self) -> None:
        """Add the time since the last look to that of the run."""
        now = time.perf_counter()
        self.run.progress.seconds += now - self.since
        self.since = now

    def close(self) -> None:
        """Finish the logs."""
        for logger in self.loggers:
            logger.close()

    def save(self, state: TrainState, metrics: Metrics) -> None:
        """Save all state between two looks."""
        if not self.meter.steps:  # a look has just saved it
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
        for found in gather_from_all(dict(run.unreadable.found)):
            run.unreadable.add(found)
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
        for logger in self.loggers:
            logger.write(row)
        best = " *" if run.save(result) else ""
        for message in list(run.unreadable.found.values())[self.noted :]:
            self.display.note(f"replaced by another image: {message}")
        self.noted = len(run.unreadable.found)
        self.display.note(as_text(row, run.stop, result.score, best))
        self.meter.reset()
        self.since = time.perf_counter()
        if run.is_over and state.step < run.stop:
            self.display.note(
                f"the validation loss has not fallen for {run.recipe.patience} looks: training ends"
            )
            raise EnoughError


def conduct(run: Run, stopping: Stopping | None = None) -> None:
    """Train to the end; measure and save at every look at the validation images.

    Args:
        stopping: Asked after every step whether to save and stop.

    Raises:
        StoppedError: It was asked to.
        DivergedError: The loss is no longer finite.
        ImageError: More images cannot be read than the recipe allows.
        RunError: There is no memory or no disk left, or a worker died.
    """
    interval = max(1, round(run.recipe.eval_every * run.steps_per_epoch()))
    batches = train_batches(
        run.data["train"],
        run.header.preprocessing,
        run.recipe,
        start=run.state.step,
        stop=run.stop,
        device=run.device,
        unreadable=run.unreadable,
        held=run.held,
        part=run.part,
    )
    display = make_display(run.console, start=run.state.step, stop=run.stop)
    run.freeze(run.state.step)
    if run.state.step == 0:  # a run that fails early can be taken up as well
        run.save_state()
    with display, closing(Recorder(run, display)) as recorder:
        actions = [(1, run.thaw), (1, recorder.count), (interval, recorder.look)]
        if run.recipe.save_every is not None:
            actions.append((run.recipe.save_every, recorder.save))
        if stopping is not None:
            actions.append((1, partial(_stop_if_asked, stopping, recorder)))
        with explained(run.folder, run.fits, run.held_images), suppress(EnoughError):
            train(
                run.state,
                batches,
                run.recipe,
                stop=run.stop,
                lr_of=run.lr_of,
                every=actions,
                device=run.device,
            )


def _stop_if_asked(
    stopping: Stopping, recorder: "Recorder", state: TrainState, metrics: Metrics
) -> None:
    if any_of_all(stopping.signal is not None) and state.step < recorder.run.stop:
        recorder.save(state, metrics)
        name = stopping.signal or "SIGTERM"
        raise StoppedError(
            f"stopped by {name} after step {state.step} of {recorder.run.stop}, and saved\n"
            f"hint: go on with --resume --out {recorder.run.folder}",
            name,
        )
