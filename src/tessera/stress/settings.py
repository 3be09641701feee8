"""What is tried, and how hard; the defaults are the published protocols."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from tessera.robustness import attacks, occlusion, patch_attack, permutation
from tessera.robustness.cells import Grid
from tessera.robustness.corruptions import CORRUPTIONS, EXTRA, SEVERITIES, STANDARD

EPS = (1.0, 2.0, 4.0, 8.0)
"""In 255ths: 4/255 is RobustBench's for ImageNet, 8/255 for CIFAR (Croce et al., 2021)."""

RESOLUTIONS = (0.5, 0.75, 1.25, 1.5)
"""Sides of the image that the model is given, as a share of its own."""

CROPS = (1.0, 0.875, 0.75, 0.5)
"""Share of the resized short side that a centre crop keeps."""

QUICK: dict[str, Any] = {
    "quick": True,
    "ratios": (0.25, 0.5, 0.75),
    "masses": (0.25, 0.5, 0.75),
    "runs": 3,
    "permutations": ((2, 2), (4, 4), (8, 8)),
    "areas": (0.15,),
    "patch_runs": 1,
    "patch_steps": 20,
    "eps": (2.0, 8.0),
    "steps": 5,
    "attacked": 100,
    "severities": (3,),
    "resolutions": (0.5, 1.5),
    "crops": (0.5,),
}
"""Fewer levels, draws, steps and images of each."""


@dataclass(frozen=True, kw_only=True)
class StressSettings:
    """Images, levels, draws and steps of every test.

    Raises:
        ValueError: A number is not what it should be; the message says which.
    """

    quick: bool = False
    """Whether these are less than the protocols ask for."""
    images: int = 500
    """Drawn from the split, every class by its share; more than there are takes all."""
    seed: int = 0
    """Of the draw and of everything random."""
    ratios: tuple[float, ...] = occlusion.RATIOS
    """Information loss of random PatchDrop."""
    masses: tuple[float, ...] = occlusion.MASSES
    """Shares of the salience that salient and non-salient PatchDrop take."""
    runs: int = occlusion.RUNS
    """Draws of random PatchDrop."""
    grids: tuple[Grid, ...] = (occlusion.GRID,)
    """Rows and columns of random PatchDrop."""
    head: int | None = None
    """Attention head of the salience, from 0; None is the mean of all."""
    permutations: tuple[Grid, ...] = permutation.GRIDS
    areas: tuple[float, ...] = patch_attack.AREAS
    """Shares of the image that an adversarial patch covers."""
    patch_runs: int = patch_attack.RUNS
    patch_steps: int = patch_attack.STEPS
    eps: tuple[float, ...] = EPS
    """Largest change of a pixel, in 255ths."""
    steps: int = attacks.STEPS
    restarts: int = attacks.RESTARTS
    """Of PGD."""
    attacked: int | None = None
    """Images that FGSM, PGD and patches of single images are tried on; None is all."""
    severities: tuple[int, ...] = SEVERITIES
    corruptions: tuple[str, ...] = ()
    """Names; the 15 standard ones if empty."""
    resolutions: tuple[float, ...] = RESOLUTIONS
    crops: tuple[float, ...] = CROPS

    def __post_init__(self) -> None:
        for name in ("images", "runs", "patch_runs", "patch_steps", "steps", "restarts"):
            self._require(name, [getattr(self, name)], lambda n: n >= 1, "at least 1")
        self._require("seed", [self.seed], lambda n: n >= 0, "at least 0")
        if self.attacked is not None:
            self._require("attacked", [self.attacked], lambda n: n >= 1, "at least 1")
        self._require("ratios", self.ratios, lambda r: 0 <= r < 1, "in [0, 1)")
        self._require("masses", self.masses, lambda r: 0 < r <= 1, "in (0, 1]")
        self._require("areas", self.areas, lambda r: 0 < r <= 1, "in (0, 1]")
        eps = "positive: they are 255ths of the pixel range, and 8 is usual"
        self._require("eps", self.eps, lambda e: 0 < e < math.inf, eps)
        self._require("severities", self.severities, lambda s: s in SEVERITIES, "1 to 5")
        self._require("resolutions", self.resolutions, lambda r: 0 < r <= 4, "in (0, 4]")
        self._require("crops", self.crops, lambda r: 0 < r <= 1, "in (0, 1]")
        if self.corruptions:
            known = f"names of {', '.join(CORRUPTIONS)}"
            self._require("corruptions", self.corruptions, lambda c: c in CORRUPTIONS, known)
        for name in ("grids", "permutations"):
            self._require(name, getattr(self, name), lambda g: min(g) >= 1, "at least 1x1")

    def _require(self, name: str, values: Sequence[Any], holds: Any, wanted: str) -> None:
        if not values or not all(holds(value) for value in values):
            said = ", ".join(map(str, values)) or "none"
            raise ValueError(f"{name.replace('_', '-')}: {said} must be {wanted}")


def make_settings(*, quick: bool = False, **changes: Any) -> StressSettings:
    """Return the published settings, or the quick ones, with what is not None changed."""
    known = {field.name for field in fields(StressSettings)}
    assert set(changes) <= known, set(changes) - known
    given = {name: value for name, value in changes.items() if value is not None}
    return StressSettings(**{**(QUICK if quick else {}), **given})


def parse_grids(texts: Sequence[str]) -> tuple[Grid, ...] | None:
    """Read grids such as 14x14, rows first; None where there are none.

    Raises:
        ValueError: One is not of that form.
    """
    found = []
    for text in texts:
        match = re.fullmatch(r"(\d+)x(\d+)", text)
        if match is None:
            raise ValueError(f"{text!r} is no grid\nhint: give rows and columns, such as 14x14")
        found.append((int(match[1]), int(match[2])))
    return tuple(found) or None


def choose_corruptions(names: Sequence[str]) -> tuple[str, ...] | None:
    """Return the corruptions that names mean, in which standard, extra and all are groups.

    Raises:
        ValueError: No such corruption or group.
    """
    groups = {"standard": STANDARD, "extra": EXTRA, "all": tuple(CORRUPTIONS)}
    found: list[str] = []
    for name in names:
        if name not in groups and name not in CORRUPTIONS:
            known = [*groups, *CORRUPTIONS]
            close = get_close_matches(name, known, n=1)
            guess = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(
                f"unknown corruption {name!r}\nhint: {guess}known are {', '.join(known)}"
            )
        found += groups.get(name, (name,))
    return tuple(dict.fromkeys(found)) or None
