"""Fine-tuning of a model on one data set: settings are tuned, then all images are trained on."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tessera.checkpoint.artifact import RUN_FILE, load_artifact
from tessera.data.dataset import Dataset
from tessera.data.splits import DataSplits
from tessera.errors import RunError
from tessera.evaluation.classify import Result
from tessera.evaluation.measure import measure
from tessera.progress import say
from tessera.recipe import Recipe
from tessera.report.environment import environment
from tessera.training.build import build
from tessera.training.conduct import conduct
from tessera.training.faults import StoppedError, stopping_on_signals
from tessera.training.log import read_log
from tessera.training.loop import DivergedError
from tessera.training.run import Run
from tessera.training.state import exists
from tessera.transfer.draws import TaskData, draw_images, join
from tessera.transfer.pieces import Piece, Workplace

MODELS = "models"
"""Folder of the artefacts that are kept."""


class FinetuneTask:
    """All runs of one data set."""

    def __init__(self, place: Workplace, data: TaskData) -> None:
        self.place, self.data = place, data
        self.name = data.task.name

    def pieces(self) -> Iterator[Piece]:
        """Yield every piece of work, for the sum of their costs."""
        for seed in self.place.suite.seeds:
            yield from self._tuning(seed)
            yield self._final(seed, *self._costliest())

    def run(self) -> dict[str, Any]:
        """Do them all, and return the result of every seed."""
        seeds = []
        for seed in self.place.suite.seeds:
            tried = [
                {"lr": lr, "steps": steps, **self.place.do(piece)}
                for piece, (lr, steps) in zip(self._tuning(seed), self._settings(), strict=True)
            ]
            lr, steps = self._best(tried, seed)
            seeds.append(
                {
                    "seed": seed,
                    **self.place.do(self._final(seed, lr, steps)),
                    "tuning": tried,
                    "chosen": {"lr": lr, "steps": steps},
                }
            )
        return {"seeds": seeds}

    def _settings(self) -> tuple[tuple[float, int], ...]:
        """What is tuned: nothing where there is nothing to choose."""
        settings = self.place.suite.finetune.settings
        return settings if len(settings) > 1 else ()

    def _tuning(self, seed: int) -> list[Piece]:
        return [
            Piece(
                key=f"{self.name}/seed {seed}/tune lr={lr:g} steps={steps}",
                text=f"{self.name}, seed {seed}: tuning, rate {lr:g}, {steps:,} steps",
                cost=self._cost(lr, steps),
                work=partial(self._tune, seed, lr, steps),
            )
            for lr, steps in self._settings()
        ]

    def _final(self, seed: int, lr: float, steps: int) -> Piece:
        return Piece(
            key=f"{self.name}/seed {seed}/final",
            text=f"{self.name}, seed {seed}: final run, rate {lr:g}, {steps:,} steps",
            cost=self._cost(lr, steps) + len(self.data.test),
            work=partial(self._train_all, seed, lr, steps),
        )

    def _cost(self, lr: float, steps: int) -> float:
        return 3.0 * steps * self._recipe(lr, steps, 0).data.images_per_step

    def _costliest(self) -> tuple[float, int]:
        return max(self.place.suite.finetune.settings, key=lambda pair: pair[1])

    def _best(self, tried: list[dict[str, Any]], seed: int) -> tuple[float, int]:
        """The highest accuracy on the images to tune on; among equals the lowest loss.

        Raises:
            RunError: The loss of every setting diverged.
        """
        if not tried:
            return self.place.suite.finetune.settings[0]
        sound = [row for row in tried if row["accuracy"] is not None]
        if not sound:
            raise RunError(
                f"{self.name}, seed {seed}: the loss diverges with every learning rate\n"
                "hint: give smaller ones as lr in [finetune]"
            )
        best = max(sound, key=lambda row: (row["accuracy"], -row["loss"]))
        return best["lr"], best["steps"]

    def _tune(self, seed: int, lr: float, steps: int) -> dict[str, Any]:
        """Train on the images to train on, and look once at those to tune on."""
        draw = draw_images(self.data, self.place.suite, seed)
        run_folder = self._folder(f"seed-{seed}-lr-{lr:g}-steps-{steps}")
        try:
            run = self._trained(run_folder, draw.train, draw.tuning, self._recipe(lr, steps, seed))
        except DivergedError:
            shutil.rmtree(run_folder)
            say(self.place.console, f"{self.name}: the loss diverged with rate {lr:g}")
            return {"accuracy": None, "loss": None}
        row = read_log(run.folder)[-1]
        shutil.rmtree(run_folder)
        return {"accuracy": row["val_accuracy"], "loss": row["val_loss"]}

    def _train_all(self, seed: int, lr: float, steps: int) -> dict[str, Any]:
        """Train on all drawn images, and measure the whole test split.

        The run's own look at its end is at images it was trained on; nothing depends on it.
        """
        draw = draw_images(self.data, self.place.suite, seed)
        folder = self._folder(f"seed-{seed}-final")
        run = self._trained(folder, join(draw), draw.tuning, self._recipe(lr, steps, seed))
        best = load_artifact(folder / RUN_FILE)
        test = self.data.test
        result = measure(
            best.model.to(run.device),
            test,
            best.header.preprocessing,
            split=self.data.task.split,
            device=run.device,
            batch_size=self.place.batch_size,
        )
        assert isinstance(result, Result)
        if self.place.keep_models:
            kept = self.place.folder / MODELS / f"{folder.name.removesuffix('-final')}.safetensors"
            kept = kept.with_name(f"{self.name}-{kept.name}")
            kept.parent.mkdir(exist_ok=True)
            (folder / RUN_FILE).replace(kept)
        shutil.rmtree(folder)
        hits = int((result.predicted == result.labels).sum())
        return {"hits": hits, "images": len(result.labels), "seconds": run.progress.seconds}

    def _recipe(self, lr: float, steps: int, seed: int) -> Recipe:
        place = self.place
        recipe = place.suite.finetune.make_recipe(place.ref, lr=lr, steps=steps, seed=seed)
        return replace(recipe, device=str(place.device), offline=place.offline)

    def _folder(self, name: str) -> Path:
        return self.place.folder / "runs" / self.name / name

    def _trained(self, folder: Path, train: Dataset, val: Dataset, recipe: Recipe) -> Run:
        """Train to the end, from the last saved state where one is there."""
        splits = DataSplits(self.data.task.data, {"train": train, "val": val})
        torch.manual_seed(recipe.seed)
        model, header = build(recipe, splits, lambda line: None)
        run = Run(folder, recipe, splits, model, header, self.place.console)
        if exists(folder):
            run.restore()
        else:
            run.start(environment(run.device))
        if not run.is_over:
            try:
                with stopping_on_signals() as stopping:
                    conduct(run, stopping)
            except StoppedError as stopped:
                raise StoppedError(
                    f"stopped by {stopped.signal_name} in {self.name}, and saved\n"
                    f"hint: go on with --resume --out {self.place.folder}",
                    stopped.signal_name,
                ) from stopped
        return run
