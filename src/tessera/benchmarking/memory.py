"""Peak memory of one piece of work, each in a process of its own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from tessera.errors import RunError

try:
    import resource
except ModuleNotFoundError:  # on Windows, where nobody tells
    resource = None  # type: ignore[assignment]

UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes of what ``ru_maxrss`` counts in."""


class Meter:
    """The most memory in use since this was made, in bytes.

    On a processor that is the growth of the largest resident set; on a CUDA device what PyTorch
    has allocated. None where nobody tells: on other devices, and on Windows.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.forget()
        self._before = _resident()

    def forget(self) -> None:
        """Count no peak from before now, but all that is still held; where Linux permits it."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            return

    def read(self) -> int | None:
        """Return the peak."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if self.device.type != "cpu" or resource is None:
            return None
        return max(0, _resident() - self._before)


def measure(prepare: Callable[[], Callable[[], object]], device: torch.device) -> int | None:
    """Return the peak memory of three calls, what was prepared for them included, in bytes.

    To be called in a fresh process, since the processor's meter never goes down.
    """
    meter = Meter(device)
    work = prepare()
    meter.forget()
    for _ in range(3):
        work()
    return meter.read()


def ask_child(arguments: list[str]) -> int | None:
    """Run Python with these arguments, and read a number of bytes, or ``None``, off its last line.

    Raises:
        RunError: The process failed, or was killed for its memory.
    """
    found = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False
    )
    if found.returncode:
        said = found.stderr.strip().splitlines()
        why = said[-1] if said else f"it ended with status {found.returncode}"
        raise RunError(f"memory cannot be measured: {why}\nhint: try --no-memory")
    last = found.stdout.strip().splitlines()[-1]
    return None if last == "None" else int(last)


def _resident() -> int:
    """The largest resident set of this process so far, in bytes.

    Linux counts that of the process that started this one into ``ru_maxrss``, so it is asked
    elsewhere.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="ascii", errors="replace").splitlines()
        found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
        if found:
            return int(found[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * UNIT if resource else 0
