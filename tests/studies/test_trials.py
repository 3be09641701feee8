"""Trainings in processes: counted, failed, stopped and taken up again."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import tessera
from tessera.cli import main
from tessera.data.holdout import load_data
from tessera.errors import RunError
from tessera.recipe import dumps, merge, nested
from tessera.studies.conduct import study
from tessera.studies.images import write_rows
from tessera.studies.plan import Trial, make_plan, study_recipe
from tessera.studies.results import StudyResult
from tessera.studies.trial import train_one
from tessera.training.faults import StoppedError

FAKE = """
import json, os, signal, sys, time, tomllib
from pathlib import Path
folder = Path(sys.argv[1])
seed = tomllib.loads((folder / "recipe.toml").read_text())["seed"]
name = folder.name
if "learned2d" in name and seed == 1:
    sys.exit("the dog ate it")
if "sincos1d" in name:
    print(json.dumps({"diverged": "the loss became nan"}), file=(folder / "result.json").open("w"))
    sys.exit(0)
study = folder.parents[1]
if "shaw" in name and not (study / "stopped").exists():
    while len(json.loads((study / "journal.json").read_text())["done"]) < 2:
        time.sleep(0.02)
    (study / "stopped").touch()
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)
result = {"hits": len(name) + seed, "images": 40, "split": "test", "val_accuracy": 0.5,
          "val_loss": 1.0, "train_loss": 1.0, "steps": 2, "seconds": 2.0, "trained_images": 128,
          "memory": None if seed else 5_000_000}
(folder / "result.json").write_text(json.dumps(result))
"""
"""Stands for a training: quick, without torch, and with the failures of some."""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Let the pool start a script in the place of trainings."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    real = subprocess.Popen

    def start(command: list[str], **more: Any) -> "subprocess.Popen[bytes]":
        if "tessera.studies.trial" not in command:
            return real(command, **more)
        return real([sys.executable, "-S", str(script), command[3]], **more)

    monkeypatch.setattr(subprocess, "Popen", start)
    return tmp_path / "out"


def run(out: Path, *names: str, said: io.StringIO | None = None, **more: Any) -> StudyResult:
    console = Console(file=said or io.StringIO(), width=300)
    more = {"seeds": [0, 1, 2], **more}
    return study("positions", "digits", variants=names, out=out, console=console, **more)


def test_results_are_written_beside_the_claims(fake: Path) -> None:
    said = io.StringIO()
    found = run(fake, "none", "learned", "sincos1d", "relative", said=said)
    assert found.missing == []
    rows = {row.name: row for row in found.rows}
    assert rows["sincos1d"].accuracy is None
    assert rows["sincos1d"].diverged == 3
    value, low, high = rows["none"].accuracy or (0, 0, 0)
    assert value == pytest.approx((len("none-seed_0") + 1) / 40)
    assert low is not None
    assert high is not None
    written = json.loads((fake / "results.json").read_text())
    assert written == json.loads(json.dumps(found.as_dict()))
    assert [claim["word"] for claim in written["claims"]] == ["cannot be told"] * 2
    page = (fake / "results.html").read_text()
    assert "<svg" in page
    assert not re.search(r"<(script|link|img|iframe)|@import|url\((?!#)|(src|href)=.http", page)
    assert "cannot be told" in page
    assert "| sincos1d | diverged |" in (fake / "results.md").read_text()
    assert "none, seed 0: 27.50% of the test images, 2 s;" in said.getvalue()
    assert "12 of 12 done" in said.getvalue()
    assert "left" in said.getvalue()
    assert not (fake / "runs").exists()


def test_a_failure_is_named_and_takes_nothing_along(fake: Path) -> None:
    with pytest.raises(RunError) as error:
        run(fake, "none", "learned2d")
    said = str(error.value)
    assert "learned2d, seed 1: the dog ate it" in said
    assert "1 of 6 trainings are missing" in said
    assert "--resume" in said
    assert len(json.loads((fake / "journal.json").read_text())["done"]) == 5
    assert json.loads((fake / "results.json").read_text())["missing"] == ["learned2d, seed 1"]


def test_a_study_goes_on_where_it_was_stopped(fake: Path) -> None:
    """shaw, when the others are done, sends the signal, and would take a minute more."""
    with pytest.raises(StoppedError, match="go on with --resume"):
        run(fake, "none", "learned", "shaw", seeds=[0], jobs=2)
    done = json.loads((fake / "journal.json").read_text())["done"]
    assert set(done) == {"none/seed 0", "learned/seed 0"}
    with pytest.raises(ValueError, match="another variants"):
        run(fake, "none", resume=True)
    with pytest.raises(ValueError, match="already holds results"):
        run(fake, "none")
    said = io.StringIO()
    found = run(fake, "none", "learned", "shaw", seeds=[0], jobs=2, resume=True, said=said)
    assert found.missing == []
    assert "resumed 2 of them are finished" in said.getvalue()
    assert "none, seed 0" not in said.getvalue()


def test_seeds_may_be_added_to_a_study(fake: Path) -> None:
    first = run(fake, "none", "learned", seeds=[0, 2])
    kept = json.loads((fake / "journal.json").read_text())["done"]
    said = io.StringIO()
    again = run(fake, "none", "learned", seeds=None, resume=True, said=said)
    assert again.plan.seeds == first.plan.seeds == (0, 2), "as it began"
    assert "resumed 4 of them are finished" in said.getvalue()
    more = run(fake, "none", "learned", seeds=[0, 2, 5], resume=True)
    assert more.missing == []
    done = json.loads((fake / "journal.json").read_text())["done"]
    assert {key: done[key] for key in kept} == kept
    assert set(done) - set(kept) == {"none/seed 5", "learned/seed 5"}
    for fewer in ([5], [0, 2]):
        with pytest.raises(ValueError, match="begun with the seeds 0 2 5; without"):
            run(fake, "none", "learned", seeds=fewer, resume=True)
    assert run(fake, "none", "learned", seeds=None, resume=True).plan.seeds == (0, 2, 5)


def test_one_seed_leaves_the_interval_unknown(fake: Path) -> None:
    found = run(fake, "none", "learned", seeds=[0])
    accuracy = found.rows[0].accuracy
    assert accuracy is not None
    assert accuracy[1:] == (None, None)
    assert "| 27.50% | unknown |" in (fake / "results.md").read_text()
    assert "One seed tells nothing" in (fake / "results.html").read_text()


def test_bad_words_are_refused_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "postions", "digits"]) == 2
    assert "did you mean 'positions'?" in capsys.readouterr().err
    out = str(tmp_path / "out")
    assert main(["study", "positions", "digits", "--jobs", "0", "--out", out]) == 2
    assert "--jobs 0" in capsys.readouterr().err
    assert main(["study", "positions", "digits", "--resume", "--out", out]) == 2
    assert not (tmp_path / "out").exists()


TINY = {
    "arch.depth": 1,
    "arch.embed_dim": 16,
    "arch.num_heads": 2,
    "arch.mlp_dim": 16,
    "schedule.total_steps": 3,
    "data.batch_size": 16,
}


def first_trial(folder: Path) -> Trial:
    """Prepare the folder of one training, as the pool does."""
    splits = load_data("digits")
    recipe = merge(study_recipe("positions", "digits"), nested(TINY))
    plan = make_plan("positions", recipe, splits, variants=["learned"], train_images=100)
    trial = plan.trials()[0]
    folder.mkdir()
    write_rows(folder / "rows.npz", splits)
    told = {"data": "digits", "rows": str(folder / "rows.npz"), "device": "cpu", "threads": 1}
    (folder / "trial.json").write_text(json.dumps({**told, "count": 100, "share": 50}))
    (folder / "recipe.toml").write_text(dumps(trial.recipe))
    return trial


def test_a_training_measures_what_it_was_told(tmp_path: Path) -> None:
    first_trial(tmp_path / "a")
    result = train_one(tmp_path / "a")
    assert (result["images"], result["split"], result["steps"]) == (359, "test", 3)
    assert result["trained_images"] == 48
    assert result["memory"] is None or result["memory"] > 0
    first_trial(tmp_path / "b")
    again = train_one(tmp_path / "b")
    measured = ("hits", "val_accuracy", "val_loss", "train_loss")
    assert [again[key] for key in measured] == [result[key] for key in measured]
    assert tessera.load(tmp_path / "a").header.card["seed"] == 0


def numbers(found: StudyResult) -> dict[str, list[tuple[int, int, float]]]:
    return {
        row.name: [(s, one["hits"], one["val_loss"]) for s, one in row.seeds.items()]
        for row in found.rows
    }


@pytest.mark.slow
def test_jobs_and_interruptions_change_no_number(tmp_path: Path) -> None:
    names = ["none", "learned"]

    def train(out: str, **more: Any) -> StudyResult:
        settings: dict[str, Any] = {"variants": names, "seeds": [0], "overrides": TINY, **more}
        return tessera.study("positions", "digits", out=tmp_path / out, **settings)

    two = train("two", jobs=2)
    killed = subprocess.Popen(
        [sys.executable, "-m", "tessera", "study", "positions", "digits", "--out", "one"]
        + ["--variants", *names, "--seeds", "0", "--jobs", "1"]
        + [w for k, v in TINY.items() for w in (f"--{k.replace('_', '-')}", str(v))],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert killed.stderr is not None
    for line in killed.stderr:
        if "1 of 2 done" in line:
            killed.kill()
            break
    killed.communicate()
    assert len(json.loads((tmp_path / "one" / "journal.json").read_text())["done"]) == 1
    one = train("one", jobs=1, resume=True)
    assert numbers(one) == numbers(two)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["patch-size", "data-size", "drop-path", "attention", "pooling"])
def test_a_study_end_to_end(name: str, tmp_path: Path) -> None:
    chosen = {
        "patch-size": ["patch 8", "patch 4"],
        "data-size": ["resnet 10 %", "hybrid 10 %"],
        "drop-path": ["linear", "fractalnet_drop"],
        "attention": ["shifted_window", "strided"],
        "pooling": ["cls 0.005", "avg 0.005"],
    }[name]
    found = tessera.study(
        name,
        "digits",
        variants=chosen,
        seeds=[0],
        out=tmp_path / "out",
        overrides={"schedule.total_steps": 3, "data.batch_size": 8},
    )
    assert found.missing == []
    assert all(row.numbers["memory"] != 0 for row in found.rows)
    assert (tmp_path / "out" / "plot.svg").is_file()
