"""What a person sees while a run goes on: a live bar on a terminal, plain lines elsewhere."""

import time
from abc import ABC, abstractmethod
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


class Display(ABC):
    """Shows progress through the steps of a run; used as a context manager."""

    def __init__(self, console: Console, *, start: int, stop: int) -> None:
        self.console, self.start, self.stop = console, start, stop
        self.began = time.perf_counter()
        self.images = 0

    @abstractmethod
    def advance(self, step: int, numbers: dict[str, float]) -> None:
        """Show the newest training numbers."""

    def note(self, text: str) -> None:
        """Print a line that stays."""
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def images_per_second(self) -> float:
        """Return the mean rate since the start."""
        return self.images / max(time.perf_counter() - self.began, 1e-9)

    def seconds_left(self, step: int) -> float:
        """Return how long the rest takes at the pace so far."""
        done = max(step - self.start, 1)
        return (time.perf_counter() - self.began) / done * (self.stop - step)

    def __enter__(self) -> "Display":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


class LiveDisplay(Display):
    """One bar that is drawn over itself."""

    def __init__(self, console: Console, *, start: int, stop: int) -> None:
        super().__init__(console, start=start, stop=stop)
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[numbers]}"),
            TimeRemainingColumn(),
            console=console,
        )
        self.task = self.bar.add_task("training", total=stop, completed=start, numbers="")

    def __enter__(self) -> "LiveDisplay":
        self.bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bar.stop()

    def advance(self, step: int, numbers: dict[str, float]) -> None:
        self.bar.update(
            self.task, completed=step, numbers=_numbers(numbers, self.images_per_second())
        )

    def note(self, text: str) -> None:
        self.bar.console.print(text, highlight=False, markup=False, soft_wrap=True)


class PlainDisplay(Display):
    """A line now and then, for files and pipes."""

    SECONDS = 10.0
    """Shortest time between two lines."""

    def __init__(self, console: Console, *, start: int, stop: int) -> None:
        super().__init__(console, start=start, stop=stop)
        self.last_line = self.began

    def advance(self, step: int, numbers: dict[str, float]) -> None:
        now = time.perf_counter()
        if now - self.last_line < self.SECONDS:
            return
        self.last_line = now
        left = clock(self.seconds_left(step))
        rate = self.images_per_second()
        self.note(f"step {step}/{self.stop}  {_numbers(numbers, rate)}  {left} left")


def make_display(console: Console, *, start: int, stop: int) -> Display:
    """Choose by what the console is."""
    kind = LiveDisplay if console.is_terminal else PlainDisplay
    return kind(console, start=start, stop=stop)


def clock(seconds: float) -> str:
    """Write a duration for people: ``42 s``, ``3 min 05 s``, ``2 h 10 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _numbers(numbers: dict[str, float], rate: float) -> str:
    shown = f"loss {numbers['loss']:.3f}"
    if "accuracy" in numbers:
        shown += f"  accuracy {numbers['accuracy']:6.1%}"
    return f"{shown}  {rate:,.0f} images/s"
