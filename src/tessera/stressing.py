"""When a MODEL breaks on DATA: every test of stress, for one model or several."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from tessera.checkpoint.artifact import LoadedModel
from tessera.checkpoint.fingerprint import model_fingerprint
from tessera.checkpoint.load import load_model
from tessera.devices import pick_device
from tessera.journal import JOURNAL, Journal
from tessera.progress import counting, say
from tessera.report.environment import environment
from tessera.report.facts import model_facts
from tessera.robustness.autoattack import require_autoattack
from tessera.robustness.salience import require_salience
from tessera.run_folder import refuse_used
from tessera.stress.advice import CONTROLS
from tessera.stress.classes import known_only, names_of
from tessera.stress.images import Images, find_images, find_shift
from tessera.stress.levels import Level, Planned
from tessera.stress.registry import TESTS, choose_tests
from tessera.stress.results import StressResult
from tessera.stress.rows import make_row, mean_of
from tessera.stress.settings import StressSettings
from tessera.stress.subject import Found, Subject, short_name, unique_names
from tessera.stress.writing import write_numbers, write_results

CLEAN = "clean"
"""What the table calls the images as they are."""


def stress(
    model: str | Path,
    data: str | Path,
    *,
    compare: Sequence[str | Path] = (),
    tests: Sequence[str] = (),
    settings: StressSettings | None = None,
    shift: str | Path | None = None,
    salience: str | Path | None = None,
    split: str = "test",
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "auto",
    batch_size: int = 64,
    bad_share: float = 0.05,
    offline: bool = False,
    console: Console | None = None,
) -> StressResult:
    """Measure what accuracy a MODEL keeps when images of DATA are hidden, changed or attacked.

    Every finished level is kept, so that what was stopped goes on with ``resume``. Results do not
    depend on ``batch_size``, but for the last digits.

    Args:
        compare: Other models, measured on the same images.
        tests: Keys of ``tessera.stress.registry.TESTS``; all that need nothing more by default.
        shift: A second data set.
        salience: MODEL whose attention says which cells are salient; each model's own by default.
        out: Folder of the results; ``runs/stress-<name of the model>`` by default.
        bad_share: Share of the images that may be unreadable; they are left out, and named.

    Raises:
        ValueError: Something in the input is wrong, or the folder holds something else.
        RunError: A library that a test needs is not installed, or weights cannot be had.
    """
    settings = settings or StressSettings()
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size} must be at least 1")
    chosen = choose_tests(tests, shift=shift is not None)
    if "autoattack" in chosen:
        require_autoattack()
    folder = _folder(out, model, resume=resume)
    names = unique_names([model, *compare])
    models = {name: load_model(ref, offline=offline) for name, ref in names.items()}
    eye = None if salience is None else _load_eye(salience, offline=offline)
    images = find_images(str(data), split, models, settings, bad_share)
    other = None if shift is None else find_shift(str(shift), images, models, settings, bad_share)
    place = _Place(
        settings=settings,
        tests=chosen,
        models=models,
        eye=eye,
        images=images.for_patches() if "patch" in chosen else images,
        shift=other,
        device=pick_device(device),
        batch_size=batch_size,
        console=console or Console(stderr=True, quiet=True),
    )
    return _measure_all(place, folder, resume=resume)


@dataclass(frozen=True, kw_only=True)
class _Place:
    """All that a sitting works with."""

    settings: StressSettings
    tests: tuple[str, ...]
    models: dict[str, LoadedModel]
    eye: LoadedModel | None
    images: Images
    shift: Images | None
    device: torch.device
    batch_size: int
    console: Console

    def identity(self) -> dict[str, Any]:
        """Return what must be the same when the work is taken up again."""
        return {
            "settings": asdict(self.settings),
            "models": {name: model_fingerprint(each) for name, each in self.models.items()},
            "classes and temperature": {
                name: [list(names_of(each)), each.header.temperature]
                for name, each in self.models.items()
            },
            "salience": None if self.eye is None else model_fingerprint(self.eye),
            "data": [self.images.measured.fingerprint(), self.images.drawn],
            "shift": None if self.shift is None else self.shift.measured.fingerprint(),
        }

    def subject(self, name: str, advance: Callable[[int], None]) -> Subject:
        """Return a model before the images."""
        loaded = self.models[name]
        classes = names_of(loaded)
        shift = None
        if self.shift is not None:
            shift = known_only(self.shift.measured, classes, name, self.shift.spec)
        return Subject(
            name=name,
            loaded=loaded,
            data=self.images.measured.relabel(classes),
            fitting=self.images.fitting and self.images.fitting.relabel(classes),
            shift=shift,
            eye=self.eye,
            device=self.device,
            batch_size=self.batch_size,
            seed=self.settings.seed,
            advance=advance,
        )


def _measure_all(place: _Place, folder: Path, *, resume: bool) -> StressResult:
    """Do all work that is left, model by model; the numbers are written after every test."""
    journal, images = Journal(folder, place.identity()), place.images
    if resume:
        journal.restore()
    result = StressResult(
        settings=place.settings,
        tests=place.tests,
        models={name: model_facts(each.model, each.header) for name, each in place.models.items()},
        data={
            **images.facts(),
            "notes": list(images.notes),
            "shift": None if place.shift is None else place.shift.facts(),
        },
        environment=environment(place.device),
        folder=folder,
    )
    _announce(place, journal)
    with counting(place.console, "stress") as counter:
        work = [_Work(place, journal, result, name, counter.advance) for name in place.models]
        folder.mkdir(parents=True, exist_ok=True)  # all plans are made: nothing is wrong with them
        journal.save()
        result.missing = sum(each.missing for each in work)
        counter.expect(sum(each.passes for each in work))
        for each in work:
            each.run()
            each.subject.release()
    write_results(result)
    return result


class _Work:
    """All tests of one model."""

    def __init__(
        self,
        place: _Place,
        journal: Journal,
        result: StressResult,
        name: str,
        advance: Callable[[int], None],
    ) -> None:
        self.place, self.journal, self.result, self.name = place, journal, result, name
        self.subject = place.subject(name, advance)
        self.plans: dict[str, Planned] = {}
        for test in place.tests:
            self.plans[test] = TESTS[test].plan(self.subject, place.settings)
            result.add_notes(test, name, self.plans[test])
        for test, plan in self.plans.items():  # two wishes may come to the same level
            plan.levels = list({self._key(test, level): level for level in plan.levels}.values())
        left = [
            level for test, level in self._levels() if self._key(test, level) not in journal.done
        ]
        self.missing, self.passes = len(left), sum(level.passes for level in left)

    def run(self) -> None:
        """Measure, or take from the journal, level by level."""
        clean = Level(series=CLEAN, value=0.0, text=CLEAN, passes=0, measure=self._clean)
        self.result.clean[self.name] = make_row(
            self.name, CLEAN, _words(clean), self._do(CLEAN, clean)
        )
        for test, plan in self.plans.items():
            for level in plan.levels:
                fresh = self._key(test, level) not in self.journal.done
                found = self._do(test, level)
                self.result.rows.append(make_row(self.name, test, _words(level), found))
                self.result.missing -= fresh
            self._say(test)
            write_numbers(self.result)

    def _clean(self) -> Found:
        return self.subject.found([self.subject.clean])

    def _levels(self) -> Iterator[tuple[str, Level]]:
        for test, plan in self.plans.items():
            yield from ((test, level) for level in plan.levels)

    def _key(self, test: str, level: Level) -> str:
        return f"{self.name}/{test}/{level.series}/{level.text}"

    def _do(self, test: str, level: Level) -> dict[str, Any]:
        key = self._key(test, level)
        if key not in self.journal.done:
            self.journal.record(key, level.measure().as_dict())
        found: dict[str, Any] = self.journal.done[key]
        return found

    def _say(self, test: str) -> None:
        rows = self.result.of(test, self.name)
        if not rows:
            notes = self.plans[test].notes
            say(self.place.console, f"{self.name}  {test}: not measured; {'; '.join(notes)}")
            return
        rows = [row for row in rows if row.series not in CONTROLS] or rows
        mean, clean = mean_of(rows), rows[0].clean
        levels = f"mean of {len(rows)} levels" if len(rows) > 1 else "1 level"
        say(self.place.console, f"{self.name}  {test}: {clean:.1%} to {mean.value:.1%}, {levels}")


def _words(level: Level) -> dict[str, Any]:
    return {"series": level.series, "value": level.value, "text": level.text}


def _load_eye(ref: str | Path, *, offline: bool) -> LoadedModel:
    eye = load_model(ref, offline=offline)
    require_salience(eye.model.config, str(ref))
    return eye


def _folder(out: str | Path | None, model: str | Path, *, resume: bool) -> Path:
    """Return where the results go; it must be free, unless the work goes on."""
    folder = Path(out) if out else Path("runs") / f"stress-{short_name(model)}"
    if resume:
        return folder
    if (folder / JOURNAL).is_file():
        raise ValueError(
            f"{folder} already holds results, and nothing is overwritten\n"
            "hint: go on with --resume, or name another folder with --out"
        )
    refuse_used(folder)
    return folder


def _announce(place: _Place, journal: Journal) -> None:
    """Say what is about to be measured."""
    images, settings = place.images, place.settings
    count = f"{len(images.measured):,} images of the {images.split} split"
    say(place.console, f"data    {images.spec}: {count}, seed {settings.seed}")
    for note in images.notes:
        say(place.console, f"note    {note}")
    if images.unreadable:
        say(place.console, f"note    {len(images.unreadable)} images cannot be read: left out")
    say(place.console, f"models  {', '.join(place.models)}")
    say(place.console, f"tests   {', '.join(place.tests)}")
    left = [name for name in TESTS if name not in place.tests]
    if left:
        say(place.console, f"note    not asked for: {', '.join(left)}")
    if settings.quick:
        say(place.console, "note    quick: fewer levels, draws, steps and images than published")
    if journal.done:
        say(place.console, f"resumed {len(journal.done)} levels are finished")
