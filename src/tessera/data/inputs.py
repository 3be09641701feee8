"""Images that are named on a command line: files, folders, splits of embedded data."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from tessera.data.archives import EMBEDDED
from tessera.data.holdout import load_data
from tessera.data.images import SUFFIXES


def find_images(
    inputs: Iterable[str],
) -> list[tuple[str, str | Path | Image.Image | np.ndarray]]:
    """Turn files, folders and splits of embedded data into named images.

    Raises:
        ValueError: An input is none of these, or a folder has no images.
    """
    found: list[tuple[str, str | Path | Image.Image | np.ndarray]] = []
    for text in inputs:
        name, _, split = text.partition(":")
        path = Path(text).expanduser()
        if name in EMBEDDED and not path.exists():
            data = load_data(name)[split or "test"]
            found += [(data.name(i), data.read(i)) for i in range(len(data))]
        elif path.is_dir():
            files = [p for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES]
            if not files:
                raise ValueError(f"{path} has no images")
            found += [(str(p), p) for p in files]
        elif path.exists():
            found.append((text, path))
        else:
            raise ValueError(
                f"no such image: {text}\n"
                f"hint: give files, folders, or a split such as {next(iter(EMBEDDED))}:test"
            )
    return found
