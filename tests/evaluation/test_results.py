"""Scores of every task against scikit-learn, and what their intervals promise."""

import json

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    r2_score,
)

from tessera.evaluation.metrics import wilson
from tessera.evaluation.multilabel import MultiLabelResult
from tessera.evaluation.regress import RegressionResult


@pytest.mark.parametrize(("accuracy", "images"), [(0.9, 200), (0.6, 100), (0.97, 500)])
def test_the_interval_covers_the_true_accuracy_as_often_as_it_says(
    accuracy: float, images: int
) -> None:
    hits = np.random.default_rng(0).binomial(images, accuracy, size=4000)
    intervals = [wilson(int(h), images) for h in hits]
    covered = np.mean([i.low <= accuracy <= i.high for i in intervals])
    assert 0.93 <= covered <= 0.97


def several(count: int = 60, labels: int = 4, seed: int = 0) -> MultiLabelResult:
    rng = np.random.default_rng(seed)
    held = rng.random((count, labels)) < 0.4
    logits = (rng.normal(size=(count, labels)) + 1.5 * held).astype(np.float32)
    return MultiLabelResult(
        split="test",
        class_names=tuple("abcdefgh"[:labels]),
        logits=logits,
        labels=held,
        seconds=1.0,
        rows=np.arange(count),
    )


@pytest.mark.parametrize("seed", range(3))
def test_scores_of_several_labels_are_scikit_learns(seed: int) -> None:
    result = several(seed=seed)
    numbers = result.numbers()
    wanted = average_precision_score(result.labels, result.logits, average="macro")
    assert result.score.interval.value == pytest.approx(wanted)
    assert result.score.interval.low < wanted < result.score.interval.high
    for kind in ("macro", "micro"):
        expected = f1_score(result.labels, result.predicted, average=kind)
        found = numbers["macro_f1"]["value"] if kind == "macro" else numbers["micro_f1"]
        assert found == pytest.approx(expected)
    losses = [
        log_loss(result.labels[:, k], result.probabilities[:, k]) for k in range(4)
    ]  # of each label
    assert result.loss == pytest.approx(np.mean(losses), rel=1e-6)
    exact = (result.predicted == result.labels).all(axis=1).mean()
    assert numbers["exact_match"] == pytest.approx(exact)


def test_a_label_that_no_image_has_is_left_out_of_the_mean() -> None:
    whole = several()
    labels = whole.labels.copy()
    labels[:, 1] = False
    found = MultiLabelResult(
        split="test",
        class_names=whole.class_names,
        logits=whole.logits,
        labels=labels,
        seconds=1.0,
        rows=whole.rows,
    )
    others = [0, 2, 3]
    wanted = average_precision_score(labels[:, others], whole.logits[:, others], average="macro")
    assert found.score.interval.value == pytest.approx(wanted)
    assert found.numbers()["classes"]["b"]["average_precision"] is None


def test_scores_of_numbers_are_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels = rng.normal(50, 10, size=400).astype(np.float32)
    logits = (labels + rng.normal(1, 3, size=400)).astype(np.float32)[:, None]
    result = RegressionResult(
        split="test",
        class_names=("age",),
        logits=logits,
        labels=labels,
        seconds=1.0,
        rows=np.arange(400),
    )
    numbers = result.numbers()
    assert result.score.interval.value == pytest.approx(mean_absolute_error(labels, logits[:, 0]))
    assert result.loss == pytest.approx(mean_squared_error(labels, logits[:, 0]), rel=1e-5)
    assert numbers["r2"] == pytest.approx(r2_score(labels, logits[:, 0]), abs=1e-5)
    assert numbers["bias"] == pytest.approx(float((logits[:, 0] - labels).mean()), abs=1e-4)
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False))["score"]["name"] == "MAE"


def test_the_interval_of_an_error_covers_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    true = np.sqrt(2 / np.pi)  # mean size of a standard normal number
    covered = 0
    for _ in range(1000):
        result = RegressionResult(
            split="test",
            class_names=("x",),
            logits=rng.normal(size=(100, 1)),
            labels=np.zeros(100),
            seconds=1.0,
            rows=np.arange(100),
        )
        interval = result.score.interval
        covered += interval.low <= true <= interval.high
    assert 0.93 <= covered / 1000 <= 0.97
