"""What a test is made of: levels, each of which is one piece of work."""

from collections.abc import Callable
from dataclasses import dataclass, field

from tessera.stress.subject import Found


@dataclass(frozen=True, kw_only=True)
class Level:
    """One point of a curve."""

    series: str
    """The curve."""
    value: float
    """Place on the axis; 0 for no stress."""
    text: str
    """The value as people write it."""
    passes: int
    """Passes through the model, forward and backward, over all images."""
    measure: Callable[[], Found]


@dataclass(kw_only=True)
class Planned:
    """The levels of a test for one model, and what is left out."""

    levels: list[Level] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a reader must know, and why a part is not measured."""


def percent(share: float) -> str:
    """Write a share without needless digits."""
    return f"{100 * share:.4g} %"
