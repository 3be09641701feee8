"""What was found about images: maps, and how far to believe them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tessera.explain.faithfulness import Faithfulness
from tessera.explain.methods import METHODS
from tessera.explain.sanity import Sanity


@dataclass(kw_only=True)
class ExplainedMap:
    """One map, and how far to believe it."""

    method: str
    values: np.ndarray
    """On the model's input: a number a patch or a pixel; of "pca" three numbers a patch."""
    faithfulness: Faithfulness | None = None
    random: list[Faithfulness] = field(default_factory=list)
    """The same scores of maps drawn at random."""
    verdict: str = ""
    note: str = ""
    picture: str = ""
    curves: str = ""

    @property
    def random_deletion(self) -> float:
        """Mean deletion score of the random maps."""
        return float(np.mean([other.deletion for other in self.random]))

    @property
    def random_insertion(self) -> float:
        """Mean insertion score of the random maps."""
        return float(np.mean([other.insertion for other in self.random]))

    @property
    def beats_random(self) -> bool:
        """Whether both scores are better than the means of the random maps."""
        own = self.faithfulness
        if own is None:
            return False
        return own.deletion < self.random_deletion and own.insertion > self.random_insertion

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON knows them; the map itself is in the .npz."""
        found: dict[str, Any] = {"method": self.method, "note": self.note}
        if self.faithfulness is not None:
            found |= {
                **self.faithfulness._asdict(),
                "random_deletion": self.random_deletion,
                "random_insertion": self.random_insertion,
                "verdict": self.verdict,
            }
        return found


@dataclass(kw_only=True)
class ExplainedImage:
    """An image with its maps."""

    name: str
    target: str | None
    """The class that the maps are about."""
    answer: float | None
    """Its probability, or the number that a regression answers."""
    predicted: str | None
    maps: list[ExplainedMap]
    seen: tuple[float, float, float, float]
    """Left, top, right and bottom of what the model saw, in pixels of the image."""
    files: list[str] = field(default_factory=list)
    picture: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON knows them."""
        keys = ("name", "target", "answer", "predicted", "seen", "files")
        return {
            **{key: getattr(self, key) for key in keys},
            "maps": [one.as_dict() for one in self.maps],
        }


@dataclass(kw_only=True)
class Explanation:
    """Everything that was found."""

    images: list[ExplainedImage]
    sanity: dict[str, Sanity]
    """By method."""
    facts: dict[str, Any]
    """model, task, methods, settings, unreadable, finished, seconds, environment."""
    page: Path | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return every number as JSON knows it."""
        return {
            **self.facts,
            "methods": [self.summary(name) for name in self.facts["methods"]],
            "images": [image.as_dict() for image in self.images],
        }

    def summary(self, name: str) -> dict[str, Any]:
        """Return what is known about a method over all images."""
        maps = [one for image in self.images for one in image.maps if one.method == name]
        scored = [(one, one.faithfulness) for one in maps if one.faithfulness is not None]
        found: dict[str, Any] = {"name": name, "meaning": METHODS[name].meaning}
        found["sanity"] = self.sanity[name].as_dict() if name in self.sanity else None
        found["faithfulness"] = None
        if scored:
            found["faithfulness"] = {
                "deletion": float(np.mean([own.deletion for _, own in scored])),
                "insertion": float(np.mean([own.insertion for _, own in scored])),
                "random_deletion": float(np.mean([one.random_deletion for one, _ in scored])),
                "random_insertion": float(np.mean([one.random_insertion for one, _ in scored])),
                "better_than_random": sum(one.beats_random for one, _ in scored),
                "images": len(scored),
            }
        return found
