"""Ridge regression in closed form, step by step as published."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from tessera.evaluation.few_shot import (
    BIAS,
    draw_shots,
    few_shot,
    fit_few_shot,
    ridge_path,
)


def clouds(count: int, dim: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping clouds of points, of unlike scale in every direction."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    centres = np.random.default_rng(99).normal(size=(classes, dim))
    points = centres[labels] + rng.normal(size=(count, dim))
    scale = np.random.default_rng(98).uniform(0.1, 5, dim)
    return (points * scale + 3).astype(np.float32), labels


def slow_scores(
    train: np.ndarray, labels: np.ndarray, test: np.ndarray, classes: int, penalty: float
) -> np.ndarray:
    """The formula of the fact book, an inverse and all."""
    mean, std = train.astype(float).mean(0), train.astype(float).std(0) + 1e-5
    x = np.concatenate([(train - mean) / std, np.full((len(train), 1), 100.0)], axis=1)
    z = np.concatenate([(test - mean) / std, np.full((len(test), 1), 100.0)], axis=1)
    y = np.where(labels[:, None] == np.arange(classes), 1.0, -1.0)
    return z @ (np.linalg.inv(x.T @ x + penalty * np.eye(x.shape[1])) @ x.T @ y)


@pytest.mark.parametrize(("count", "dim"), [(60, 12), (9, 40), (13, 12)])
@pytest.mark.parametrize("penalty", [0.5, 1024.0])
def test_the_solution_is_the_obvious_one(count: int, dim: int, penalty: float) -> None:
    train, labels = clouds(count, dim, 3)
    test, _ = clouds(30, dim, 3, seed=1)
    (linear,) = fit_few_shot(train, labels, 3, (penalty,))
    ours = test @ linear.weight + linear.bias
    np.testing.assert_allclose(
        ours, slow_scores(train, labels, test, 3, penalty), atol=1e-7
    )  # measured: 1.3e-11


@pytest.mark.parametrize(("count", "dim"), [(80, 20), (15, 64)])
@pytest.mark.parametrize("penalty", [1.0, 1024.0])
def test_it_equals_ridge_of_scikit_learn(count: int, dim: int, penalty: float) -> None:
    train, labels = clouds(count, dim, 5)
    mean, std = train.astype(float).mean(0), train.astype(float).std(0) + 1e-5
    x = np.pad((train - mean) / std, ((0, 0), (0, 1)), constant_values=BIAS)
    y = 2.0 * np.eye(5)[labels] - 1
    theirs = Ridge(alpha=penalty, fit_intercept=False, solver="cholesky").fit(x, y).coef_.T
    ours = ridge_path(x, y).weights(penalty)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)  # measured: 1.4e-12


def test_one_decomposition_serves_every_penalty() -> None:
    train, labels = clouds(40, 8, 4)
    together = fit_few_shot(train, labels, 4, (1.0, 32.0, 1024.0))
    for penalty, linear in zip((1.0, 32.0, 1024.0), together, strict=True):
        (alone,) = fit_few_shot(train, labels, 4, (penalty,))
        np.testing.assert_array_equal(linear.weight, alone.weight)
    assert abs(together[0].weight).sum() > abs(together[2].weight).sum()


def test_whitening_uses_the_training_images_alone() -> None:
    train, labels = clouds(40, 8, 4)
    test, _ = clouds(20, 8, 4, seed=1)
    (linear,) = fit_few_shot(train, labels, 4)
    whole, one = linear.predict(test), [linear.predict(row[None])[0] for row in test]
    np.testing.assert_array_equal(whole, one)
    # A map of features to other units changes nothing, since whitening undoes it.
    (other,) = fit_few_shot(train * 7 - 2, labels, 4)
    np.testing.assert_allclose(
        other.bias + (test * 7 - 2) @ other.weight, linear.bias + test @ linear.weight, atol=1e-3
    )  # measured: 1.8e-6, of the deviations' floor


def test_the_draw_is_balanced_and_the_same_for_a_seed() -> None:
    labels = np.random.default_rng(0).integers(0, 4, 200)
    drawn = draw_shots(labels, 4, 7, seed=3)
    assert np.bincount(labels[drawn]).tolist() == [7, 7, 7, 7]
    assert len(set(drawn.tolist())) == 28
    np.testing.assert_array_equal(drawn, draw_shots(labels, 4, 7, seed=3))
    assert set(drawn.tolist()) != set(draw_shots(labels, 4, 7, seed=4).tolist())
    assert set(draw_shots(labels, 4, 2, seed=3).tolist()) < set(drawn.tolist())


def test_the_draw_is_that_of_the_published_code() -> None:
    labels = np.array([1, 0, 1, 1, 0, 0, 1, 0])
    rng = np.random.default_rng(5)
    expected = [rng.permutation(np.where(labels == k)[0])[:2] for k in (0, 1)]
    np.testing.assert_array_equal(draw_shots(labels, 2, 2, seed=5), np.concatenate(expected))


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="class 1 has only 2 images"):
        draw_shots(np.array([0, 0, 0, 1, 1]), 2, 3, seed=0)
    with pytest.raises(ValueError, match="positive"):
        fit_few_shot(np.eye(4), np.arange(4), 4, (0.0,))


def test_more_shots_are_better() -> None:
    train, test = clouds(400, 16, 4), clouds(400, 16, 4, seed=1)
    rows = few_shot(train, test, 4, shots=(1, 25), seeds=(0, 1, 2))
    assert [(row.shots, row.seed) for row in rows] == [(n, s) for n in (1, 25) for s in (0, 1, 2)]
    few, many = (np.mean([r.hits for r in rows if r.shots == n]) / 400 for n in (1, 25))
    assert few < 0.8 < many  # measured: 0.62 and 0.95
    assert rows == few_shot(train, test, 4, shots=(1, 25), seeds=(0, 1, 2))


@pytest.mark.slow
def test_five_shots_tell_ants_from_bees(shared: Path) -> None:
    import tessera
    from tessera.probing import ProbeSettings

    weights = shared / "weights" / "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"
    settings = ProbeSettings(methods=("few-shot", "knn", "linear"), shots=(5,))
    found = tessera.probe(weights, shared / "data" / "ants-bees", settings)
    five, knn, linear = (score.accuracy.value for score in found.scores)
    assert five > 0.85  # measured: 0.926
    assert knn > 0.93  # measured: 0.967
    assert linear > 0.93  # measured: 0.967
