"""Measure when a model breaks."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from tyro.conf import Positional

from tessera.cli.parse import Command

if TYPE_CHECKING:
    from tessera.stress.results import StressResult


@dataclass(kw_only=True)
class Arguments(Command):
    """Measure what accuracy a model keeps when images are hidden, shuffled, corrupted or attacked.

    The protocols are the published ones; docs/guides/stress.md describes each test. Classes are
    matched by name.
    """

    verb: ClassVar[str] = "stress"

    model: Positional[str]
    """A run folder, a checkpoint file or folder, or <model>.<tag> of published weights."""
    data: Positional[str]
    """As for train: a folder of class folders, a table, parquet, tar shards, `digits`."""
    tests: tuple[str, ...] = ()
    """occlusion, salience, permutation, patch, image-patch, fgsm, pgd, corruptions, resolutions,
    crops, which is all if left out; and autoattack, shift."""
    compare: tuple[str, ...] = ()
    """Other models, on the same images and in the same pictures."""
    shift: str | None = None
    """A second data set, classes matched by name; those that are not in both are left out."""
    quick: bool = False
    """Fewer levels, draws, steps and images: about a minute for 500 images of a small model."""
    images: int | None = None
    """Drawn from the split, every class by its share; 500 if left out."""
    seed: int = 0
    """Of the draw and of everything random."""
    split: str = "test"
    """train, val or test."""
    out: Path | None = None
    """Folder for results.html, .json, .csv and curves.svg; runs/stress-<model> if left out."""
    resume: bool = False
    """Go on where the folder was left; finished levels are not measured again."""
    ratios: tuple[float, ...] | None = None
    """Shares of the cells that random occlusion drops; 0 to 0.9."""
    runs: int | None = None
    """Draws of random occlusion that are averaged; 5."""
    grids: tuple[str, ...] = ()
    """Cells of random occlusion, as 14x14; rows first."""
    salience: str | None = None
    """MODEL whose attention says which cells are salient; each model's own if left out."""
    head: int | None = None
    """Attention head of the salience, from 0; the mean of all if left out."""
    permutations: tuple[str, ...] = ()
    """Grids whose cells change places, as 4x4; 2x2 to 16x16."""
    areas: tuple[float, ...] | None = None
    """Shares of the image that adversarial patches cover; 0.05, 0.15, 0.25."""
    eps: tuple[float, ...] | None = None
    """Largest change of a pixel in 255ths, for FGSM, PGD and AutoAttack; 1, 2, 4, 8."""
    steps: int | None = None
    """Of PGD; 20."""
    restarts: int | None = None
    """Random starts of PGD; 1."""
    corruptions: tuple[str, ...] = ()
    """Names, or standard (15), extra (4), all; standard if left out."""
    severities: tuple[int, ...] | None = None
    """Of corruptions; 1 to 5."""
    format: Literal["table", "json"] = "table"
    """A summary for people, or every number for programs."""
    batch_size: int = 64
    """Images per pass; results do not depend on it."""
    bad_share: float = 0.05
    """Share of images that may be unreadable; they are left out and named; more is an error."""
    device: str = "auto"
    """auto takes cuda, else mps, else cpu."""
    offline: bool = False
    """Never fetch published weights; take them from the cache or not at all."""

    def run(self) -> int:
        """Measure, and print what was found."""
        from rich.console import Console

        from tessera.stress.registry import choose_tests
        from tessera.stress.settings import choose_corruptions, make_settings, parse_grids
        from tessera.stressing import stress

        choose_tests(self.tests, shift=self.shift is not None)
        settings = make_settings(
            quick=self.quick,
            images=self.images,
            seed=self.seed,
            ratios=self.ratios,
            runs=self.runs,
            grids=parse_grids(self.grids),
            head=self.head,
            permutations=parse_grids(self.permutations),
            areas=self.areas,
            eps=self.eps,
            steps=self.steps,
            restarts=self.restarts,
            corruptions=choose_corruptions(self.corruptions),
            severities=self.severities,
        )
        found = stress(
            self.model,
            self.data,
            compare=self.compare,
            tests=self.tests,
            settings=settings,
            shift=self.shift,
            salience=self.salience,
            split=self.split,
            out=self.out,
            resume=self.resume,
            device=self.device,
            batch_size=self.batch_size,
            bad_share=self.bad_share,
            offline=self.offline,
            console=Console(stderr=True),
        )
        if self.format == "json":
            print(json.dumps(found.as_dict(), indent=2))
            return 0
        for line in _lines(found):
            print(line)
        print(f"\nreport  {found.folder / 'results.html'}")
        return 0


def _lines(found: "StressResult") -> Iterator[str]:
    """Write the means and the weakest points for people."""
    numbers = found.as_dict()
    if found.settings.quick:
        yield "quick: fewer levels, draws, steps and images than the protocols ask for\n"
    for model in found.models:
        clean = found.clean[model]
        yield f"{model}: {_interval(clean.accuracy._asdict())} without stress"
        means = [row for row in numbers["means"] if row["model"] == model]
        width = max((len(f"{row['test']}: {row['series']}") for row in means), default=0)
        for row in means:
            name = f"{row['test']}: {row['series']}"
            levels = f"mean of {row['levels']} levels" if row["levels"] > 1 else "1 level"
            yield f"  {name:<{width}}  {_interval(row['accuracy'])}  {levels}"
        yield "  weakest"
        points = found.weakest[model]
        if not points:
            yield "    no test takes more accuracy than chance explains"
        for point in points:
            flags = f" ({point.advice.flags})" if point.advice.flags else ""
            yield f"    {point.test}, {point.series}: {point.worst}; {point.advice.text}{flags}"
    for test, of_models in numbers["notes"].items():
        for model, notes in of_models.items():
            yield from (f"note  {test}, {model}: {note}" for note in notes)


def _interval(accuracy: dict[str, Any]) -> str:
    value, low, high = (f"{accuracy[key]:.1%}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
