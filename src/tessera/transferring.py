"""Transfer of a MODEL to every data set of a suite, with a table of the results."""

from pathlib import Path

from rich.console import Console

from tessera.checkpoint.load import load_model
from tessera.devices import pick_device
from tessera.journal import JOURNAL, Journal
from tessera.progress import say
from tessera.report.environment import environment
from tessera.report.facts import model_facts
from tessera.run_folder import refuse_used
from tessera.transfer.draws import TaskData, find_tasks
from tessera.transfer.finetuning import FinetuneTask
from tessera.transfer.frozen import FrozenTask
from tessera.transfer.identity import identity_of
from tessera.transfer.pieces import Workplace
from tessera.transfer.results import TransferResult, task_result, write_results
from tessera.transfer.suite import read_suite


def transfer(
    model: str | Path,
    suite: str | Path,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    keep_models: bool = False,
    device: str = "auto",
    batch_size: int = 256,
    offline: bool = False,
    console: Console | None = None,
) -> TransferResult:
    """Measure how a MODEL does on every data set of a suite.

    All that may be wrong with the suite, its data or the model is said before any work begins.
    What is finished is kept, so a suite that was stopped goes on with ``resume``.

    Args:
        suite: A TOML file; docs/guides/transfer.md describes it.
        out: Folder of the results; ``runs/transfer-<name of the file>`` by default.
        keep_models: Keep the final model of every task and seed, when fine-tuning.
        batch_size: Images per forward pass when measuring.

    Raises:
        ValueError: Something in the input is wrong, or the folder holds something else.
        RunError: The loss diverges with every setting, or weights cannot be had.
    """
    plan = read_suite(suite)
    folder = Path(out) if out else Path("runs") / f"transfer-{Path(suite).stem}"
    console = console or Console(stderr=True, quiet=True)
    if not resume:
        _refuse_used(folder)
    picked = pick_device(device)
    data = find_tasks(plan)
    loaded = load_model(model, offline=offline)
    journal = Journal(folder, identity_of(plan, data, loaded))
    if resume:
        journal.restore()
    loaded.model.to(picked)
    place = Workplace(
        suite=plan,
        loaded=loaded,
        ref=str(model),
        folder=folder,
        console=console,
        journal=journal,
        device=picked,
        keep_models=keep_models,
        offline=offline,
        batch_size=batch_size,
    )
    folder.mkdir(parents=True, exist_ok=True)
    journal.save()
    return _measure_all(place, data)


def _measure_all(place: Workplace, data: list[TaskData]) -> TransferResult:
    """Do all work that is left, and write the results after every task."""
    kind = FinetuneTask if place.suite.method == "finetune" else FrozenTask
    work = [kind(place, part) for part in data]
    for task in work:
        place.plan(list(task.pieces()))
    _announce(place, data)
    result = TransferResult(
        suite=place.suite,
        model=model_facts(place.loaded.model, place.loaded.header),
        environment=environment(place.device),
        tasks=[],
        folder=place.folder,
    )
    for task, part in zip(work, data, strict=True):
        result.tasks.append(task_result(part, task.run()))
        accuracy = result.tasks[-1].accuracy
        say(place.console, f"{part.task.name}: {accuracy.value:.2%}")
        write_results(result)
    return result


def _refuse_used(folder: Path) -> None:
    if (folder / JOURNAL).is_file():
        raise ValueError(
            f"{folder} already holds results, and nothing is overwritten\n"
            "hint: go on with --resume, or name another folder with --out"
        )
    refuse_used(folder)


def _announce(place: Workplace, data: list[TaskData]) -> None:
    """Say what is about to be measured."""
    suite = place.suite
    say(place.console, suite.title)
    for part in data:
        counts = f"{len(part.train):,} train, {len(part.test):,} {part.task.split}"
        say(
            place.console,
            f"data    {part.task.name}: {counts}, {len(part.train.class_names)} classes",
        )
        for note in part.notes:
            say(place.console, f"note    {note}")
    done = len(place.journal.done)
    say(place.console, f"method  {suite.method}, seeds {', '.join(map(str, suite.seeds))}")
    if done:
        say(place.console, f"resumed {done} pieces of work are finished")
