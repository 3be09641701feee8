"""The suite file says what it wants, and a wrong one is refused with the place named."""

from pathlib import Path

import pytest

from tessera.transfer.suite import SWEEPS, VTAB, read_suite

ONE = '[[task]]\nname = "a"\ndata = "digits"\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_is_not_said_is_the_published_protocol(tmp_path: Path) -> None:
    suite = read_suite(write(tmp_path, ONE))
    assert (suite.name, suite.method, suite.seeds) == ("mine", "finetune", (0,))
    assert (suite.train_images, suite.val_images, suite.images_in_training) == (800, 200, 1000)
    assert len(suite.finetune.settings) == 8
    recipe = suite.finetune.make_recipe("w", lr=0.03, steps=2500, seed=4)
    assert (recipe.optim.name, recipe.optim.lr, recipe.optim.momentum) == ("sgd", 0.03, 0.9)
    assert (recipe.schedule.total_steps, recipe.schedule.warmup_steps) == (2500, 200)
    assert (recipe.data.batch_size, recipe.data.crop, recipe.seed) == (512, "squash", 4)
    assert recipe.optim.weight_decay == 0
    assert recipe.augment.crop_scale is None
    frozen = read_suite(write(tmp_path, 'method = "linear"\n' + ONE))
    assert frozen.seeds == (0, 1, 2)


def test_settings_of_its_own_override_the_sweep(tmp_path: Path) -> None:
    table = '[finetune]\nsweep = "light"\nlr = [0.1, 0.2]\n[finetune.recipe.augment]\nflip = 0.5\n'
    suite = read_suite(write(tmp_path, table + ONE))
    assert suite.finetune.settings == ((0.1, 1000), (0.2, 1000))
    recipe = suite.finetune.make_recipe("w", lr=0.1, steps=1000, seed=0)
    assert (recipe.augment.flip, recipe.data.batch_size) == (0.5, 64)
    assert recipe.schedule.warmup_steps == 80


def test_a_subset_is_called_a_subset(tmp_path: Path) -> None:
    def tasks(names: list[str]) -> str:
        return "".join(f'[[task]]\nname = "{name}"\ndata = "digits"\n' for name in names)

    head = 'name = "x"\nbenchmark = "VTAB-1k"\n'
    three = read_suite(write(tmp_path, head + tasks(["svhn", "dtd", "eurosat"])))
    assert three.title == "x: VTAB-style, 3 of 19 tasks"
    assert [task.group for task in three.tasks] == ["natural", "natural", "specialized"]
    assert read_suite(write(tmp_path, head + tasks(list(VTAB)))).title.endswith("all 19 tasks")
    own = read_suite(write(tmp_path, tasks(["svhn", "mine"])))
    assert "VTAB" not in own.title


def test_the_groups_are_those_of_the_benchmark() -> None:
    groups = list(VTAB.values())
    assert [groups.count(g) for g in ("natural", "specialized", "structured")] == [7, 4, 8]
    assert all(len(sweep.lr) * len(sweep.steps) for sweep in SWEEPS.values())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no [[task]]"]),
        ("name = ", ["no valid TOML"]),
        ("metod = 'linear'\n" + ONE, ["'metod'", "did you mean 'method'"]),
        ("method = 'guess'\n" + ONE, ["method = 'guess'", "finetune"]),
        ("[[task]]\nname = 'a'\n", ["[[task]] a", "'data' is missing"]),
        ("[[task]]\ndata = 'digits'\n", ["[[task]] 1", "'name' is missing"]),
        (ONE + ONE, ["two tasks are called 'a'"]),
        ("[[task]]\nname = '../a'\ndata = 'digits'\n", ["'../a'"]),
        ("task = 3\n", ["[[task]]"]),
        ("finetune = 3\n" + ONE, ["'finetune' is a table"]),
        ("train_images = 0\n" + ONE, ["train_images"]),
        ("seeds = [1, 1]\n" + ONE, ["seeds"]),
        ("benchmark = 'VTAB-1k'\n" + ONE, ["'a' is no task of VTAB-1k"]),
        ("[finetune]\nlr = [0]\n" + ONE, ["[finetune]", "lr"]),
        ("[finetune]\nlr = 0.1\n" + ONE, ["lr = 0.1 is of the wrong type"]),
        ("[finetune.recipe.optim]\nlr = 0.1\n" + ONE, ["'lr' is the suite's own"]),
        ("[finetune.recipe.optim]\nmomentun = 0.1\n" + ONE, ["optim.momentum"]),
        ("[few-shot]\nshots = 0\n" + ONE, ["[few-shot]", "shots = 0"]),
    ],
)
def test_a_bad_suite_is_refused_with_one_message(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ValueError, match=r"mine\.toml") as caught:
        read_suite(path)
    for word in words:
        assert word in str(caught.value)


def test_a_group_that_is_not_the_benchmarks_is_refused(tmp_path: Path) -> None:
    text = "benchmark = 'VTAB-1k'\n[[task]]\nname = 'svhn'\ndata = 'x'\ngroup = 'structured'\n"
    with pytest.raises(ValueError, match="natural, not 'structured'"):
        read_suite(write(tmp_path, text))


def test_a_suite_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no suite file.*\nhint"):
        read_suite(tmp_path / "none.toml")
