"""Where a run goes, and what it is called there."""

from pathlib import Path

RECIPE = "recipe.toml"
"""Where a run folder keeps the recipe that it was trained by."""


def default_folder(data: str) -> Path:
    """Return where a run goes when nobody says: ``runs/`` and the name of the data."""
    return Path("runs") / (Path(data).expanduser().resolve().name if Path(data).exists() else data)


def refuse_used(folder: Path, *, resumable: bool = False) -> None:
    """Refuse a folder that holds anything.

    Args:
        resumable: Whether the command has ``--resume``.

    Raises:
        ValueError: It does.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "another run" if (folder / RECIPE).exists() else "something else"
        raise ValueError(
            f"{folder} already holds {what}, and nothing is overwritten\n"
            "hint: name another folder with --out"
            + (", or go on with --resume" if resumable and (folder / RECIPE).exists() else "")
        )
