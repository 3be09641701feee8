"""Make ``corruptions.json`` and ``corruptions.npz``: what the published generator does to images.

Run by hand in an environment of its own, since the package brings its own libraries:

    python3.11 -m venv /tmp/corr-venv
    /tmp/corr-venv/bin/pip install imagecorruptions-imaug==1.1.5
    /tmp/corr-venv/bin/python tests/golden/make_corruptions.py

The package is the generator of ImageNet-C for images of any size; it has that table only, so the
images are of 224 pixels. They are drawn from seeds by ``scene``, which the test imports from here.

- ``corruptions.json``: by corruption, for severities 1 to 5: mean over scenes and draws of the mean
  absolute change (``change``), of the change of the deviation of pixels (``spread``), and of the
  change of the mean difference of neighbours (``detail``), all in grey levels of 255; and the
  versions.
- ``corruptions.npz``: of the corruptions without chance, one scene corrupted at all severities,
  40 rows and columns from the corner.
"""

import importlib
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
SIDE = 224
SCENES = (0, 1, 2, 3)
DRAWS = 6
CHANCELESS = (
    "defocus_blur",
    "zoom_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
    "gaussian_blur",
    "saturate",
)
PART = slice(0, 40)
"""Rows and columns that are kept of pictures."""


def scene(seed: int, height: int = SIDE, width: int = SIDE) -> np.ndarray:
    """Draw an RGB scene: clouds at many sizes like a photograph's, and disks with sharp edges."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / min(height, width)
    image = np.zeros((height, width, 3))
    for octave in range(1, 8):
        for _ in range(6):
            wave = rng.normal(size=2) * 2**octave
            phase = 2 * np.pi * (wave[0] * y + wave[1] * x + rng.random())
            image += np.sin(phase)[..., None] * (rng.normal(size=3) + rng.normal()) * 0.7**octave
    image = 0.42 + 0.12 * image
    for _ in range(12):
        centre, radius = (
            rng.random(2) * (height, width) / min(height, width),
            rng.uniform(0.03, 0.15),
        )
        inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
        image[inside] = 0.35 * image[inside] + 0.65 * rng.random(3)
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def measures(before: np.ndarray, after: np.ndarray) -> tuple[float, float, float]:
    """Return the mean absolute change, the change of deviation, and the change of detail."""
    a, b = before.astype(float), after.astype(float)
    return float(np.abs(a - b).mean()), float(b.std() - a.std()), detail(b) - detail(a)


def detail(image: np.ndarray) -> float:
    """Return the mean absolute difference of neighbours."""
    return float(
        (np.abs(np.diff(image, axis=0)).mean() + np.abs(np.diff(image, axis=1)).mean()) / 2
    )


def main() -> None:
    """Write both files, and say their sizes."""
    generator = importlib.import_module("imagecorruptions")  # not in the project's environment
    corrupt, names = generator.corrupt, generator.get_corruption_names("all")
    np.random.seed(0)
    table: dict[str, dict[str, list[float]]] = {}
    pictures: dict[str, Any] = {}
    for name in names:
        rows = []
        for severity in range(1, 6):
            found = [
                measures(image, corrupt(image, severity, name))
                for image in map(scene, SCENES)
                for _ in range(1 if name in CHANCELESS else DRAWS)
            ]
            rows.append(np.mean(found, axis=0))
        columns = zip(("change", "spread", "detail"), np.transpose(rows), strict=True)
        table[name] = {key: [round(float(v), 3) for v in column] for key, column in columns}
    image = scene(SCENES[0])
    for name in CHANCELESS:
        pictures[name] = np.stack([corrupt(image, s, name)[PART, PART] for s in range(1, 6)])
    packages = ("imagecorruptions-imaug", "opencv-python", "scikit-image", "numpy")
    versions = {p: found_version(p) for p in packages}
    (HERE / "corruptions.json").write_text(
        json.dumps({"corruptions": table, "versions": versions}, indent=1) + "\n"
    )
    np.savez_compressed(HERE / "corruptions.npz", **pictures)
    for path in sorted(HERE.glob("corruptions.*")):
        sys.stdout.write(f"{path.name} {path.stat().st_size}\n")


def found_version(package: str) -> str:
    """Return the version of a package, or that it is not there."""
    try:
        return version(package)
    except ModuleNotFoundError:
        return "absent"


if __name__ == "__main__":
    main()
