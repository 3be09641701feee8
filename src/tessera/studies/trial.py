"""One training in a process of its own: ``python -m tessera.studies.trial FOLDER``.

The process has its own memory to measure, and a crash of it takes nothing along.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from tessera.benchmarking.memory import Meter
from tessera.checkpoint.artifact import RUN_FILE, load_artifact, write_atomically
from tessera.errors import RunError
from tessera.evaluation.classify import Result
from tessera.evaluation.measure import measure
from tessera.recipe import load
from tessera.report.environment import environment
from tessera.run_folder import RECIPE
from tessera.studies.images import read_splits
from tessera.training.build import build
from tessera.training.conduct import conduct
from tessera.training.faults import StoppedError, stopping_on_signals
from tessera.training.log import read_log
from tessera.training.loop import DivergedError
from tessera.training.run import Run
from tessera.training.state import exists

TOLD = "trial.json"
"""What to do."""

RESULT = "result.json"
"""What came of it."""

STOPPED = 3
"""Exit status of a training that was asked to stop, and has saved its state."""


def train_one(folder: Path) -> dict[str, Any]:
    """Train what a folder describes, and return what was measured.

    Raises:
        StoppedError: It was asked to stop.
        RunError: Memory, disk or a worker failed it.
    """
    told = json.loads((folder / TOLD).read_text(encoding="utf-8"))
    recipe = load(folder / RECIPE)
    splits = read_splits(
        told["data"], recipe, Path(told["rows"]), count=told["count"], share=told["share"]
    )
    with (folder / "said.txt").open("a", encoding="utf-8") as file:
        torch.manual_seed(recipe.seed)
        model, header = build(recipe, splits, lambda line: None)
        meter = Meter(torch.device(told["device"]))
        run = Run(folder, recipe, splits, model, header, Console(file=file, width=200))
        is_new = not exists(folder)
        if not is_new:
            run.restore()
        else:
            run.start(environment(run.device))
        if not run.is_over:
            try:
                with stopping_on_signals(insist=False) as stopping:
                    conduct(run, stopping)
            except DivergedError as error:
                return {"diverged": str(error).splitlines()[0]}
    memory = meter.read() if is_new else None  # an earlier process saw the beginning of it
    best = load_artifact(folder / RUN_FILE)
    split = "test" if "test" in splits.splits else "val"
    result = measure(
        best.model.to(run.device),
        splits[split],
        best.header.preprocessing,
        split=split,
        device=run.device,
        batch_size=recipe.data.eval_batch_size,
        workers=recipe.data.workers,
    )
    assert isinstance(result, Result), "the plan refuses other tasks"
    log = read_log(folder)
    row = next(row for row in log if row["step"] == run.progress.best_step)
    return {
        "hits": int(result.correct.sum()),
        "images": len(result.labels),
        "split": split,
        "val_accuracy": row["val_accuracy"],
        "val_loss": row["val_loss"],
        "train_loss": row["train_loss"],
        "steps": run.state.step,
        "seconds": run.progress.seconds,
        "trained_images": run.progress.images,
        "memory": memory,
    }


def main() -> int:
    """Train; write the result whole or not at all."""
    folder = Path(sys.argv[1])
    threads = json.loads((folder / TOLD).read_text(encoding="utf-8"))["threads"]
    if threads is not None:
        torch.set_num_threads(threads)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    try:
        text = json.dumps(train_one(folder))
    except StoppedError:
        return STOPPED
    except (RunError, ValueError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    write_atomically(folder / RESULT, lambda part: part.write_text(text, encoding="utf-8"))
    return 0


def _stop_with_parent() -> None:
    """Stop when the study that started this process is gone, however it went."""
    os.read(sys.stdin.fileno(), 1)  # nothing is ever written: it returns when the pipe closes
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
