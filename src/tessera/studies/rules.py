"""Rules that decide, from the outcomes of several seeds, whether a claim holds.

All of them compare two variants seed by seed: the same seed gives both the same order of images,
and the same first weights where nothing that is drawn before them differs. An interval of the mean
difference is Student's t over the seeds. It answers for the choice of seeds; the test images are
taken as they are.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from scipy.special import stdtrit

from tessera.evaluation.metrics import Interval

MARGIN = 0.01
"""Difference in accuracy up to which two variants count as alike: one point."""

Word = Literal["holds", "does not hold", "cannot be told"]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a variant came to, over its seeds; a seed without an entry is missing or diverged."""

    name: str
    accuracy: Mapping[int, float]
    """Share of the test images by seed."""
    val_accuracy: Mapping[int, float]
    image_seconds: Mapping[int, float]
    """Seconds of training for each image, by seed."""
    tokens: int
    diverged: int = 0
    """Seeds whose loss did."""
    curve: str = ""
    x: float | None = None


Outcomes = Mapping[str, Outcome]
"""By the name of the variant, in the order of the study."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The mean difference of two variants over the seeds that both have."""

    first: str
    second: str
    value: float
    low: float | None
    """None where a single seed leaves the interval unknown."""
    high: float | None
    seeds: int

    @property
    def text(self) -> str:
        """Write it in points."""
        between = "interval unknown"
        if self.low is not None and self.high is not None:
            between = f"{100 * self.low:+.2f} to {100 * self.high:+.2f}"
        return f"{self.first} less {self.second}: {100 * self.value:+.2f} points ({between})"


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a rule made of the outcomes."""

    word: Word
    finding: str
    comparisons: tuple[Comparison, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        return asdict(self)


Rule = Callable[[Outcomes], Verdict]


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval | None:
    """Return a mean with its interval by Student's t; None of a single value.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("a mean needs at least one value")
    if len(values) < 2:
        return None
    mean = statistics.fmean(values)
    quantile = float(stdtrit(len(values) - 1, (1 + level) / 2))
    half = quantile * statistics.stdev(values) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


def compare(first: Outcome, second: Outcome, level: float = 0.95) -> Comparison | None:
    """Return how much more accurate the first is, seed by seed; None without a common seed."""
    seeds = [seed for seed in first.accuracy if seed in second.accuracy]
    if not seeds:
        return None
    values = [first.accuracy[seed] - second.accuracy[seed] for seed in seeds]
    found = mean_interval(values, level)
    return Comparison(
        first=first.name,
        second=second.name,
        value=statistics.fmean(values),
        low=found.low if found else None,
        high=found.high if found else None,
        seeds=len(seeds),
    )


def better(first: str, second: str) -> Rule:
    """The first is better than the second: the interval of the difference is above 0."""

    def decide(outcomes: Outcomes) -> Verdict:
        return _all_above(outcomes, [(first, second)])

    return decide


def worst(name: str) -> Rule:
    """One variant is worse than each of the others.

    It holds if every interval of a difference is above 0, which needs no correction, since all
    must be. It does not if one is below 0 at a level corrected for their number (Bonferroni).
    """

    def decide(outcomes: Outcomes) -> Verdict:
        return _all_above(outcomes, [(other, name) for other in outcomes if other != name])

    return decide


def alike(reference: str, leave_out: Sequence[str] = (), margin: float = MARGIN) -> Rule:
    """All others are within a margin of one of them.

    It holds if every interval lies within the margin; it does not if one lies beyond it at a level
    corrected for their number.
    """

    def decide(outcomes: Outcomes) -> Verdict:
        names = [n for n in outcomes if n != reference and n not in leave_out]
        return _all_within(outcomes, [(name, reference) for name in names], margin)

    return decide


def best_alike(curves: tuple[str, str], margin: float = MARGIN) -> Rule:
    """Two curves are within a margin of each other, each at its best point.

    The best point is the one of the highest mean accuracy on the validation images; the test
    images, on which both are then compared, choose nothing.
    """

    def decide(outcomes: Outcomes) -> Verdict:
        chosen = [_best(outcomes, curve) for curve in curves]
        if None in chosen:
            return _untold("not all of it is measured")
        first, second = (outcome.name for outcome in chosen if outcome is not None)
        verdict = _all_within(outcomes, [(first, second)], margin)
        edges = [name for name in (first, second) if _is_edge(outcomes, name)]
        note = f"; {', '.join(edges)} at the edge of what was tried" if edges else ""
        return Verdict(
            word=verdict.word,
            finding=f"best are {first} and {second}{note}; {verdict.finding}",
            comparisons=verdict.comparisons,
        )

    return decide


def gains_more(first: tuple[str, str], second: tuple[str, str]) -> Rule:
    """From one variant to another, the first pair gains more accuracy than the second.

    Args:
        first: Names of the variant with less and of that with more.
        second: The same of what it is compared with.
    """

    def decide(outcomes: Outcomes) -> Verdict:
        names = (*first, *second)
        if any(name not in outcomes for name in names):
            return _untold("not all of it is measured")
        if lost := _divergence(outcomes, names):
            return _untold(lost)
        a, b, c, d = (outcomes[name].accuracy for name in names)
        seeds = [seed for seed in a if seed in b and seed in c and seed in d]
        if not seeds:
            return _untold("not all of it is measured")
        gains = [(b[s] - a[s]) - (d[s] - c[s]) for s in seeds]
        found = mean_interval(gains)
        what = f"from {first[0]} to {first[1]}, less that from {second[0]} to {second[1]}"
        comparison = Comparison(
            first=f"gain {what}",
            second="0",
            value=statistics.fmean(gains),
            low=found.low if found else None,
            high=found.high if found else None,
            seeds=len(seeds),
        )
        return Verdict(
            word=_above(comparison),
            finding=comparison.text.replace(" less 0:", ":"),
            comparisons=(comparison,),
        )

    return decide


def grows_faster_than_tokens() -> Rule:
    """Between the two largest numbers of tokens, time grows by a power of them above 1."""

    def decide(outcomes: Outcomes) -> Verdict:
        timed = sorted((o for o in outcomes.values() if o.image_seconds), key=lambda o: o.tokens)
        if len(timed) < 2:
            return _untold("fewer than two numbers of tokens are measured")
        few, many = timed[-2:]
        ratio = math.log(many.tokens / few.tokens)
        powers = [
            math.log(many.image_seconds[seed] / few.image_seconds[seed]) / ratio
            for seed in many.image_seconds
            if seed in few.image_seconds
        ]
        if not powers:
            return _untold("no seed has both")
        what = f"from {few.tokens} to {many.tokens} tokens, time grows as tokens to the power "
        found = mean_interval(powers)
        if found is None:
            return _untold(f"{what}{powers[0]:.2f}, for a single seed")
        finding = f"{what}{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"
        word: Word = "cannot be told"
        if found.low > 1:
            word = "holds"
        elif found.high < 1:
            word = "does not hold"
        return Verdict(word=word, finding=finding)

    return decide


def _all_above(outcomes: Outcomes, pairs: Sequence[tuple[str, str]]) -> Verdict:
    if lost := _divergence(outcomes, [name for pair in pairs for name in pair]):
        return _untold(lost)
    found = _compared(outcomes, pairs, 0.95)
    if found is None:
        return _untold("not all of it is measured")
    words = {_above(comparison) for comparison in found}
    corrected = _compared(outcomes, pairs, 1 - 0.05 / len(pairs)) or []
    word: Word = "cannot be told"
    if words == {"holds"}:
        word = "holds"
    elif any(_above(comparison) == "does not hold" for comparison in corrected):
        word = "does not hold"
    smallest = min(found, key=lambda c: c.value)
    more = f"; the smallest of {len(found)} differences" if len(found) > 1 else ""
    return Verdict(word=word, finding=f"{smallest.text}{more}", comparisons=tuple(found))


def _all_within(outcomes: Outcomes, pairs: Sequence[tuple[str, str]], margin: float) -> Verdict:
    if lost := _divergence(outcomes, [name for pair in pairs for name in pair]):
        return _untold(lost)
    found = _compared(outcomes, pairs, 0.95)
    if found is None:
        return _untold("not all of it is measured")
    corrected = _compared(outcomes, pairs, 1 - 0.05 / len(pairs)) or []
    word: Word = "cannot be told"
    if all(c.low is not None and -margin < c.low and _high(c) < margin for c in found):
        word = "holds"
    elif any(c.low is not None and (c.low > margin or _high(c) < -margin) for c in corrected):
        word = "does not hold"
    largest = max(found, key=lambda c: abs(c.value))
    more = f"; the largest of {len(found)} differences" if len(found) > 1 else ""
    return Verdict(word=word, finding=f"{largest.text}{more}", comparisons=tuple(found))


def _compared(
    outcomes: Outcomes, pairs: Sequence[tuple[str, str]], level: float
) -> list[Comparison] | None:
    """All comparisons, or None where one cannot be made."""
    if not pairs or any(name not in outcomes for pair in pairs for name in pair):
        return None
    found = [compare(outcomes[a], outcomes[b], level) for a, b in pairs]
    whole = [comparison for comparison in found if comparison is not None]
    return whole if len(whole) == len(found) else None


def _divergence(outcomes: Outcomes, names: Sequence[str]) -> str:
    """Say which of them diverged with some seed; the seeds that are left would flatter it."""
    found = [outcomes[name] for name in dict.fromkeys(names) if name in outcomes]
    lost = [
        f"{one.name} diverged with {one.diverged} of {one.diverged + len(one.accuracy)} seeds"
        for one in found
        if one.diverged
    ]
    return "; ".join(lost)


def _above(comparison: Comparison) -> Word:
    if comparison.low is None or comparison.high is None:
        return "cannot be told"
    if comparison.low > 0:
        return "holds"
    return "does not hold" if comparison.high < 0 else "cannot be told"


def _high(comparison: Comparison) -> float:
    assert comparison.high is not None, "an interval has two ends"
    return comparison.high


def _best(outcomes: Outcomes, curve: str) -> Outcome | None:
    sound = [o for o in outcomes.values() if o.curve == curve and o.val_accuracy]
    most = max((len(o.val_accuracy) for o in sound), default=0)
    whole = [o for o in sound if len(o.val_accuracy) == most]  # no seed of which diverged
    return max(whole, key=lambda o: statistics.fmean(o.val_accuracy.values()), default=None)


def _is_edge(outcomes: Outcomes, name: str) -> bool:
    places = [o.x for o in outcomes.values() if o.curve == outcomes[name].curve and o.x is not None]
    return len(places) > 1 and outcomes[name].x in (min(places), max(places))


def _untold(why: str) -> Verdict:
    return Verdict(word="cannot be told", finding=why)
