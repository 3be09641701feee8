"""What can befall a run from outside: signals, no memory, no disk, a worker that dies."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import torch

from tessera.errors import RunError


class StoppedError(RunError):
    """A run was asked to stop, and has saved all its state.

    Args:
        signal_name: Of the signal that asked.
    """

    def __init__(self, message: str, signal_name: str) -> None:
        super().__init__(message)
        self.signal_name = signal_name


class Stopping:
    """Remembers a signal to stop until somebody has time for it.

    Args:
        insist: Whether a second one ends the run at once.
    """

    signal: str | None = None
    """Name of the signal that came, if one did."""

    def __init__(self, *, insist: bool = True) -> None:
        self.insist = insist

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None and self.insist:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number).name


@contextmanager
def stopping_on_signals(*, insist: bool = True) -> Iterator[Stopping]:
    """Let SIGTERM and Ctrl-C end a run after the step that is under way; a second one ends it now.

    Without ``insist`` the second is as good as the first: it may be from somebody who does not know
    that another has sent one.

    Only the main thread can listen to signals; in others they do what they always do.
    """
    stopping = Stopping(insist=insist)
    if threading.current_thread() is not threading.main_thread():
        yield stopping
        return
    numbers = signal.SIGTERM, signal.SIGINT
    before = {number: signal.signal(number, stopping._note) for number in numbers}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def explained(
    folder: Path, fits: Callable[[], tuple[int, int | None]], held: Callable[[], list[str]]
) -> Iterator[None]:
    """Say what to do when memory, disk or workers fail a run.

    Args:
        folder: Of the run.
        fits: Returns how many images were wanted at a time, and how many would fit into memory.
        held: Returns the images that workers were reading.

    Raises:
        RunError: One of them did.
    """
    try:
        with _explained_first(folder, fits, held):
            yield
    except RuntimeError as error:  # torch may raise it even while another error is handled
        if isinstance(error, RunError) or "DataLoader worker" not in str(error):
            raise
        raise RunError(_dead_worker(str(error), held())) from error


@contextmanager
def _explained_first(
    folder: Path, fits: Callable[[], tuple[int, int | None]], held: Callable[[], list[str]]
) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise RunError(_no_memory(*fits())) from error
    except (ConnectionError, EOFError) as error:  # what the pipe of a dead worker gives
        raise RunError(_dead_worker(str(error), held())) from error
    except OSError as error:
        raise RunError(
            f"{folder} cannot be written to: {error.strerror or error}\n"
            "hint: make room and go on with --resume; what was saved before is whole"
        ) from error


def _no_memory(wanted: int, fits: int | None) -> str:
    said = f"{wanted} images at a time do not fit into the memory"
    if fits is None:
        return f"{said}, nor does one\nhint: take a smaller model, or --grad-checkpointing"
    return (
        f"{said}\nhint: {fits} do: --data.micro-batch-size {fits} gives the same results, as the "
        "optimizer still sees whole batches"
    )


def largest_that_fits(attempt: Callable[[int], None], below: int) -> int | None:
    """Return the largest half, quarter, ... of a batch that does not run out of memory."""
    size = below // 2
    while size:
        try:
            attempt(size)
        except torch.OutOfMemoryError:
            size //= 2
        else:
            return size
        finally:
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return None


def _dead_worker(message: str, held: list[str]) -> str:
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else torch reports it once more, anywhere
    files = ("; the workers held " + ", ".join(held)) if held else ""
    return (
        f"a process that reads images died: {message.splitlines()[0]}{files}\n"
        "hint: there may be too little memory for so many (--data.workers), or a file that crashes "
        "the decoder (`tessera doctor DATA`); go on with --resume"
    )
