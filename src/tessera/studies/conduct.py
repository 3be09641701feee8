"""A whole study: planned, trained, measured, and written down."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from tessera.data.holdout import load_data
from tessera.data.loader import cores
from tessera.data.splits import DataSplits
from tessera.devices import pick_device
from tessera.errors import RunError
from tessera.journal import JOURNAL, Journal
from tessera.progress import counting, say
from tessera.recipe import Recipe, dumps, load, merge, nested
from tessera.report.environment import environment
from tessera.report.facts import data_facts
from tessera.run_folder import RECIPE, refuse_used
from tessera.studies.images import ROWS, write_rows
from tessera.studies.plan import Plan, Trial, make_plan, study_recipe
from tessera.studies.pool import Finished, Pool
from tessera.studies.results import StudyResult, make_rows, write_results


def study(
    name: str,
    data: str | Path,
    *,
    recipe: str | Path | Recipe | None = None,
    variants: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    train_images: int | None = None,
    places: bool = False,
    out: str | Path | None = None,
    resume: bool = False,
    jobs: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    console: Console | None = None,
    **fields: Any,
) -> StudyResult:
    """Train the variants of a study with several seeds, and set what comes out beside its claims.

    All that may be wrong is said before any training begins. What is finished is kept, so a study
    that was stopped goes on with ``resume``. Each training is a process of its own.

    Args:
        name: A key of ``tessera.studies.catalogue.STUDIES``.
        data: See ``tessera.data.sources.GRAMMAR``.
        recipe: What the variants are changes of; by default the one made for such data.
        variants: Names of those to train; all by default.
        seeds: The recipe's seed and those after it by default, or those it had; more may be added.
        train_images: How many training images to draw, by the seed; all by default.
        places: Compare positions at every place that they have.
        out: Folder of the results; ``runs/study-<name>-<data>`` by default.
        jobs: Trainings at once; one for each processor by default, on a GPU one.
        overrides: Such as ``{"optim.lr": 1e-4}``.
        fields: Fields of the recipe's root, such as ``seed=1``.

    Raises:
        ValueError: Something in the input is wrong, or the folder holds something else.
        StoppedError: A signal asked to stop; the state is saved.
        RunError: Some training failed; the others are kept.
    """
    spec = str(data)
    folder = Path(out) if out else default_out(name, spec)
    wanted = _recipe(name, spec, recipe, folder if resume else None)
    wanted = merge(wanted, {**nested(dict(overrides or {})), **fields})
    console = console or Console(stderr=True, quiet=True)
    if not resume:
        _refuse_used(folder)
    if jobs is not None and jobs < 1:
        raise ValueError(f"--jobs {jobs} must be at least 1")
    splits = _load(spec, wanted, console)
    seeds = _seeds(folder, seeds) if resume else seeds
    chosen: Any = {"variants": variants, "seeds": seeds, "train_images": train_images}
    plan = make_plan(name, wanted, splits, places=places, **chosen)
    facts = data_facts(splits, list(splits.splits))
    journal = Journal(folder, _identity(plan, facts), {"seeds": list(plan.seeds)})
    pick_device(wanted.device)  # which refuses one that is not there
    if resume:
        journal.restore()
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / ROWS, splits)
    return _train_all(plan, facts, folder, journal, jobs, console)


def _recipe(name: str, spec: str, given: str | Path | Recipe | None, begun: Path | None) -> Recipe:
    """Return the recipe given, that of a study that was begun, or the one for such data."""
    if isinstance(given, Recipe):
        return given
    if given is None and begun is not None and (begun / RECIPE).is_file():
        return load(begun / RECIPE)
    return study_recipe(name, spec, None if given is None else str(given))


def _load(spec: str, recipe: Recipe, console: Console) -> DataSplits:
    """Load the data, and show how far a search for near-duplicates has come."""
    with counting(console, "looking for near-duplicates") as counter:
        return load_data(spec, recipe.data, on_progress=counter.advance)


def _seeds(folder: Path, given: Sequence[int] | None) -> Sequence[int] | None:
    """Return the seeds of a study that goes on: those it had, and more if more are given.

    Raises:
        ValueError: Some that it had are not among those given.
    """
    had: list[int] = Journal.wanted(folder).get("seeds", [])
    if given is None:
        return had or None
    if left := set(had) - set(given):
        words = " ".join(map(str, had))
        raise ValueError(
            f"{folder} was begun with the seeds {words}; without {min(left)} its trainings would "
            f"be lost from the results\nhint: --seeds {words} and more, or another --out"
        )
    return given


def default_out(name: str, data: str) -> Path:
    """Return where the results go when nobody says."""
    path = Path(data).expanduser()
    known = path.resolve().name if path.exists() else data.replace(":", "-").replace(os.sep, "-")
    return Path("runs") / f"study-{name}-{known}"


def _train_all(
    plan: Plan,
    facts: dict[str, Any],
    folder: Path,
    journal: Journal,
    jobs: int | None,
    console: Console,
) -> StudyResult:
    """Do all trainings that are left; results are written after every one of them."""
    journal.save()
    (folder / RECIPE).write_text(dumps(plan.recipe), encoding="utf-8")
    device = pick_device(plan.recipe.device)
    jobs = jobs or (cores() if device.type == "cpu" else 1)
    trials = plan.trials()
    left = [trial for trial in trials if trial.key not in journal.done]
    place = environment(device)

    def result() -> StudyResult:
        rows = make_rows(plan, journal.done)
        return StudyResult(
            plan=plan, data=facts, environment=place, rows=rows, folder=folder, jobs=jobs
        )

    _announce(plan, facts, trials, left, jobs, console)
    shared = {
        "data": facts["spec"],
        "count": plan.train_images,
        "rows": str(folder / ROWS),
        "device": str(device),
        "threads": 1 if device.type == "cpu" else None,
    }
    failed: list[Finished] = []
    pool = Pool(folder=folder, console=console, jobs=jobs, shared=shared)
    for finished in pool.run(left, len(trials)):
        if finished.result is None:
            failed.append(finished)
            continue
        journal.record(finished.trial.key, finished.result)
        write_results(result())
    found = result()
    write_results(found)
    if failed:
        raise RunError(_failures(failed, found))
    return found


def _failures(failed: list[Finished], found: StudyResult) -> str:
    lines = [f"{one.trial.text}: {one.why}" for one in failed]
    return (
        "\n".join(lines) + f"\n{len(found.missing)} of "
        f"{len(found.plan.seeds) * len(found.rows)} trainings are missing; {found.folder} keeps "
        "the others\nhint: --resume tries these again"
    )


def _announce(
    plan: Plan,
    facts: dict[str, Any],
    trials: list[Trial],
    left: list[Trial],
    jobs: int,
    console: Console,
) -> None:
    """Say what is about to be trained."""
    counts = ", ".join(f"{count:,} {name}" for name, count in facts["images"].items())
    say(console, f"study   {plan.study.title}: {plan.study.question}")
    say(console, f"data    {facts['spec']}: {counts} images, {len(facts['classes'])} classes")
    for note in facts["notes"]:
        say(console, f"note    {note}")
    names = ", ".join(subject.variant.name for subject in plan.subjects)
    seeds = ", ".join(map(str, plan.seeds))
    say(console, f"train   {names}; seeds {seeds}: {len(trials)} trainings, {jobs} at once")
    if len(left) < len(trials):
        say(console, f"resumed {len(trials) - len(left)} of them are finished")
    if len(plan.seeds) < 2:
        say(console, "note    one seed leaves all intervals unknown")


def _identity(plan: Plan, facts: dict[str, Any]) -> dict[str, Any]:
    """What must be the same when a study goes on."""
    return {
        "study": plan.name,
        "data": facts["fingerprint"],
        "recipe": dumps(plan.recipe),
        "train images": plan.train_images,
        "variants": [[s.variant.name, dict(s.variant.changes)] for s in plan.subjects],
    }


def _refuse_used(folder: Path) -> None:
    if (folder / JOURNAL).is_file():
        raise ValueError(
            f"{folder} already holds results, and nothing is overwritten\n"
            "hint: go on with --resume, or name another folder with --out"
        )
    refuse_used(folder)
