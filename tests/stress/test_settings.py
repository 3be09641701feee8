import pytest

from tessera.robustness.corruptions import CORRUPTIONS, EXTRA, STANDARD
from tessera.stress.advice import BY_CORRUPTION, BY_TEST
from tessera.stress.registry import ASKED_FOR, TESTS, choose_tests
from tessera.stress.settings import StressSettings, choose_corruptions, make_settings, parse_grids


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("eps", (0.0,), "eps: 0.0 must be positive"),
        ("eps", (2.0, -1.0), "eps: 2.0, -1.0 must be positive"),
        ("ratios", (1.0,), r"ratios: 1.0 must be in \[0, 1\)"),
        ("ratios", (), "ratios: none must be in"),
        ("masses", (0.0,), "masses"),
        ("severities", (6,), "severities: 6 must be 1 to 5"),
        ("areas", (0.0,), "areas"),
        ("images", 0, "images: 0 must be at least 1"),
        ("runs", 0, "runs: 0"),
        ("patch_steps", 0, "patch-steps: 0"),
        ("grids", ((0, 3),), "grids"),
        ("seed", -1, "seed: -1"),
        ("resolutions", (0.0,), "resolutions"),
    ],
)
def test_a_number_that_cannot_be_is_refused(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StressSettings(**{field: value})  # type: ignore[arg-type]


def test_defaults_are_the_published_protocols() -> None:
    settings = StressSettings()
    assert (settings.runs, settings.patch_runs, settings.grids) == (5, 5, ((14, 14),))
    assert settings.areas == (0.05, 0.15, 0.25)
    assert settings.severities == (1, 2, 3, 4, 5)
    assert not settings.quick


def test_quick_is_less_of_everything_and_can_be_changed() -> None:
    quick, full = make_settings(quick=True, eps=(3.0,), runs=None), StressSettings()
    assert quick.quick
    assert quick.eps == (3.0,)
    for name in ("ratios", "masses", "permutations", "areas", "severities", "resolutions"):
        assert len(getattr(quick, name)) < len(getattr(full, name)), name
    assert quick.runs < full.runs


def test_grids_and_corruptions_are_read() -> None:
    assert parse_grids(["4x8", "14x14"]) == ((4, 8), (14, 14))
    assert parse_grids([]) is None
    with pytest.raises(ValueError, match="'4by4' is no grid\nhint"):
        parse_grids(["4by4"])
    assert choose_corruptions(["standard"]) == STANDARD
    assert choose_corruptions(["extra", "fog"]) == (*EXTRA, "fog")
    assert choose_corruptions(["all"]) == tuple(CORRUPTIONS)
    assert choose_corruptions([]) is None
    with pytest.raises(ValueError, match="did you mean 'snow'"):
        choose_corruptions(["snwo"])


def test_an_unknown_test_gets_the_nearest_name() -> None:
    with pytest.raises(ValueError, match="unknown test 'oclusion'\nhint: did you mean 'occlusion'"):
        choose_tests(["oclusion"], shift=False)
    with pytest.raises(ValueError, match="hint: name it with --shift"):
        choose_tests(["shift"], shift=False)


def test_without_names_all_run_that_need_nothing_more() -> None:
    assert choose_tests([], shift=False) == tuple(n for n in TESTS if n not in ASKED_FOR)
    assert choose_tests(["pgd", "fgsm"], shift=True) == ("fgsm", "pgd", "shift")


def test_there_is_advice_for_every_test_and_it_names_real_corruptions() -> None:
    assert set(BY_TEST) == set(TESTS)
    assert set(BY_CORRUPTION) <= set(CORRUPTIONS)
    noisy = {name for name in CORRUPTIONS if "noise" in name}
    assert set(CORRUPTIONS) - set(BY_CORRUPTION) == noisy
