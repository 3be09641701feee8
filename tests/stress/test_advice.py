"""Advice names flags that train has, and points that really are weak."""

import shlex
from dataclasses import replace

import pytest

from tessera.cli.train import Arguments
from tessera.evaluation.metrics import Interval, wilson
from tessera.stress import advice
from tessera.stress.advice import BY_CORRUPTION, BY_TEST, weaknesses
from tessera.stress.rows import Row, mean_of


def row(test: str, series: str, hits: int, clean: float = 0.9, value: float = 1.0) -> Row:
    return Row(
        model="m",
        test=test,
        series=series,
        value=value,
        text=str(value),
        accuracy=wilson(hits, 100),
        clean=clean,
        ece=0.0,
        images=100,
        hits=[hits],
        extra={},
    )


def test_every_flag_of_the_advice_is_one_of_train() -> None:
    every = {*BY_TEST.values(), *BY_CORRUPTION.values()}
    assert all(each.source and each.text for each in every)
    flags: dict[str, list[str]] = {}
    for each in every:
        for word in shlex.split(each.flags):
            if word.startswith("--"):
                values = flags[word] = []
            else:
                values.append(word)
    Arguments.parse(["photos", *(word for name, own in flags.items() for word in (name, *own))])


def test_the_worst_come_first_and_chance_is_no_weakness() -> None:
    rows = [
        row("occlusion", "random", 88),  # within chance of 90
        row("pgd", "PGD-20", 0),
        row("fgsm", "FGSM", 40),
        row("corruptions", "fog", 30),
        row("corruptions", "snow", 50),
        row("corruptions", "frost", 60),
        row("corruptions", "brightness", 65),
        row("patch", "noise", 10),  # a control
    ]
    points = weaknesses(rows)
    assert [p.series for p in points] == ["PGD-20", "fog", "FGSM", "snow", "frost"]
    assert points[0].advice is advice.ATTACK
    assert points[1].advice is advice.COLOUR
    assert points[1].worst == "30.0% at 1.0"


def test_a_mean_is_plain_and_its_interval_that_of_one_answer_an_image() -> None:
    mean = mean_of([row("fgsm", "FGSM", 40), row("fgsm", "FGSM", 60)])
    assert mean.value == 0.5
    assert abs(mean.low - wilson(50, 100).low) < 1e-12
    assert abs(mean.high - wilson(50, 100).high) < 1e-12


def test_a_mean_over_draws_is_as_unsure_as_the_draws() -> None:
    one = row("occlusion", "random", 50)
    unsure = replace(one, accuracy=Interval(0.5, 0.2, 0.8))
    mean = mean_of([unsure, unsure])
    assert (mean.low, mean.high) == pytest.approx((0.2, 0.8))
    mixed = mean_of([unsure, one])
    assert mixed.low == pytest.approx((0.2 + one.accuracy.low) / 2)
