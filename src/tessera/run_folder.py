"""Where a run goes, and what it is called there."""

from pathlib import Path

RECIPE = "recipe.toml"
"""Where a run folder keeps the recipe that it was trained by."""


def default_folder(data: str) -> Path:
    """Return where a run goes when nobody says: ``runs/`` and the name of the data."""
    return Path("runs") / (Path(data).expanduser().resolve().name if Path(data).exists() else data)
