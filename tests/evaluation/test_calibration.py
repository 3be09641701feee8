"""Calibration against an obvious implementation, and temperatures that are known beforehand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from tessera.evaluation.calibration import (
    HIGHEST,
    LOWEST,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    softmax,
)
from tessera.evaluation.classify import Result


def simulated(
    images: int, classes: int = 10, seed: int = 0, spread: float = 2.0
) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and labels drawn with just the probabilities that they mean."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=spread, size=(images, classes)).astype(np.float32)
    draws = softmax(logits.astype(np.float64)).cumsum(axis=1) > rng.random((images, 1))
    return logits, draws.argmax(axis=1)


def make_result(logits: np.ndarray, labels: np.ndarray, temperature: float | None) -> Result:
    return Result(
        split="test",
        class_names=tuple(f"c{k}" for k in range(logits.shape[1])),
        logits=logits,
        labels=labels,
        seconds=1.0,
        rows=np.arange(len(labels)),
        temperature=temperature,
    )


def slow_ece(confidence: np.ndarray, correct: np.ndarray, bins: int) -> float:
    """The sum of Guo et al. (2017), equation 3, image by image."""
    total = 0.0
    for m in range(bins):
        inside = [
            i
            for i, c in enumerate(confidence)
            if m / bins < c <= (m + 1) / bins or (m == 0 and c == 0)
        ]
        if inside:
            accuracy = sum(bool(correct[i]) for i in inside) / len(inside)
            mean = sum(float(confidence[i]) for i in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean)
    return total


answered = st.lists(
    st.tuples(
        st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.2, 1 / 3, 0.8, 1.0])), st.booleans()
    ),
    min_size=1,
    max_size=50,
)


@given(answered, st.sampled_from([1, 3, 15]))
def test_the_error_is_that_of_the_obvious_implementation(
    pairs: list[tuple[float, bool]], bins: int
) -> None:
    confidence = np.array([c for c, _ in pairs])
    correct = np.array([hit for _, hit in pairs])
    found = reliability(confidence, correct, bins)
    assert found.ece == pytest.approx(slow_ece(confidence, correct, bins), abs=1e-12)
    assert found.counts.sum() == len(pairs)


def test_no_answers_have_no_calibration() -> None:
    with pytest.raises(ValueError, match="no answers"):
        reliability(np.empty(0), np.empty(0, dtype=bool))
    with pytest.raises(ValueError, match="no images"):
        fit_temperature(np.empty((0, 3)), np.empty(0, dtype=np.int64))


def test_a_classifier_that_means_what_it_says_has_no_error() -> None:
    logits, labels = simulated(20_000)
    result = make_result(logits, labels, None)
    assert result.calibration["before"]["ece"] < 0.012  # measured: 0.0057; chance alone gives that
    assert fit_temperature(logits, labels) == pytest.approx(1, abs=0.03)  # measured: 0.998


@pytest.mark.parametrize("known", [0.4, 1.7, 2.5, 6.0])
def test_a_known_temperature_is_found_again(known: float) -> None:
    logits, labels = simulated(20_000)
    found = fit_temperature(logits * np.float32(known), labels)
    assert found == pytest.approx(known, rel=0.03)  # measured: 0.0024 too low, of each
    result = make_result(logits * np.float32(known), labels, found)
    before, after = result.calibration["before"], result.calibration["after"]
    assert after["ece"] < 0.012 < 0.1 < before["ece"]
    assert after["nll"] < before["nll"]
    assert before["nll"] == pytest.approx(result.loss), "the loss stays that of the logits"


def test_the_temperature_is_where_the_cross_entropy_is_least() -> None:
    logits, labels = simulated(5000, seed=3)
    logits = logits * np.float32(1.9)
    theirs = minimize_scalar(
        lambda t: negative_log_likelihood(logits.astype(np.float64), labels, t),
        bounds=(0.5, 5),
        method="bounded",
        options={"xatol": 1e-7},
    ).x
    # The smoothing of labels by 1 in 5001 is what remains: 5e-4, measured.
    assert fit_temperature(logits, labels) == pytest.approx(theirs, rel=2e-3)


@given(st.floats(LOWEST, HIGHEST), st.integers(0, 1000))
def test_a_temperature_never_changes_the_answer(temperature: float, seed: int) -> None:
    logits, labels = simulated(50, classes=5, seed=seed)
    plain, warm = (make_result(logits, labels, t) for t in (None, temperature))
    np.testing.assert_array_equal(plain.predicted, warm.predicted)
    assert plain.accuracy == warm.accuracy
    # Nothing is above the answer: rounding may put others level with it.
    own = np.take_along_axis(warm.probabilities, plain.predicted[:, None], axis=1)[:, 0]
    np.testing.assert_array_equal(own, warm.probabilities.max(axis=1))
    np.testing.assert_allclose(warm.probabilities.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("images", [1, 5, 40, 1000])
def test_right_answers_alone_do_not_make_a_model_certain(images: int) -> None:
    labels = np.arange(images) % 3
    logits = 10 * np.eye(3, dtype=np.float32)[labels]
    temperature = fit_temperature(logits, labels)
    wrong = 1 - softmax(logits, temperature).max(axis=1)
    share = 2 / 3 / (images + 1)  # two of three classes of the smoothed label are wrong
    np.testing.assert_allclose(wrong, share, rtol=1e-3)


def test_degenerate_answers_have_a_temperature_within_bounds() -> None:
    labels = np.arange(30) % 3
    right = np.eye(3, dtype=np.float32)[labels]
    assert fit_temperature(30 * right, (labels + 1) % 3) == HIGHEST, "all wrong"
    assert fit_temperature(1e-3 * right, labels) == LOWEST, "all right, by a hair"
    assert fit_temperature(0 * right, labels) == 1, "nothing said"
    assert fit_temperature(right + 1e30, labels) == 1, "nothing said, loudly"
    assert fit_temperature(right[:, :1], 0 * labels) == 1, "one class"
    assert LOWEST <= fit_temperature(1e30 * right, labels) <= HIGHEST
    with pytest.raises(ValueError, match="not finite"):
        fit_temperature(right * np.float32("nan"), labels)


def test_without_a_temperature_there_is_no_after() -> None:
    logits, labels = simulated(20)
    found = make_result(logits, labels, None).calibration
    assert found["temperature"] is None
    assert found["after"] is None
    assert sum(found["before"]["bins"]["counts"]) == 20
    assert len(found["before"]["bins"]["counts"]) == 15
