"""Meeting a broken loss again: the same weights, the same images, the same random numbers."""

import json
from pathlib import Path

from tessera.data.dataset import Dataset
from tessera.data.sampling import train_sampler
from tessera.recipe import Recipe

REPLAY = "replay.json"
"""Written when the loss breaks: the step, its images, and the command that meets it again."""


def write_replay(
    folder: Path, data: Dataset, recipe: Recipe, *, step: int, loss: float, spec: str
) -> str:
    """Write down a step whose loss is not finite; return the command that repeats it."""
    (keys,) = train_sampler(data, recipe, start=step, stop=step + 1)
    command = f"tessera train {spec} --out {folder} --replay"
    facts = {
        "step": step,
        "loss": str(loss),
        "seed": recipe.seed,
        "images": [{"name": data.name(index), "epoch": epoch} for epoch, index, _ in keys],
        "weights": "the last saved state, from which the steps up to this one are repeated",
        "command": command,
    }
    text = json.dumps(facts, indent=2) + "\n"
    (folder / REPLAY).write_text(text, encoding="utf-8")
    return command


def read_replay(folder: Path) -> tuple[int, list[str]]:
    """Return the step whose loss broke, and the names of its images.

    Raises:
        ValueError: No loss broke in this run.
    """
    path = folder / REPLAY
    if not path.is_file():
        raise ValueError(f"{folder} has no {REPLAY}: no loss broke in this run")
    facts = json.loads(path.read_text(encoding="utf-8"))
    return int(facts["step"]), [image["name"] for image in facts["images"]]
