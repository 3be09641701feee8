"""Several trainings at once, each in a process of its own."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from tessera.progress import say
from tessera.recipe import dumps
from tessera.run_folder import RECIPE
from tessera.studies.plan import Trial
from tessera.studies.trial import RESULT, STOPPED, TOLD
from tessera.training.display import clock
from tessera.training.faults import StoppedError, Stopping, stopping_on_signals

TICK = 0.05
"""Seconds between two looks at the processes."""

QUIET = 30.0
"""Seconds without a word after which the time left is said again."""

HOPELESS = 3
"""Failures after which no further training is begun, if none has succeeded."""


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A training that is over."""

    trial: Trial
    result: dict[str, Any] | None
    """What was measured; None if it failed."""
    why: str = ""
    """The end of what a failed one said."""


@dataclass(kw_only=True)
class Pool:
    """Runs trainings in processes, as many at once as it may.

    Args:
        folder: Of the study; each training has a folder in it until its result is kept.
        shared: What every training is told: data, device, threads, images drawn.
    """

    folder: Path
    console: Console
    jobs: int
    shared: dict[str, Any]

    def run(self, trials: Sequence[Trial], total: int) -> Iterator[Finished]:
        """Yield every training as soon as it is over.

        Args:
            total: Trainings of the whole study, for counting.

        Raises:
            StoppedError: SIGTERM or Ctrl-C came; what was under way has saved its state.
        """
        waiting = deque(trials)
        running: dict[subprocess.Popen[bytes], Trial] = {}
        pace = Pace(self.console, list(trials), total)
        with stopping_on_signals() as stopping:
            try:
                while waiting or running:
                    while waiting and len(running) < self.jobs and stopping.signal is None:
                        if pace.is_hopeless:
                            waiting.clear()
                            break
                        trial = waiting.popleft()
                        running[self._start(trial)] = trial
                    if stopping.signal is not None:
                        yield from self._stop(running, stopping)
                    for process in [p for p in running if p.poll() is not None]:
                        finished = self._finished(process, running.pop(process))
                        yield finished  # comes back when it is written down
                        if finished.result is not None:
                            self._clear(finished.trial)
                        pace.count(finished)
                    pace.remind()
                    if running:
                        time.sleep(TICK)
            finally:
                for process in running:
                    process.kill()
                    _wait(process)

    def place(self, trial: Trial) -> Path:
        """Return the folder of a training."""
        return self.folder / "runs" / trial.key.replace("/", "-").replace(" ", "_")

    def _start(self, trial: Trial) -> "subprocess.Popen[bytes]":
        place = self.place(trial)
        place.mkdir(parents=True, exist_ok=True)
        (place / RESULT).unlink(missing_ok=True)
        told = {**self.shared, "share": trial.subject.images}
        (place / TOLD).write_text(json.dumps(told), encoding="utf-8")
        (place / RECIPE).write_text(dumps(trial.recipe), encoding="utf-8")
        with (place / "errors.txt").open("wb") as errors:
            return subprocess.Popen(
                [sys.executable, "-m", "tessera.studies.trial", str(place)],
                stdin=subprocess.PIPE,  # which closes when this process is gone
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,  # Ctrl-C is for this process, which passes it on
            )

    def _finished(self, process: "subprocess.Popen[bytes]", trial: Trial) -> Finished:
        _wait(process)
        place = self.place(trial)
        if process.returncode == 0 and (place / RESULT).is_file():
            result = json.loads((place / RESULT).read_text(encoding="utf-8"))
            return Finished(trial=trial, result=result)
        said = (place / "errors.txt").read_text(encoding="utf-8", errors="replace").strip()
        status = process.returncode
        why = said or f"its process ended with status {status}"
        if status < 0 and not said:
            why = f"its process was ended by signal {-status}, of which memory may be the cause"
        return Finished(trial=trial, result=None, why=_gist(why))

    def _clear(self, trial: Trial) -> None:
        """Remove what a training needed to survive."""
        place = self.place(trial)
        shutil.rmtree(place)
        if not any(place.parent.iterdir()):
            place.parent.rmdir()

    def _stop(
        self, running: "dict[subprocess.Popen[bytes], Trial]", stopping: Stopping
    ) -> Iterator[Finished]:
        """Let all processes save their state, and end; yield those that were just done."""
        for process in running:
            process.terminate()
        lost = []
        for process, trial in list(running.items()):
            _wait(process)
            del running[process]
            if process.returncode == 0:
                yield self._finished(process, trial)
                self._clear(trial)
            elif process.returncode not in (STOPPED, -signal.SIGTERM):
                lost.append(trial.text)
        name = stopping.signal or "SIGTERM"
        saved = f", and saved all but {', '.join(lost)}" if lost else ", and saved"
        raise StoppedError(
            f"stopped by {name}{saved}\nhint: go on with --resume --out {self.folder}", name
        )


class Pace:
    """Counts what is done, and says how long the rest takes."""

    def __init__(self, console: Console, trials: list[Trial], total: int) -> None:
        self.console, self.total = console, total
        self.left = sum(trial.cost for trial in trials)
        self.done = total - len(trials)
        self.spent = 0.0
        self.failures = self.successes = 0
        self.begun = self.said = self.counted = time.perf_counter()

    @property
    def is_hopeless(self) -> bool:
        """Whether all trainings fail."""
        return self.failures >= HOPELESS and not self.successes

    def count(self, finished: Finished) -> None:
        """Say what a training came to."""
        trial, result = finished.trial, finished.result
        self.left -= trial.cost
        self.spent += trial.cost
        self.counted = time.perf_counter()
        if result is None:
            self.failures += 1
            self._say(f"{trial.text}: failed: {finished.why.splitlines()[0]}")
            return
        self.successes += 1
        self.done += 1
        came_to = "diverged"
        if "diverged" not in result:
            share = result["hits"] / result["images"]
            came_to = f"{share:.2%} of the {result['split']} images, {clock(result['seconds'])}"
        self._say(f"{trial.text}: {came_to}")

    def remind(self) -> None:
        """Say something when nothing has been said for long."""
        if time.perf_counter() - self.said > QUIET:
            self._say("training")

    def _say(self, text: str) -> None:
        now = time.perf_counter()
        line = f"{text}; {self.done} of {self.total} done"
        if self.spent and self.left > 0:
            seconds = (self.counted - self.begun) / self.spent * self.left
            line += f", {clock(max(seconds - (now - self.counted), 1.0))} left"
        say(self.console, line)
        self.said = now


def _gist(text: str) -> str:
    """The last line of a traceback, or the whole of a message."""
    return text.splitlines()[-1] if "Traceback" in text else text


def _wait(process: "subprocess.Popen[bytes]") -> None:
    """Wait for a process to end, and close the pipe that told it of this one."""
    process.wait()
    if process.stdin is not None:
        process.stdin.close()
