"""Say whether one model is better than another, or only luckier."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from tyro.conf import Positional

from tessera.cli.parse import Command

if TYPE_CHECKING:
    from tessera.comparing import Comparison, Pair


@dataclass(kw_only=True)
class Arguments(Command):
    """Compare models image by image, from the answers in their folders: a paired test for each two.

    It judges these models on these images. Another seed gives another model of the same recipe.
    """

    verb: ClassVar[str] = "compare"

    runs: Positional[tuple[str, ...]]
    """Two or more folders of `tessera train`, or of `tessera evaluate --out`."""
    split: str = "test"
    """train, val or test."""
    out: Path | None = None
    """Folder for comparison.json and differences.csv; it must be new or empty."""
    format: Literal["table", "json"] = "table"
    """A summary for people, or every number for programs."""
    limit: int = 10
    """How many images to list that only one of two models gets right."""

    def run(self) -> int:
        """Compare."""
        from tessera.comparing import compare

        if self.limit < 0:
            raise ValueError(f"--limit {self.limit} must not be negative")
        found = compare(*self.runs, split=self.split, out=self.out)
        if self.format == "json":
            print(json.dumps(found.as_dict(self.limit), indent=2))
            return 0
        numbers = found.as_dict(0)
        print(f"images      {numbers['images']:,} of the {found.split} split")
        for number, row in enumerate(numbers["runs"], 1):
            print(f"{number:<11} {row['run']}: accuracy {row['accuracy']:.2%}")
        for pair in found.pairs:
            print()
            for line in self._lines(found, pair):
                print(line)
        if self.out is not None:
            print(f"\nwritten     {self.out}")
        return 0

    def _lines(self, found: "Comparison", pair: "Pair") -> Iterator[str]:
        """Write two runs for people."""
        one, two, p = pair.first + 1, pair.second + 1, pair.paired
        value, low, high = (f"{100 * share:+.2f}" for share in p.difference)
        yield f"{f'{two} less {one}':<11} {value} points  (95 % interval {low} to {high})"
        counts = f"only {one}: {p.only_first:,}  only {two}: {p.only_second:,}  both: {p.both:,}"
        yield f"right       {counts}"
        more = (
            f"; {pair.p_adjusted:.3g} among {len(found.pairs)} pairs"
            if len(found.pairs) > 1
            else ""
        )
        yield f"p           {p.p_value:.3g}  (McNemar, {p.test}{more})"
        yield f"conclusion  {pair.conclusion}"
        for right, wrong in ((pair.first, pair.second), (pair.second, pair.first)):
            rows = found.only(right, wrong)
            if not rows or not self.limit:
                continue
            yield f"right only in {right + 1}:"
            for row in rows[: self.limit]:
                yield f"  {row['image']}: {row['label']}, {wrong + 1} says {row['predicted']}"
            if len(rows) > self.limit:
                yield f"  and {len(rows) - self.limit:,} more"
