"""The weighted vote of the nearest images."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from tessera.evaluation import knn
from tessera.evaluation.knn import knn_scores


def points(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 6, count)
    centres = np.random.default_rng(7).normal(size=(6, 10))
    return (centres[labels] + 2 * rng.normal(size=(count, 10))).astype(np.float32), labels


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.07), (1, 0.07), (5, 1.0)])
def test_it_equals_scikit_learn_with_these_weights(
    k: int, temperature: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(knn, "ROWS", 17)  # so that several parts are put together
    train, labels = points(300, 0)
    test, _ = points(100, 1)
    theirs = KNeighborsClassifier(
        n_neighbors=k,
        metric="cosine",
        weights=lambda distance: np.exp((1 - distance) / temperature),
    ).fit(train, labels)
    ours = knn_scores(train, labels, test, 6, k=k, temperature=temperature)
    np.testing.assert_allclose(ours, theirs.predict_proba(test), atol=1e-4)  # measured: 5e-7
    np.testing.assert_array_equal(ours.argmax(axis=1), theirs.predict(test))


def test_a_low_temperature_leaves_the_word_to_the_nearest() -> None:
    train, labels = points(60, 0)
    scores = knn_scores(train, labels, train * 3, 6, k=20, temperature=1e-4)
    assert np.isfinite(scores).all()
    np.testing.assert_array_equal(scores.argmax(axis=1), labels)


@pytest.mark.parametrize(
    ("k", "temperature", "word"), [(0, 0.07, "k=0"), (61, 0.07, "k=61"), (5, 0.0, "temp")]
)
def test_what_cannot_be_is_refused(k: int, temperature: float, word: str) -> None:
    train, labels = points(60, 0)
    with pytest.raises(ValueError, match=word):
        knn_scores(train, labels, train, 6, k=k, temperature=temperature)
