"""How far a long piece of work has come, for whoever looks at a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Counter:
    """Counts pieces of work; shows nothing before the first."""

    def __init__(self, bar: Progress, text: str, total: int | None) -> None:
        self._bar = bar
        self._task = bar.add_task(text, total=total)
        self._shown = bar.console.is_terminal

    def expect(self, total: int) -> None:
        """Say how many pieces there are."""
        self._bar.update(self._task, total=total)

    def advance(self, pieces: int) -> None:
        """Count more pieces as done."""
        if self._shown:
            self._bar.start()
            self._bar.advance(self._task, pieces)


@contextmanager
def counting(console: Console, text: str, total: int | None = None) -> Iterator[Counter]:
    """Show a bar on a terminal, with the time that is left; elsewhere nothing at all.

    Args:
        total: Pieces of work, if known by now.
    """
    columns = (
        *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, transient=True)
    try:
        yield Counter(bar, text, total)
    finally:
        if bar.live.is_started:
            bar.stop()


def say(console: Console, line: str) -> None:
    """Print a line as it is, unfolded."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)
