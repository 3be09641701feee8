"""The pieces of work that a suite is made of, and how long the rest of them takes."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from tessera.checkpoint.artifact import LoadedModel
from tessera.journal import Journal
from tessera.progress import say
from tessera.training.display import clock
from tessera.transfer.suite import Suite


@dataclass(frozen=True, kw_only=True)
class Piece:
    """One piece of work, whose result is kept as soon as it is there."""

    key: str
    """What the journal calls it."""
    text: str
    """What it is, for people."""
    cost: float
    """Images that pass through the model, those of training three times."""
    work: Callable[[], dict[str, Any]]


@dataclass(kw_only=True)
class Workplace:
    """What every piece of work needs."""

    suite: Suite
    loaded: LoadedModel
    ref: str
    """The MODEL argument."""
    folder: Path
    console: Console
    journal: Journal
    device: torch.device
    keep_models: bool = False
    offline: bool = False
    batch_size: int = 256
    begun: float = field(default_factory=time.perf_counter)
    total: float = 0.0
    """Cost of all that is left when work begins."""
    spent: float = 0.0

    def do(self, piece: Piece) -> dict[str, Any]:
        """Do a piece of work, or return what an earlier sitting made of it."""
        if piece.key not in self.journal.done:
            say(self.console, f"{piece.text}{self._left()}")
            self.journal.record(piece.key, piece.work())
            self.spent += piece.cost
        found: dict[str, Any] = self.journal.done[piece.key]
        return found

    def plan(self, pieces: list[Piece]) -> None:
        """Add what is still to be done to the total."""
        self.total += sum(piece.cost for piece in pieces if piece.key not in self.journal.done)

    def _left(self) -> str:
        """How long the rest takes at the pace so far; nothing is known before the first piece."""
        if not self.spent:
            return ""
        seconds = (time.perf_counter() - self.begun) / self.spent * (self.total - self.spent)
        return f"; {clock(max(seconds, 0.0))} left in all"
