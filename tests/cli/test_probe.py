"""The command that measures frozen features, on a small model."""

import json
from pathlib import Path

import pytest
import torch

from tessera.checkpoint.artifact import Header, save_artifact
from tessera.cli import main
from tessera.data.preprocessing import Preprocessing
from tessera.models.variants import parse
from tessera.models.vit import ViT


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was never trained: its features are random ones, which do for digits."""
    torch.manual_seed(0)
    config = parse("vit_mu_patch4", img_size=16, num_classes=10, in_chans=1, pool="avg")
    path = tmp_path_factory.mktemp("probe") / "mu.safetensors"
    save_artifact(
        path,
        ViT(config),
        Header(
            config=config,
            preprocessing=Preprocessing(size=(16, 16), channels=1, mean=(0.5,), std=(0.5,)),
            class_names=(),
            card={"model": "mu"},
        ),
    )
    return path


def test_every_number_is_there_for_programs(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "deep" / "numbers.json"
    argv = ["probe", str(run), "digits", "--out", str(file), "--format", "json"]
    argv += ["--method", "few-shot", "knn"]
    assert main([*argv, "--penalty", "1", "1024"]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert json.loads(file.read_text()) == numbers
    scores = {
        (score["method"], *score["settings"].values()): score["accuracy"]["value"]
        for score in numbers["scores"]
    }
    assert scores["few-shot", 25, 1.0] > scores["few-shot", 1, 1.0] > 0.15
    assert scores["knn", 20, 0.07] > 0.5
    assert numbers["images"] == {"train": 1438, "test": 359}
    few = numbers["scores"][0]
    assert list(few["seeds"]) == ["0", "1", "2"]
    assert few["accuracy"]["low"] < few["accuracy"]["value"] < few["accuracy"]["high"]
    assert main(argv) == 2  # nothing is overwritten


def test_the_table_says_how_each_number_came_to_be(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["probe", str(run), "digits", "--method", "few-shot", "knn", "--shots", "2", "--k", "5"]
    assert main(argv) == 0
    shown = capsys.readouterr().out
    assert "1,438 train, 359 test images" in shown
    assert "shots 2, penalty 1024; seeds" in shown
    assert "k 5, temperature 0.07" in shown


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--shots", "500"], "500 shots, and class"),
        (["--split", "val"], "no split 'val'"),
        (["--split", "train"], "learnt from"),
        (["--k", "5000"], "5000 neighbours"),
        (["--penalty", "0"], "penalties"),
        (["--seeds", "-1"], "seed"),
        (["--temperature", "0"], "temperature"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    run: Path, flags: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["probe", str(run), "digits", *flags]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert words in captured.err
