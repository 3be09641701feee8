"""Intervals of means: over seeds and over tasks."""

import numpy as np
import pytest

from tessera.evaluation.means import over_seeds, over_tasks
from tessera.evaluation.metrics import Interval, wilson


def test_one_seed_has_the_interval_of_its_test_images() -> None:
    assert over_seeds([45], 50) == pytest.approx(wilson(45, 50))


def test_seeds_that_agree_add_nothing_and_seeds_that_differ_add_much() -> None:
    same, apart = over_seeds([45, 45, 45], 50), over_seeds([40, 45, 50], 50)
    assert same == pytest.approx(wilson(45, 50))
    assert apart.value == pytest.approx(0.9)
    # By hand: a spread of 0.1 over 3 seeds, 4.303 deviations, and Wilson's bound below 0.9.
    assert apart.low == pytest.approx(
        0.9 - np.hypot(4.303 * 0.1 / 3**0.5, 0.9 - wilson(45, 50).low), abs=1e-3
    )
    assert apart.high == 1.0


def test_the_interval_over_seeds_covers_what_it_should() -> None:
    """Accuracies that vary by draw and by test image: 95 in 100 intervals hold the true mean."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(2000):
        truths = 0.7 + 0.05 * rng.standard_normal(3)
        found = over_seeds([int(n) for n in rng.binomial(200, truths.clip(0, 1))], 200)
        covered += found.low <= 0.7 <= found.high
    assert 0.95 <= covered / 2000 < 1  # measured: 0.9895


def test_the_mean_of_tasks_is_surer_than_each() -> None:
    one = Interval(0.8, 0.7, 0.9)
    found = over_tasks([one] * 4)
    assert found == pytest.approx(Interval(0.8, 0.75, 0.85))
    assert over_tasks([one]) == pytest.approx(one)


def test_nothing_has_no_mean() -> None:
    with pytest.raises(ValueError, match="seed"):
        over_seeds([], 10)
    with pytest.raises(ValueError, match="task"):
        over_tasks([])
