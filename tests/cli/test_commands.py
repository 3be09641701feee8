import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

import tessera
from tessera.checkpoint.artifact import load_artifact
from tessera.cli import COMMANDS, main

TINY = [
    *("--arch.depth", "1", "--arch.embed-dim", "32", "--arch.mlp-dim", "64"),
    *("--schedule.total-steps", "6", "--eval-every", "100"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small trained run, shared by the tests that only read it."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    assert main(["train", "digits", "--out", str(folder), *TINY]) == 0
    return folder


@pytest.fixture(scope="module")
def digit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("images") / "digit.png"
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(path)
    return path


def refused(argv: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    """Run a command that must fail with one clear message; return it."""
    assert main(argv) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("error: ") == 1
    assert "Traceback" not in captured.err
    assert captured.out == ""
    return captured.err


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_are_quick_and_import_no_torch(flag: str) -> None:
    code = (
        "import sys; from tessera.cli import main; status = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules; sys.exit(status)"
    )
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code, flag], check=True, capture_output=True)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.4  # measured: 0.06 s


@pytest.mark.parametrize("verb", COMMANDS)
def test_the_help_of_a_verb_imports_no_torch(verb: str) -> None:
    code = (
        "import sys; from tessera.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, verb, "--help"], check=True, capture_output=True)


def test_without_a_command_the_help_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: tessera COMMAND" in capsys.readouterr().out


def test_a_misspelt_command_gets_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'train'" in refused(["trian"], capsys)


def test_a_misspelt_flag_is_refused_with_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", "digits", "--optim.lrr", "1"])
    assert end.value.code == 2
    assert "--optim.lr" in capsys.readouterr().err


def test_shell_completion_knows_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--tyro-print-completion", "bash"])
    assert not end.value.code
    script = capsys.readouterr().out
    assert all(verb in script for verb in COMMANDS)
    assert "--optim.lr" in script


def test_flags_override_the_recipe_which_overrides_the_defaults(tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(
        'model = "vit_mu_patch2_8"\nweights = "none"\n[arch]\nin_chans = 1\n[optim]\nlr = 0.5\n'
    )
    out = tmp_path / "run"
    argv = ["train", "digits", "--recipe", str(mine), "--out", str(out)]
    assert main([*argv, "--schedule.total-steps", "2", "--optim.lr", "0.25"]) == 0
    recipe = tessera.recipe.load(out / "recipe.toml")
    assert recipe.model == "vit_mu_patch2_8"
    assert recipe.optim.lr == 0.25
    assert recipe.schedule.total_steps == 2


def test_training_shows_plain_lines_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "digits", "--out", str(tmp_path / "run"), *TINY]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    for word in ("step 6/6", "loss", "val accuracy", "images/s", "test accuracy", "report.html"):
        assert word in captured.err
    assert "\x1b" not in captured.err


def test_predict_writes_a_table_csv_or_json_lines(
    run: Path, digit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["predict", str(run), str(digit), "digits:test", "--limit", "3", "--top-k", "2"]
    assert main(argv) == 0
    table = capsys.readouterr().out
    assert "digit.png" in table
    assert len(table.splitlines()) == 4

    assert main([*argv, "--format", "jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [len(row["labels"]) for row in rows] == [2, 2, 2]

    out = tmp_path / "answers.csv"
    assert main([*argv, "--format", "csv", "--out", str(out)]) == 0
    with out.open() as file:
        lines = list(csv.DictReader(file))
    assert [line["label_1"] for line in lines] == [row["labels"][0] for row in rows]
    assert float(lines[0]["probability_1"]) == pytest.approx(rows[0]["probabilities"][0], abs=1e-6)


def test_predict_writes_parquet_to_a_file(
    run: Path, digit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["predict", str(run), str(digit), "digits:test", "--limit", "3", "--top-k", "2"]
    assert main([*argv, "--format", "jsonl"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    out = tmp_path / "answers"  # whatever it is called
    assert main([*argv, "--format", "parquet", "--out", str(out)]) == 0
    found = pyarrow.parquet.read_table(out).to_pylist()
    for line, row in zip(found, rows, strict=True):
        assert line["image"] == row["image"]
        assert [line["label_1"], line["label_2"]] == row["labels"]
        assert [line["probability_1"], line["probability_2"]] == row["probabilities"]
    assert "hint: name a file" in refused([*argv, "--format", "parquet"], capsys)


def test_training_leaves_the_answers_and_a_temperature(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = json.loads((run / "report.json").read_text())
    for split in ("test", "val"):
        with (run / f"predictions-{split}.csv").open() as file:
            rows = list(csv.DictReader(file))
        result = report["results"][split]
        assert len(rows) == result["images"]
        hits = sum(row["correct"] == "true" for row in rows)
        assert hits / len(rows) == result["accuracy"]["value"]
        assert all((row["label"] == row["predicted"]) == (row["correct"] == "true") for row in rows)
        for row in rows:
            each = [float(row[f"p_{k}"]) for k in range(10)]
            assert max(each) == float(row["probability"])
        with (run / f"confusion-{split}.csv").open() as file:
            matrix = [[int(row[f"as {k}"]) for k in range(10)] for row in csv.DictReader(file)]
        assert matrix == result["confusion"]
    assert report["peak_memory_bytes"]["process"] > 1e7
    assert set(report["files"]) <= {path.name for path in run.iterdir()}

    stored = load_artifact(run / "model.safetensors").header.calibration
    assert stored is not None
    measured = report["results"]["val"]["calibration"]
    assert stored.split == "val"
    assert stored.images == report["results"]["val"]["images"]
    assert stored.temperature == measured["temperature"]
    assert (stored.ece_before, stored.nll_after) == (
        measured["before"]["ece"],
        measured["after"]["nll"],
    )
    assert report["results"]["test"]["calibration"]["temperature"] == stored.temperature
    assert main(["inspect", str(run)]) == 0
    assert f"temperature         {stored.temperature}" in capsys.readouterr().out

    before = (run / "model.safetensors").read_bytes()
    assert main(["train", "digits", "--out", str(run), "--resume"]) == 0
    assert (run / "model.safetensors").read_bytes() == before, "measuring again changes nothing"


def test_convert_keeps_the_temperature_or_says_that_it_is_left_out(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = load_artifact(run / "model.safetensors").header.calibration
    assert stored is not None
    copy = tmp_path / "copy.safetensors"
    assert main(["convert", str(run), str(copy), "--to", "tessera"]) == 0
    assert load_artifact(copy).header.calibration == stored
    assert "temperature" not in capsys.readouterr().out
    assert main(["convert", str(run), str(tmp_path / "timm"), "--to", "timm"]) == 0
    assert f"divide the logits by {stored.temperature:.6g}" in capsys.readouterr().out
    assert main(["predict", str(tmp_path / "timm"), "digits:test", "--limit", "1"]) == 0


def test_compare_works_for_runs_and_for_evaluations(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "measured"
    argv = ["evaluate", str(run), "digits", "--out", str(out), "--predictions", "parquet"]
    assert main(argv) == 0
    assert (out / "predictions-test.parquet").is_file()
    capsys.readouterr()
    assert main(["compare", str(run), str(out)]) == 0
    text = capsys.readouterr().out
    assert "images      359 of the test split" in text
    assert "nothing here tells them apart" in text
    assert "hint: it has test" in refused(["compare", str(run), str(out), "--split", "val"], capsys)
    assert "takes two or more" in refused(["compare", str(run)], capsys)
    assert "is given twice" in refused(["compare", str(run), str(run)], capsys)
    assert "must not be negative" in refused(["compare", "a", "b", "--limit", "-1"], capsys)


def test_predict_takes_folders_and_names_what_it_cannot_read(
    run: Path, digit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(digit, tmp_path / "good.png")
    (tmp_path / "bad.jpg").write_text("no image")
    assert main(["predict", str(run), str(tmp_path), "--format", "csv"]) == 1
    captured = capsys.readouterr()
    assert "good.png" in captured.out
    assert "bad.jpg is no image" in captured.err


def test_evaluate_repeats_the_numbers_of_the_run(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = json.loads((run / "report.json").read_text())["results"]["test"]
    out = tmp_path / "measured"
    assert main(["evaluate", str(run), "digits", "--format", "json", "--out", str(out)]) == 0
    numbers = json.loads(capsys.readouterr().out)
    assert numbers["accuracy"] == recorded["accuracy"]
    assert numbers["confusion"] == recorded["confusion"]
    assert (out / "report.html").exists()
    assert main(["evaluate", str(run), "digits", "--split", "val"]) == 0
    assert "95 % interval" in capsys.readouterr().out


def test_models_lists_and_filters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "base_patch16"]) == 0
    assert "86,567,656" in capsys.readouterr().out
    assert main(["models", "ViT-L", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["embed_dim"] for row in found["models"]} == {1024}
    assert main(["models", "cc-by-nc"]) == 0
    text = capsys.readouterr().out
    assert "vit_base_patch16_224.mae" in text
    assert "Apache" not in text
    assert "sizes are mu, tiny" in refused(["models", "alexnet"], capsys)


def test_inspect_says_what_is_in_a_model(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(run)]) == 0
    text = capsys.readouterr().out
    for word in ("embed_dim", "interpolation", "classes", "fingerprint"):
        assert word in text
    assert main(["inspect", str(run / "model.safetensors"), "--format", "json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["class_names"] == [str(k) for k in range(10)]
    assert facts["config"]["depth"] == 1


class TestBadInput:
    """Each gives one message with a way out, code 2, and changes nothing."""

    def test_unknown_model(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "run"
        argv = ["train", "digits", "--model", "vit_bas_patch16", "--out", str(out)]
        assert "did you mean 'vit_base_patch16'" in refused(argv, capsys)
        assert not out.exists()

    def test_unknown_recipe_and_recipe_key(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "shipped are augreg" in refused(["train", "digits", "--recipe", "digit"], capsys)
        path = tmp_path / "mine.toml"
        path.write_text("[optim]\nlearning_rate = 1\nweight_decy = 2\n")
        argv = ["train", "digits", "--recipe", str(path)]
        assert "recipe has no 'optim.learning_rate'" in refused(argv, capsys)

    def test_size_that_is_no_multiple_of_the_patch(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out = tmp_path / "run"
        argv = ["train", "digits", "--arch.img-size", "9", "--out", str(out)]
        assert "no multiple of patch_size" in refused(argv, capsys)
        assert not out.exists()

    def test_missing_data(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "hint: give a folder" in refused(["train", "no/such/folder"], capsys)

    def test_class_folder_that_training_does_not_know(
        self, tmp_path: Path, digit: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for place in ("train/a", "train/b", "val/a", "val/zebra"):
            (tmp_path / "data" / place).mkdir(parents=True)
            shutil.copy(digit, tmp_path / "data" / place / "1.png")
        argv = ["train", str(tmp_path / "data"), "--out", str(tmp_path / "run")]
        assert "zebra" in refused(argv, capsys)
        assert not (tmp_path / "run").exists()

    def test_image_that_cannot_be_read_ends_training_by_name(
        self, tmp_path: Path, digit: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png", "a/3.png", "b/3.png"):
            (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(digit, tmp_path / "data" / name)
        (tmp_path / "data" / "a" / "4.png").write_bytes(digit.read_bytes()[:40])
        argv = ["train", str(tmp_path / "data"), "--out", str(tmp_path / "run"), *TINY]
        argv += ["--recipe", "digits", "--data.workers", "1"]
        assert main(argv) == 2
        error = capsys.readouterr().err
        assert "4.png" in error
        assert "Traceback" not in error

    def test_output_folder_that_holds_another_run(
        self, run: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = (run / "model.safetensors").read_bytes()
        message = refused(["train", "digits", "--out", str(run)], capsys)
        assert "already holds another run" in message
        assert "hint: name another folder with --out, or go on with --resume" in message
        assert (run / "model.safetensors").read_bytes() == before
        argv = ["evaluate", str(run), "digits", "--out", str(run)]
        assert "already holds" in refused(argv, capsys)

    def test_output_file_that_exists(
        self, run: Path, digit: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        before = digit.read_bytes()
        argv = ["predict", str(run), str(digit), "--out", str(digit)]
        assert "nothing is overwritten" in refused(argv, capsys)
        assert digit.read_bytes() == before

    @pytest.mark.parametrize("kind", ["truncated", "text", "empty", "missing"])
    def test_broken_artefact(
        self, kind: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "model.safetensors"
        whole = (run / "model.safetensors").read_bytes()
        content = {"truncated": whole[:-100], "text": b"<html>404</html>", "empty": b""}
        if kind in content:
            path.write_bytes(content[kind])
        for verb in (["inspect"], ["predict"], ["evaluate"]):
            argv = [*verb, str(path), *(["digits:test"] if verb != ["inspect"] else [])]
            argv = [a.removesuffix(":test") if verb == ["evaluate"] else a for a in argv]
            assert "model.safetensors" in refused(argv, capsys)

    def test_input_image_that_is_missing(
        self, run: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert "no such image: nowhere.jpg" in refused(["predict", str(run), "nowhere.jpg"], capsys)

    def test_split_and_classes_that_do_not_fit(
        self, run: Path, digit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        argv = ["evaluate", str(run), "digits", "--split", "tset"]
        assert "has no split 'tset'\nhint: it has train, val, test" in refused(argv, capsys)
        for name in ("cat", "dog"):
            (tmp_path / "pets" / name).mkdir(parents=True)
            for file in ("1.png", "2.png"):
                shutil.copy(digit, tmp_path / "pets" / name / file)
        argv = ["evaluate", str(run), str(tmp_path / "pets"), "--split", "train"]
        assert "does not know: cat, dog" in refused(argv, capsys)
