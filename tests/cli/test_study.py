"""What the flags of ``tessera study`` come to."""

import pytest

from tessera.cli.study import Arguments


@pytest.mark.parametrize(
    ("flags", "length"),
    [
        ([], {}),
        (["--steps", "60"], {"schedule.total_steps": 60, "schedule.warmup_steps": 30}),
        (["--steps", "60", "--schedule.warmup-steps", "7"], {"schedule.total_steps": 60}),
    ],
)
def test_a_shorter_training_warms_up_in_proportion(
    flags: list[str], length: dict[str, int]
) -> None:
    found = Arguments.parse(["positions", "digits", *flags])
    base = found._base().schedule
    assert (base.total_steps, base.warmup_steps) == (300, 150)
    assert found._length() == length
