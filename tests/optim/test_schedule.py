"""Learning rate and length of a run."""

import math
from itertools import pairwise
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.optim.schedule import lr_at, total_steps
from tessera.recipe import Schedule

Shape = Literal["cosine", "linear", "constant", "rsqrt"]


def rates(steps: int, schedule: Schedule, peak: float = 1.0) -> list[float]:
    return [lr_at(step, peak=peak, steps=steps, schedule=schedule) for step in range(steps)]


@pytest.mark.parametrize(
    ("images", "batch_size", "epochs", "steps"),
    [
        (1000, 64, 3.0, 47),  # 46.875
        (1000, 64, 1.0, 16),  # 15.625
        (50_000, 512, 90.0, 8789),  # 8789.06
        (100, 40, 1.0, 2),  # 2.5: Python rounds halves to even
        (100, 40, 3.0, 8),  # 7.5
        (10, 64, 1.0, 1),  # 0.16: at least one
        (1000, 64, 0.5, 8),  # 7.8
    ],
)
def test_the_steps_of_a_run_are_the_rounded_number_of_batches(
    images: int, batch_size: int, epochs: float, steps: int
) -> None:
    assert total_steps(Schedule(epochs=epochs), images, batch_size) == steps


def test_steps_that_are_given_are_taken_and_epochs_not_read() -> None:
    assert total_steps(Schedule(total_steps=7, epochs=100.0), 1000, 10) == 7


def test_the_warm_up_is_a_straight_line_to_the_peak() -> None:
    found = rates(100, Schedule(warmup_steps=10), peak=0.5)
    # Multiplying and dividing in another order costs the last bit: 6e-17 measured.
    assert found[:10] == pytest.approx([0.05 * (k + 1) for k in range(10)], rel=1e-12)
    assert found[9] == 0.5
    assert found[10] == 0.5, "the way down begins at the peak"
    assert found[11] < 0.5


def test_the_first_step_is_not_wasted() -> None:
    assert rates(100, Schedule(warmup_steps=10))[0] > 0


def test_the_warm_up_takes_a_fifth_of_a_short_run_at_most() -> None:
    found = rates(50, Schedule(warmup_steps=1000))
    assert found.index(max(found)) == 9
    assert rates(4, Schedule(warmup_steps=1000))[0] == 1.0


@pytest.mark.parametrize("shape", ["cosine", "linear"])
@pytest.mark.parametrize("final_lr", [0.0, 0.1])
def test_half_way_down_the_rate_is_half_way(shape: Shape, final_lr: float) -> None:
    schedule = Schedule(warmup_steps=20, shape=shape, final_lr=final_lr)
    middle = lr_at(60, peak=1.0, steps=100, schedule=schedule)  # 20 + (100 - 20) / 2
    assert middle == pytest.approx((1 + final_lr) / 2, rel=1e-12)  # cos(pi / 2) is 6e-17


def test_a_cosine_is_where_a_cosine_is() -> None:
    found = rates(80, Schedule(warmup_steps=0))
    for step in (20, 60):
        wanted = (1 + math.cos(math.pi * step / 80)) / 2
        assert found[step] == pytest.approx(wanted, rel=1e-12)  # the same formula, so rounding only


@pytest.mark.parametrize("shape", ["cosine", "linear"])
def test_the_rate_ends_next_to_the_final_one(shape: Shape) -> None:
    schedule = Schedule(warmup_steps=10, shape=shape, final_lr=0.01)
    last = rates(1000, schedule)[-1]
    # One step of 990 is left: 1/990 of the way for the line, far less for the cosine.
    assert 0.01 < last < 0.01 + 1.5 / 990
    assert lr_at(1000, peak=1.0, steps=1000, schedule=schedule) == pytest.approx(0.01)


def test_constant_stays_at_the_peak() -> None:
    found = rates(100, Schedule(warmup_steps=10, shape="constant", final_lr=0.5), peak=2.0)
    assert set(found[9:]) == {2.0}


@given(
    steps=st.integers(1, 300),
    warmup=st.integers(0, 400),
    peak=st.floats(1e-6, 10.0),
    final_share=st.floats(0.0, 1.0),
    shape=st.sampled_from(["cosine", "linear", "constant"]),
)
def test_the_rate_grows_to_the_peak_then_falls_and_is_never_negative(
    steps: int, warmup: int, peak: float, final_share: float, shape: Shape
) -> None:
    schedule = Schedule(warmup_steps=warmup, shape=shape, final_lr=peak * final_share)
    found = rates(steps, schedule, peak)
    more = 1 + 1e-12  # a * n / n and a + (b - a) may be off by the last bit: 2e-16
    assert all(0 < rate <= peak * more for rate in found)
    top = min(warmup, steps // 5)
    assert all(a <= b * more for a, b in pairwise(found[: top + 1]))
    assert all(b <= a * more for a, b in pairwise(found[top:]))
    assert min(found[top:]) * more >= schedule.final_lr


def test_the_reciprocal_root_halves_when_the_steps_are_four_times_the_warm_up() -> None:
    found = rates(1000, Schedule(shape="rsqrt", warmup_steps=50))
    assert found[49] == 1.0
    assert found[200] == pytest.approx(0.5)
    assert found[800] == pytest.approx(0.25)


@pytest.mark.parametrize("shape", ["constant", "rsqrt"])
def test_a_cool_down_falls_linearly_to_the_final_rate(shape: Shape) -> None:
    schedule = Schedule(shape=shape, warmup_steps=10, cooldown_steps=20, final_lr=0.1)
    found = rates(100, schedule)
    before = rates(100, Schedule(shape=shape, warmup_steps=10))
    assert found[:80] == before[:80]
    steps_down = [a - b for a, b in pairwise(found[80:])]
    assert steps_down == pytest.approx([steps_down[0]] * 19)
    assert lr_at(100, peak=1.0, steps=100, schedule=schedule) == pytest.approx(0.1)
