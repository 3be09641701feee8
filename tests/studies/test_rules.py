"""The rules that decide, on numbers made up for them."""

import math
import statistics

import pytest
from scipy import stats

from tessera.studies.rules import (
    Outcome,
    Outcomes,
    Verdict,
    alike,
    best_alike,
    better,
    compare,
    gains_more,
    grows_faster_than_tokens,
    mean_interval,
    worst,
)

NOISE = (-0.002, 0.0, 0.002)


def outcome(name: str, mean: float, noise: tuple[float, ...] = NOISE, **more: object) -> Outcome:
    values = {seed: mean + e for seed, e in enumerate(noise)}
    fields: dict[str, object] = {
        "val_accuracy": values,
        "image_seconds": dict.fromkeys(values, 0.001),
        "tokens": 16,
        **more,
    }
    return Outcome(name=name, accuracy=values, **fields)  # type: ignore[arg-type]


def outcomes(*found: Outcome) -> Outcomes:
    return {one.name: one for one in found}


def test_an_interval_of_a_mean_is_students() -> None:
    values = [0.9, 0.92, 0.97]
    found = mean_interval(values)
    assert found is not None
    low, high = stats.t.interval(
        0.95, 2, statistics.fmean(values), statistics.stdev(values) / math.sqrt(3)
    )
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-12)
    assert mean_interval([0.9]) is None
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


def test_differences_are_paired_by_seed() -> None:
    """What all variants owe to a seed does not widen the interval of a difference."""
    luck = (-0.1, 0.0, 0.1)
    steady = tuple(e + d for e, d in zip(luck, (0.001, 0.0, -0.001), strict=True))
    found = compare(outcome("a", 0.8, luck), outcome("b", 0.75, steady))
    assert found is not None
    assert found.value == pytest.approx(0.05)
    assert found.low is not None
    assert found.low > 0.04
    assert found.text.startswith("a less b: +5.00 points (+4.75 to +5.25")
    lonely = Outcome(name="c", accuracy={7: 0.5}, val_accuracy={}, image_seconds={}, tokens=1)
    assert compare(lonely, outcome("b", 0.75)) is None


SHIFTED = (0.002, -0.002, 0.0)


@pytest.mark.parametrize(
    ("gap", "word"), [(0.05, "holds"), (-0.05, "does not hold"), (0.001, "cannot be told")]
)
def test_better(gap: float, word: str) -> None:
    found = outcomes(outcome("a", 0.8 + gap, SHIFTED), outcome("b", 0.8))
    assert better("a", "b")(found).word == word


def test_the_worst_is_worse_than_each() -> None:
    none, good = outcome("none", 0.7, SHIFTED), outcome("good", 0.9)
    near, below = outcome("near", 0.701), outcome("below", 0.5)
    assert worst("none")(outcomes(none, good)).word == "holds"
    verdict = worst("none")(outcomes(none, good, near))
    assert verdict.word == "cannot be told"
    assert verdict.finding.startswith("near less none: +0.10 points")
    assert verdict.finding.endswith("the smallest of 2 differences")
    assert len(verdict.comparisons) == 2
    assert worst("none")(outcomes(none, good, below)).word == "does not hold"


def test_a_refutation_is_corrected_for_the_number_of_comparisons() -> None:
    """One difference just below 0 refutes alone, but not as one among twenty."""
    none = outcome("none", 0.7)
    slight = outcome("slight", 0.695, (-0.0035, 0.0, 0.0035))
    assert worst("none")(outcomes(none, slight)).word == "does not hold"
    others = [outcome(f"other {i}", 0.9, SHIFTED) for i in range(20)]
    assert worst("none")(outcomes(none, slight, *others)).word == "cannot be told"


def test_alike_is_within_a_margin() -> None:
    tight = (0.0005, -0.0005, 0.0)
    one, two = outcome("one", 0.9, tight), outcome("two", 0.901, (0.0, -0.0005, 0.0005))
    far, none = outcome("far", 0.8, tight), outcome("none", 0.5, tight)
    assert alike("one")(outcomes(one, two)).word == "holds"
    assert alike("one", leave_out=("none",))(outcomes(one, two, none)).word == "holds"
    assert alike("one")(outcomes(one, two, far)).word == "does not hold"
    wide = outcome("wide", 0.9, (-0.02, 0.0, 0.02))
    assert alike("one")(outcomes(one, wide)).word == "cannot be told"


def test_the_best_point_is_chosen_on_validation_images() -> None:
    """The curve's best test accuracy is not its best validation accuracy."""
    tight = (0.0005, -0.0005, 0.0)
    high, low = ({0: v, 1: v, 2: v} for v in (0.95, 0.9))
    found = outcomes(
        outcome("cls 1", 0.9, tight, curve="cls", x=1.0, val_accuracy=high),
        outcome("cls 2", 0.99, curve="cls", x=2.0, val_accuracy=low),
        outcome("avg 1", 0.8, curve="avg", x=1.0, val_accuracy=low),
        outcome("avg 2", 0.9, (0.0, 0.0, 0.0005), curve="avg", x=2.0, val_accuracy=high),
        outcome("avg 3", 0.8, curve="avg", x=3.0, val_accuracy=low),
    )
    verdict = best_alike(("cls", "avg"))(found)
    assert verdict.word == "holds"
    assert "best are cls 1 and avg 2; cls 1 at the edge of what was tried" in verdict.finding


def test_gains_are_compared_seed_by_seed() -> None:
    found = outcomes(
        *(outcome("v0", 0.5), outcome("v1", 0.9, SHIFTED)),
        *(outcome("r0", 0.6), outcome("r1", 0.8, SHIFTED)),
    )
    verdict = gains_more(("v0", "v1"), ("r0", "r1"))(found)
    assert verdict.word == "holds"
    assert verdict.comparisons[0].value == pytest.approx(0.2)
    assert gains_more(("r0", "r1"), ("v0", "v1"))(found).word == "does not hold"


@pytest.mark.parametrize(("power", "word"), [(1.5, "holds"), (0.5, "does not hold")])
def test_growth_is_a_power_of_the_tokens(power: float, word: str) -> None:
    def timed(tokens: int) -> Outcome:
        seconds = {s: tokens**power * (1 + 0.01 * s * (tokens > 20)) for s in range(3)}
        return outcome(f"{tokens}", 0.9, tokens=tokens, image_seconds=seconds)

    verdict = grows_faster_than_tokens()(outcomes(timed(4), timed(16), timed(64)))
    assert verdict.word == word
    assert "from 16 to 64 tokens" in verdict.finding


def test_one_seed_decides_nothing() -> None:
    one = outcomes(outcome("a", 0.9, (0.0,)), outcome("b", 0.1, (0.0,)))
    for rule in (better("a", "b"), worst("b"), alike("a"), grows_faster_than_tokens()):
        verdict = rule({**one, "b": outcome("b", 0.1, (0.0,), tokens=64)})
        assert verdict.word == "cannot be told"
        assert "interval unknown" in verdict.finding or "single seed" in verdict.finding


def test_what_is_not_measured_cannot_be_told() -> None:
    found: Verdict = better("a", "missing")(outcomes(outcome("a", 0.9)))
    assert (found.word, found.finding) == ("cannot be told", "not all of it is measured")
    diverged = Outcome(name="b", accuracy={}, val_accuracy={}, image_seconds={}, tokens=1)
    assert better("a", "b")(outcomes(outcome("a", 0.9), diverged)).word == "cannot be told"
    assert best_alike(("x", "y"))({}).word == "cannot be told"


def test_a_seed_that_diverged_leaves_nothing_to_be_told() -> None:
    lucky = outcome("lucky", 0.9, diverged=1)
    other = outcome("other", 0.5)
    verdict = better("lucky", "other")(outcomes(lucky, other))
    assert verdict.word == "cannot be told"
    assert verdict.finding == "lucky diverged with 1 of 4 seeds"
    pairs = ("other", "lucky"), ("other", "other")
    assert gains_more(*pairs)(outcomes(lucky, other)).word == "cannot be told"
