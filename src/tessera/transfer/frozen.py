"""Few-shot and linear accuracy on the data of a suite, on features that are computed once."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tessera.checkpoint.artifact import write_atomically
from tessera.data.dataset import Dataset
from tessera.data.preprocessing import Preprocessing
from tessera.evaluation.few_shot import draw_shots, fit_few_shot
from tessera.evaluation.frozen import frozen_features, published_preprocessing
from tessera.evaluation.tuned_probe import tuned_probe
from tessera.progress import counting
from tessera.transfer.draws import TaskData, draw_images, shot_rows
from tessera.transfer.pieces import Piece, Workplace


@dataclass(frozen=True, kw_only=True)
class Source:
    """Images of a task whose features are wanted."""

    data: Dataset
    part: str


class FrozenTask:
    """All work on one data set without training the model."""

    def __init__(self, place: Workplace, data: TaskData) -> None:
        self.place, self.data = place, data
        self.name = data.task.name

    def pieces(self) -> Iterator[Piece]:
        """Yield every piece of work, for the sum of their costs."""
        yield self._features()
        yield from (self._measure(seed) for seed in self.place.suite.seeds)

    def run(self) -> dict[str, Any]:
        """Do them all, and return the result of every seed."""
        self.place.do(self._features())
        seeds = self.place.suite.seeds
        return {
            "seeds": [{"seed": seed, **self.place.do(self._measure(seed))} for seed in seeds],
        }

    @property
    def _path(self) -> Path:
        return self.place.folder / "features" / f"{self.name}.npz"

    @property
    def preprocessing(self) -> Preprocessing:
        own = self.place.loaded.header.preprocessing
        if self.place.suite.preprocessing == "model":
            return own
        return published_preprocessing(own.channels)

    def _sources(self) -> list[Source]:
        """The images that any seed needs, and the whole test split."""
        suite, test = self.place.suite, Source(data=self.data.test, part="test")
        if suite.method == "few-shot":
            rows = shot_rows(self.data, suite)
            return [Source(data=self.data.train.subset(rows), part="train"), test]
        found: dict[str, list[np.ndarray]] = {"train": [], "tuning": []}
        for seed in suite.seeds:
            draw = draw_images(self.data, suite, seed)
            for part, data in zip(found, draw, strict=True):
                found[part].append(data.rows)
        whole = {"train": self.data.train, "tuning": self.data.val or self.data.train}
        sources = []
        for part, drawn in found.items():
            wanted = np.flatnonzero(np.isin(whole[part].rows, np.concatenate(drawn)))
            sources.append(Source(data=whole[part].subset(wanted), part=part))
        return [*sources, test]

    def _features(self) -> Piece:
        sources = self._sources()
        images = sum(len(source.data) for source in sources)
        return Piece(
            key=f"{self.name}/features",
            text=f"{self.name}: features of {images:,} images",
            cost=float(images),
            work=lambda: self._compute(sources, images),
        )

    def _compute(self, sources: list[Source], images: int) -> dict[str, Any]:
        arrays = {}
        with counting(self.place.console, f"features of {self.name}", images) as counter:
            for source in sources:
                found = frozen_features(
                    self.place.loaded.model,
                    source.data,
                    self.preprocessing,
                    device=self.place.device,
                    batch_size=self.place.batch_size,
                    on_batch=counter.advance,
                )
                arrays[source.part] = found.values
                arrays[f"{source.part}_rows"] = source.data.rows
        self._path.parent.mkdir(exist_ok=True)
        write_atomically(self._path, lambda part: _save_arrays(part, arrays))
        return {"images": images}

    def _measure(self, seed: int) -> Piece:
        method = self.place.suite.method
        return Piece(
            key=f"{self.name}/seed {seed}",
            text=f"{self.name}, seed {seed}: {method}",
            cost=0.02 * len(self.data.test),  # little beside the features
            work=lambda: self._few_shot(seed) if method == "few-shot" else self._linear(seed),
        )

    def _few_shot(self, seed: int) -> dict[str, Any]:
        settings, train = self.place.suite.few_shot, self.data.train
        classes = len(train.class_names)
        with np.load(self._path, allow_pickle=False) as file:
            features, test = file["train"], file["test"]
        rows = draw_shots(train.labels, classes, settings.shots, seed)
        places = np.searchsorted(shot_rows(self.data, self.place.suite), rows)
        (linear,) = fit_few_shot(features[places], train.labels[rows], classes, (settings.penalty,))
        hits = int((linear.predict(test) == self.data.test.labels).sum())
        return {"hits": hits, "images": len(test)}

    def _linear(self, seed: int) -> dict[str, Any]:
        draw = draw_images(self.data, self.place.suite, seed)
        with np.load(self._path, allow_pickle=False) as file:
            sides = []
            for part, data in zip(("train", "tuning"), draw, strict=True):
                rows = file[f"{part}_rows"]
                order = np.argsort(rows)
                places = order[np.searchsorted(rows, data.rows, sorter=order)]
                sides.append((file[part][places], data.labels))
            test = file["test"]
        probe = tuned_probe(sides[0], sides[1], test, len(self.data.train.class_names))
        hits = int((probe.predicted == self.data.test.labels).sum())
        return {"hits": hits, "images": len(test), "strength": probe.strength}


def _save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:  # given a name, numpy would add a suffix of its own
        np.savez(file, allow_pickle=False, **arrays)
