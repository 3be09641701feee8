"""The paired test against scipy, and what it promises."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from tessera.evaluation.paired import FEW, difference_interval, holm, mcnemar, paired

counts = st.integers(0, 400)


@given(counts, counts)
def test_the_exact_test_is_scipys_binomial_one(first: int, second: int) -> None:
    wanted = binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar(first, second) == pytest.approx(wanted, rel=1e-9)
    assert mcnemar(first, second) == mcnemar(second, first)


@given(counts, counts)
def test_mid_p_counts_half_of_what_was_seen(first: int, second: int) -> None:
    if first + second:
        seen = binom.pmf(min(first, second), first + second, 0.5)
        wanted = min(1.0, 2 * binom.cdf(min(first, second), first + second, 0.5) - seen)
        assert mcnemar(first, second, mid=True) == pytest.approx(wanted, rel=1e-9)
    assert mcnemar(first, second, mid=True) <= mcnemar(first, second)


def test_a_million_images_have_a_p_value() -> None:
    assert mcnemar(40_000, 41_000) == pytest.approx(binomtest(40_000, 81_000).pvalue, rel=1e-6)
    assert mcnemar(0, 1_000_000) == 0


def right(images: int, accuracy: float, rng: np.random.Generator) -> np.ndarray:
    return rng.random(images) < accuracy


def test_all_four_kinds_of_image_are_counted() -> None:
    first = np.array([True, True, True, False, False, False, False])
    second = np.array([True, True, False, True, True, True, False])
    found = paired(first, second)
    assert (found.both, found.only_first, found.only_second, found.neither) == (2, 1, 3, 1)
    assert found.difference.value == pytest.approx(2 / 7)
    assert found.as_dict()["accuracy"] == [3 / 7, 5 / 7]
    assert found.test == "exact"
    assert found.p_value == pytest.approx(binomtest(1, 4).pvalue)


def test_few_images_are_tested_exactly_and_many_by_mid_p() -> None:
    for count, test in ((FEW - 1, "exact"), (FEW, "mid-p")):
        first, second = np.zeros(100, bool), np.arange(100) < count
        assert paired(first, second).test == test
    with pytest.raises(ValueError, match="no images"):
        paired(np.empty(0, bool), np.empty(0, bool))


@pytest.mark.slow
@pytest.mark.parametrize(("images", "accuracy"), [(500, 0.8), (2000, 0.95)])
def test_equal_classifiers_are_told_apart_as_often_as_stated(images: int, accuracy: float) -> None:
    rng = np.random.default_rng(0)
    found = [
        paired(right(images, accuracy, rng), right(images, accuracy, rng)) for _ in range(1000)
    ]
    share = np.mean([each.p_value < 0.05 for each in found])
    assert 0.035 <= share <= 0.065  # measured: 0.049 and 0.045
    covered = np.mean([each.difference.low <= 0 <= each.difference.high for each in found])
    assert 0.935 <= covered <= 0.97  # measured: 0.951 and 0.956


@pytest.mark.slow
@pytest.mark.parametrize(("share", "difference"), [(0.05, 0.0), (0.05, 0.025), (0.01, 0.005)])
def test_the_interval_covers_the_true_difference_of_few_images_too(
    share: float, difference: float
) -> None:
    rng = np.random.default_rng(0)
    first, second = (share - difference) / 2, (share + difference) / 2
    drawn = rng.multinomial(400, [first, second, 1 - share], size=600)
    found = [difference_interval(int(a), int(b), 400) for a, b, _ in drawn]
    covered = np.mean([each.low <= difference <= each.high for each in found])
    assert covered >= 0.93  # measured of 1000: 0.957, 0.947, 0.959


def test_the_interval_is_that_of_drawing_images_in_pairs() -> None:
    rng = np.random.default_rng(0)
    first, second = right(800, 0.7, rng), right(800, 0.8, rng)
    found = paired(first, second).difference
    rows = rng.integers(800, size=(4000, 800))
    gaps = (second.astype(int) - first.astype(int))[rows].mean(axis=1)
    # Both ends are estimates; the added pair moves them by less than 1e-3.
    assert found.low == pytest.approx(np.percentile(gaps, 2.5), abs=3e-3)
    assert found.high == pytest.approx(np.percentile(gaps, 97.5), abs=3e-3)


def test_agreement_on_every_image_is_no_proof_of_equality() -> None:
    found = difference_interval(0, 0, 50)
    assert found.value == 0
    assert -0.1 < found.low < -0.02
    assert 0.02 < found.high < 0.1


def test_holm_steps_down() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.2]) == [0.2]
    assert holm([0.9, 0.8]) == [1.0, 1.0]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_keeps_order_and_never_lowers(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    for (p, a), (q, b) in itertools.combinations(zip(p_values, adjusted, strict=True), 2):
        assert (a <= b) if p < q else (b <= a) if q < p else a == b
