"""Numbers agree with scipy's and scikit-learn's, and say nothing that is not so."""

import time

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from tessera.evaluation.metrics import (
    confusion_matrix,
    macro_f1,
    macro_f1_interval,
    per_class,
    top_k_hits,
    wilson,
)


def answers(seed: int, images: int = 200, classes: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions, right in about half of all cases."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, images)
    guesses = rng.integers(0, classes, images)
    return labels, np.where(rng.random(images) < 0.5, labels, guesses)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_wilsons(counts: tuple[int, int]) -> None:
    hits, total = counts
    ours = wilson(hits, total)
    theirs = binomtest(hits, total).proportion_ci(method="wilson")
    assert ours.value == hits / total
    # z is written with 7 digits: 4e-9 away at most, measured up to 5000 images.
    assert ours.low == pytest.approx(theirs.low, abs=2e-8)
    assert ours.high == pytest.approx(theirs.high, abs=2e-8)
    assert 0 <= ours.low <= ours.high <= 1
    # At 0 of n the lower end is 6e-17 for some n, by rounding.
    assert ours.low - 1e-12 <= ours.value <= ours.high + 1e-12


def test_no_images_have_no_accuracy() -> None:
    with pytest.raises(ValueError, match="no images"):
        wilson(0, 0)


@pytest.mark.parametrize("seed", range(5))
def test_the_confusion_matrix_is_scikit_learns(seed: int) -> None:
    labels, predicted = answers(seed)
    theirs = sklearn.metrics.confusion_matrix(labels, predicted, labels=range(6))
    np.testing.assert_array_equal(confusion_matrix(labels, predicted, 6), theirs)


def test_classes_without_images_have_a_row_and_a_column() -> None:
    found = confusion_matrix(np.array([0, 2]), np.array([2, 2]), 4)
    assert found.tolist() == [[0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60),
)
def test_precision_recall_and_f1_are_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    labels, predicted = np.array(pairs).T
    ours = per_class(confusion_matrix(labels, predicted, 5))
    theirs = sklearn.metrics.precision_recall_fscore_support(
        labels, predicted, labels=range(5), zero_division=0.0
    )
    # The same quotients in another order: 1e-16 measured.
    for name, column in zip(("precision", "recall", "f1"), theirs[:3], strict=True):
        np.testing.assert_allclose([getattr(c, name) for c in ours], column, rtol=1e-12)
    assert [c.support for c in ours] == theirs[3].tolist()


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60),
)
def test_macro_f1_is_scikit_learns_over_the_classes_that_have_images(
    pairs: list[tuple[int, int]],
) -> None:
    labels, predicted = np.array(pairs).T
    theirs = sklearn.metrics.f1_score(
        labels, predicted, labels=np.unique(labels), average="macro", zero_division=0.0
    )
    ours = macro_f1(per_class(confusion_matrix(labels, predicted, 5)))
    assert ours == pytest.approx(theirs, rel=1e-12)  # a mean in another order: 1e-16 measured


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_top_k_hits_are_scikit_learns_where_nothing_ties(k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(100, 8)), rng.integers(0, 8, 100)
    theirs = sklearn.metrics.top_k_accuracy_score(
        labels, logits, k=k, labels=range(8), normalize=False
    )
    assert top_k_hits(logits, labels, k) == theirs


def test_all_classes_hold_the_right_one() -> None:
    logits = np.random.default_rng(0).normal(size=(30, 4))
    assert top_k_hits(logits, np.arange(30) % 4, 4) == 30


def test_a_model_that_says_the_same_of_every_class_hits_nothing() -> None:
    labels = np.arange(20) % 10
    assert top_k_hits(np.zeros((20, 10)), labels, 5) == 0


def test_a_tie_at_the_border_goes_against_the_model() -> None:
    logits = np.array([[3.0, 2.0, 2.0, 0.0]])
    assert [top_k_hits(logits, np.array([1]), k) for k in (1, 2, 3)] == [0, 0, 1]
    assert top_k_hits(logits, np.array([0]), 1) == 1


def test_answers_that_are_no_numbers_hit_nothing() -> None:
    logits = np.full((4, 8), np.nan)
    assert top_k_hits(logits, np.arange(4), 5) == 0


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_of_macro_f1_holds_scikit_learns_value(seed: int) -> None:
    labels, predicted = answers(seed)
    found = macro_f1_interval(labels, predicted, 6)
    theirs = sklearn.metrics.f1_score(labels, predicted, average="macro")
    assert found.value == pytest.approx(theirs, rel=1e-12)
    assert 0 < found.low < found.value < found.high < 1
    assert found == macro_f1_interval(labels, predicted, 6), "seeded"


def test_the_deviation_behind_it_is_that_of_a_plain_bootstrap() -> None:
    labels, predicted = answers(0, images=2000)
    rng = np.random.default_rng(1)
    plain = []
    for _ in range(300):
        rows = rng.integers(2000, size=2000)
        plain.append(sklearn.metrics.f1_score(labels[rows], predicted[rows], average="macro"))
    found = macro_f1_interval(labels, predicted, 6)
    # Both deviations are estimates, of 400 and of 300 draws: they lie 7 % apart.
    assert (found.high - found.low) / (2 * 1.96 * np.std(plain)) == pytest.approx(1, abs=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(("images", "classes", "accuracy"), [(200, 3, 0.9), (600, 30, 0.7)])
def test_the_interval_of_macro_f1_covers_the_truth_as_often_as_it_says(
    images: int, classes: int, accuracy: float
) -> None:
    rng = np.random.default_rng(0)

    def draw(count: int) -> tuple[np.ndarray, np.ndarray]:
        labels, other = rng.integers(0, classes, count), rng.integers(0, classes, count)
        return labels, np.where(rng.random(count) < accuracy, labels, other)

    truth = macro_f1(per_class(confusion_matrix(*draw(1_000_000), classes)))
    found = [macro_f1_interval(*draw(images), classes) for _ in range(200)]
    covered = np.mean([i.low <= truth <= i.high for i in found])
    assert (
        0.92 <= covered <= 0.99
    )  # measured: 0.97 and 0.96 of 300; of percentiles, 0.77 with 30 classes


def test_a_few_right_answers_do_not_make_macro_f1_certain() -> None:
    labels = np.arange(20) % 4
    found = macro_f1_interval(labels, labels, 4)
    assert found.value == found.high == 1
    assert 0.7 < found.low < 0.95
    alone = macro_f1_interval(np.zeros(3, np.int64), np.zeros(3, np.int64), 1)
    assert alone.low == alone.value == 1, "of one class every answer is right"
    assert macro_f1_interval(labels, (labels + 1) % 4, 4).low == 0


def test_macro_f1_of_many_classes_is_quick() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 1000, 10_000)
    predicted = np.where(rng.random(10_000) < 0.75, labels, rng.integers(0, 1000, 10_000))
    start = time.process_time()
    macro_f1_interval(labels, predicted, 1000)
    assert time.process_time() - start < 2  # measured: 0.11 s
