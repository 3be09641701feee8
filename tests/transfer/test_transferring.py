"""A whole suite on small folders: numbers, tables, resuming, and what is refused."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import tessera
from tessera.checkpoint.artifact import Header, save_artifact
from tessera.cli import main
from tessera.data.preprocessing import HALF, Preprocessing
from tessera.models.variants import parse
from tessera.models.vit import ViT
from tessera.training import conduct
from tessera.training.faults import StoppedError, Stopping
from tessera.training.run import Run
from tessera.transfer import finetuning
from tessera.transfer.results import TransferResult
from tessera.transferring import transfer

SIZES = {"train": 20, "test": 12}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that knows nothing, but whose tokens see colours."""
    torch.manual_seed(0)
    config = parse("vit_mu_patch4", img_size=8, num_classes=2, pool="avg")
    path = tmp_path_factory.mktemp("model") / "mu.safetensors"
    header = Header(
        config=config,
        preprocessing=Preprocessing(size=(8, 8), mean=HALF, std=HALF),
        class_names=("x", "y"),
        card={"model": "mu"},
    )
    save_artifact(path, ViT(config), header)
    return path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two data sets: colours are easy, noise cannot be learnt."""
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for name, tint in (("colours", 120), ("noise", 0)):
        for split, count in SIZES.items():
            for number, label in enumerate(("blue", "red")):
                place = root / name / split / label
                place.mkdir(parents=True)
                for i in range(count):
                    pixels = rng.integers(0, 100, (8, 8, 3))
                    pixels[..., 2 - 2 * number] += tint
                    Image.fromarray(pixels.astype(np.uint8)).save(place / f"{i}.png")
    return {name: root / name for name in ("colours", "noise")}


def write_suite(folder: Path, folders: dict[str, Path], head: str) -> Path:
    path = folder / "two.toml"
    rows = "".join(
        f'[[task]]\nname = "{name}"\ndata = "{place}"\ngroup = "{name[:3]}"\n'
        f'note = "{name} | toy"\n'
        for name, place in folders.items()
    )
    path.write_text(f"{head}\n{rows}", encoding="utf-8")
    return path


FINETUNE = """
train_images = 24
val_images = 16
[finetune]
lr = [0.03, 0.3]
steps = [6]
batch_size = 16
[finetune.recipe.data]
workers = 0
"""

FEW = 'method = "few-shot"\n[few-shot]\nshots = 5\npenalty = 1.0'


@pytest.fixture(scope="module")
def whole(
    model: Path, folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[TransferResult, str]:
    """A suite fine-tuned in one sitting, and what it said."""
    root, said = tmp_path_factory.mktemp("whole"), io.StringIO()
    suite, console = write_suite(root, folders, FINETUNE), Console(file=said, width=200)
    found = transfer(model, suite, out=root / "out", keep_models=True, console=console)
    return found, said.getvalue()


def test_fine_tuning_a_suite_end_to_end(whole: tuple[TransferResult, str]) -> None:
    found, said = whole
    out = found.folder
    colours, noise = found.tasks
    assert colours.accuracy.value > 0.9  # measured: 1.0
    assert 0.2 < noise.accuracy.value < 0.8
    assert (colours.images, colours.accuracy.low < colours.accuracy.value) == (24, True)
    (seed,) = colours.seeds
    assert [(row["lr"], row["steps"]) for row in seed["tuning"]] == [(0.03, 6), (0.3, 6)]
    best = max(seed["tuning"], key=lambda row: (row["accuracy"], -row["loss"]))
    assert seed["chosen"] == {"lr": best["lr"], "steps": best["steps"]}
    assert found.mean.value == pytest.approx((colours.accuracy.value + noise.accuracy.value) / 2)
    assert list(found.groups) == ["col", "noi"]

    written = json.loads((out / "results.json").read_text())
    assert written == json.loads(json.dumps(found.as_dict()))
    assert written["title"] == "two: 2 tasks of our own choice"
    assert written["missing"] == []
    assert "colours \\| toy" in (out / "results.md").read_text()
    page = (out / "results.html").read_text()
    assert "24 training images" in page
    assert "mean of all" in page
    kept = tessera.load(out / "models" / "colours-seed-0.safetensors")
    assert kept.header.class_names == ("blue", "red")
    assert not list((out / "runs").rglob("*.*"))  # nothing large stays
    assert "left in all" in said
    assert "noise, seed 0: final run" in said


@pytest.mark.slow
def test_few_shot_and_linear_need_no_training(
    model: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    for method in ("few-shot", "linear"):
        head = f'method = "{method}"\ntrain_images = 24\nval_images = 16\nseeds = [0, 1]'
        suite = write_suite(tmp_path, folders, head)
        found = transfer(model, suite, out=tmp_path / method)
        colours, noise = found.tasks
        assert colours.accuracy.value > 0.9  # measured: 1.0 with both
        assert noise.accuracy.low < 0.5 < noise.accuracy.high
        assert [row["seed"] for row in colours.seeds] == [0, 1]


def test_a_transfer_measures_what_a_probe_does(
    model: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    from tessera.probing import ProbeSettings

    suite = write_suite(tmp_path, folders, FEW)
    found = transfer(model, suite, out=tmp_path / "out")
    again = transfer(model, suite, out=tmp_path / "again")
    assert [task.seeds for task in again.tasks] == [task.seeds for task in found.tasks]
    settings = ProbeSettings(methods=("few-shot",), shots=(5,), penalties=(1.0,))
    for task in found.tasks:
        (score,) = tessera.probe(model, folders[task.name], settings).scores
        assert score.accuracy == pytest.approx(task.accuracy)
        assert list(score.seeds.values()) == [row["accuracy"] for row in task.seeds]


def test_a_suite_that_was_stopped_goes_on_where_it_was(
    model: Path,
    folders: dict[str, Path],
    whole: tuple[TransferResult, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    suite = write_suite(tmp_path, folders, FINETUNE)
    train, calls = conduct.conduct, []

    def stop_in_the_fifth(run: Run, stopping: Stopping | None = None) -> None:
        calls.append(str(run.folder))
        if len(calls) == 5:
            run.save_state()
            raise StoppedError("stopped", "SIGTERM")
        train(run, stopping)

    monkeypatch.setattr(finetuning, "conduct", stop_in_the_fifth)
    out = tmp_path / "out"
    with pytest.raises(StoppedError, match=r"noise, and saved\nhint: go on with --resume --out"):
        transfer(model, suite, out=out)
    partial = json.loads((out / "results.json").read_text())
    assert partial["missing"] == ["noise"]
    assert "Not measured yet: noise" in (out / "results.html").read_text()
    with pytest.raises(ValueError, match="--resume"):
        transfer(model, suite, out=out)
    calls.clear()
    calls += [""] * 5
    again = transfer(model, suite, out=out, resume=True)
    assert len(calls) == 5 + 2  # the tuning run that was stopped, and the final one
    for one, two in zip(whole[0].tasks, again.tasks, strict=True):
        assert one.accuracy == two.accuracy
        assert [row["tuning"] for row in one.seeds] == [row["tuning"] for row in two.seeds]
    calls.clear()
    finished = transfer(model, suite, out=out, resume=True)
    assert not calls
    assert finished.mean == whole[0].mean


def test_another_suite_or_other_data_cannot_go_on(
    model: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    suite, out = write_suite(tmp_path, folders, FEW), tmp_path / "out"
    transfer(model, suite, out=out)
    suite.write_text(suite.read_text().replace("shots = 5", "shots = 3"))
    with pytest.raises(ValueError, match="started with another suite"):
        transfer(model, suite, out=out, resume=True)
    with pytest.raises(ValueError, match="nothing that could be resumed"):
        transfer(model, suite, out=tmp_path / "empty", resume=True)


@pytest.mark.slow
def test_a_rate_that_diverges_is_not_chosen(
    model: Path, folders: dict[str, Path], tmp_path: Path
) -> None:
    head = FINETUNE.replace("[0.03, 0.3]", "[0.03, 1e38]")
    only = {"colours": folders["colours"]}
    (task,) = transfer(model, write_suite(tmp_path, only, head), out=tmp_path / "a").tasks
    assert task.seeds[0]["chosen"]["lr"] == 0.03
    assert task.seeds[0]["tuning"][1]["accuracy"] is None
    head = FINETUNE.replace("[0.03, 0.3]", "[2e38, 1e38]")
    with pytest.raises(tessera.errors.RunError, match="diverges with every learning rate"):
        transfer(model, write_suite(tmp_path, only, head), out=tmp_path / "b")


def test_the_command_prints_the_table_and_refuses_in_one_message(
    model: Path, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = write_suite(tmp_path, folders, FEW)
    out = tmp_path / "out"
    assert main(["transfer", str(model), str(suite), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert "| mean of all |" in shown
    assert "results.html" in shown
    bad = tmp_path / "bad.toml"
    bad.write_text('[[task]]\nname = "a"\ndata = "nowhere"\n')
    assert main(["transfer", str(model), str(bad), "--out", str(tmp_path / "bad")]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: task a: no data at 'nowhere'")
    assert captured.out == ""
    assert not (tmp_path / "bad").exists()
