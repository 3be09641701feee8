"""The whole verb on small images: files, intervals, resuming, and what is refused."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import tessera
from tessera import stressing
from tessera.checkpoint.artifact import Calibration, Header, save_artifact
from tessera.checkpoint.load import load_model
from tessera.cli import main
from tessera.data.preprocessing import Preprocessing
from tessera.data.sources import find_data
from tessera.journal import Journal
from tessera.models.variants import parse
from tessera.models.vit import ViT
from tessera.robustness.occlusion import drop_cells
from tessera.stress import occluding
from tessera.stress.registry import TESTS
from tessera.stress.results import StressResult
from tessera.stress.settings import StressSettings
from tessera.stress.subject import draw_images
from tessera.stressing import stress

NAMES = ("blue", "green", "red")

SMALL = StressSettings(
    ratios=(0.0, 0.5),
    masses=(0.3,),
    runs=2,
    permutations=((2, 2), (14, 14)),
    areas=(0.25,),
    patch_runs=1,
    patch_steps=2,
    eps=(4.0,),
    steps=2,
    corruptions=("brightness", "gaussian_noise"),
    severities=(1, 5),
    resolutions=(0.5, 1.5),
    crops=(0.5,),
)


def save_model(path: Path, names: tuple[str, ...] = NAMES, chans: int = 3, **arch: Any) -> Path:
    """A model that knows nothing, but is sure of it."""
    torch.manual_seed(len(str(arch)))
    name = arch.pop("name", "vit_mu_patch4")
    config = parse(name, img_size=16, num_classes=len(names), in_chans=chans, **arch)
    model = ViT(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    half = (0.5,) * chans
    prepared = Preprocessing(size=(16, 16), channels=chans, mean=half, std=half)
    save_artifact(path, model, Header(config=config, preprocessing=prepared, class_names=names))
    return path


def save_images(root: Path, names: tuple[str, ...] = NAMES, grey: bool = False) -> Path:
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 6)):
        for number, name in enumerate(names):
            place = root / split / name
            place.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (18, 20, 3))
                pixels[..., number % 3] += 100
                image = Image.fromarray(pixels.astype(np.uint8))
                (image.convert("L") if grey else image).save(place / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("model") / "mu.safetensors")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_images(tmp_path_factory.mktemp("data") / "tints")


@pytest.fixture(scope="module")
def whole(model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> StressResult:
    """Two models, every test but AutoAttack, a shift of which one class is known."""
    root = tmp_path_factory.mktemp("whole")
    other = save_model(root / "gap.safetensors", cls_token=False, pool="avg", pos_embed="none")
    elsewhere = save_images(root / "elsewhere", ("red", "yellow"))
    return stress(model, data, compare=[other], settings=SMALL, shift=elsewhere, out=root / "out")


def test_every_test_has_a_row_with_its_interval_for_every_model(whole: StressResult) -> None:
    for test in TESTS:
        if test == "autoattack":
            continue
        for name in ("mu", "gap"):
            rows = whole.of(test, name)
            assert rows or (test, name) == ("salience", "gap")
            for row in rows:
                low, high = row.accuracy.low, row.accuracy.high
                assert 0 <= low <= row.accuracy.value <= high <= 1
                assert low < high
                assert row.accuracy.value == pytest.approx(np.mean(row.hits) / row.images)
                assert 0 <= row.ece <= 1
    assert [len(row.hits) for row in whole.of("occlusion", "mu")] == [1, 2]


def test_what_is_left_out_is_said(whole: StressResult) -> None:
    assert "--salience" in whole.notes["salience"]["gap"][0]
    assert "14x14" in whole.notes["permutation"]["mu"][0]
    assert "no position embeddings" in whole.notes["permutation"]["gap"][1]
    assert "6 images of 1 classes" in whole.notes["shift"]["mu"][0]
    assert whole.as_dict()["not_asked_for"] == ["autoattack"]
    assert "class token" in whole.notes["salience"]["mu"][0]


def test_files_hold_every_row_and_the_page_needs_nothing_else(whole: StressResult) -> None:
    numbers = json.loads((whole.folder / "results.json").read_text())
    assert len(numbers["rows"]) == len(whole.rows)
    assert numbers["missing_levels"] == 0
    with (whole.folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(whole.rows) + 2
    assert all(row["low"] and row["high"] for row in rows)
    page = (whole.folder / "results.html").read_text()
    for outside in ("<script", "<link", "src=", 'href="http', "@import", "url(http"):
        assert outside not in page
    for test in whole.tests:
        assert TESTS[test].title in page
    assert "mCE" not in page
    assert "mCE" not in json.dumps(numbers)
    assert "mean of 2 corruptions" in page
    assert (whole.folder / "curves.svg").read_text().startswith("<svg")


def test_without_stress_it_is_what_evaluate_measures(
    whole: StressResult, model: Path, data: Path
) -> None:
    found = tessera.evaluate(model, data).result
    assert whole.clean["mu"].accuracy == found.score.interval
    first = whole.of("occlusion", "mu")[0]
    assert (first.value, first.accuracy) == (0.0, found.score.interval)  # nothing dropped


def test_results_do_not_depend_on_the_batch_size(
    whole: StressResult,
    model: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stressing, "write_results", lambda result: None)  # drawing takes seconds
    found = stress(model, data, settings=SMALL, batch_size=5, out=tmp_path / "out")
    for row in found.rows:
        (same,) = [
            r
            for r in whole.of(row.test, "mu", row.series)
            if (r.text, r.test) == (row.text, row.test)
        ]
        # An answer on the edge may fall either way by rounding; measured: none does.
        assert row.hits == same.hits, (row.test, row.series)
        assert row.ece == pytest.approx(same.ece, abs=1e-4)


def test_resuming_gives_what_an_unbroken_run_gives(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stressing, "write_results", lambda result: None)  # drawing takes seconds
    args: dict[str, Any] = {"settings": SMALL, "tests": ["occlusion", "patch", "corruptions"]}
    unbroken = stress(model, data, out=tmp_path / "a", **args)
    record, kept = Journal.record, list[str]()

    def stop(self: Journal, key: str, value: Any) -> None:
        if len(kept) == 5:
            raise KeyboardInterrupt
        record(self, key, value)
        kept.append(key)

    monkeypatch.setattr(Journal, "record", stop)
    with pytest.raises(KeyboardInterrupt):
        stress(model, data, out=tmp_path / "b", **args)
    done = list(kept)

    def note(self: Journal, key: str, value: Any) -> None:
        record(self, key, value)
        kept.append(key)

    monkeypatch.setattr(Journal, "record", note)
    resumed = stress(model, data, out=tmp_path / "b", resume=True, **args)
    assert not set(done) & set(kept[5:])
    assert [row.as_dict() for row in resumed.rows] == [row.as_dict() for row in unbroken.rows]
    with pytest.raises(ValueError, match=r"already holds results.*\nhint: go on with --resume"):
        stress(model, data, out=tmp_path / "b", **args)
    args["settings"] = StressSettings(seed=1)
    with pytest.raises(ValueError, match="another settings"):
        stress(model, data, out=tmp_path / "b", resume=True, **args)


def test_cells_are_the_same_for_all_images_and_other_in_every_run(
    model: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []

    def spy(pixels: torch.Tensor, dropped: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        seen.append(dropped)
        return drop_cells(pixels, dropped, grid)

    monkeypatch.setattr(occluding, "drop_cells", spy)
    settings = StressSettings(ratios=(0.5,), runs=5)
    stress(model, data, tests=["occlusion"], settings=settings, batch_size=9, out=tmp_path / "o")
    assert len(seen) == 5 * 2  # 18 images in two batches, five runs
    runs = [torch.cat(seen[2 * i : 2 * i + 2]) for i in range(5)]
    for run in runs:
        assert run.sum(dim=1).tolist() == [98] * 18
        assert (run == run[0]).all()
    assert len({tuple(run[0].tolist()) for run in runs}) == 5


def test_first_images_of_a_draw_have_every_class(data: Path) -> None:
    test = find_data(str(data))["test"]
    assert draw_images(test, 9, 0).class_counts().tolist() == [3, 3, 3]
    assert draw_images(test, 3, 1).class_counts().tolist() == [1, 1, 1]
    assert len(draw_images(test, 1000, 0)) == 18
    rows = [draw_images(test, 9, seed).rows.tolist() for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]


def test_grey_images_and_grey_models_are_stressed(tmp_path: Path) -> None:
    grey = save_model(tmp_path / "grey.safetensors", chans=1)
    images = save_images(tmp_path / "images", grey=True)
    tests = ["occlusion", "patch", "pgd", "corruptions"]
    found = stress(grey, images, tests=tests, settings=SMALL, out=tmp_path / "out")
    assert {row.test for row in found.rows} == set(found.tests)


def test_a_network_without_an_encoder_is_stressed_with_another_models_attention(
    model: Path, data: Path, tmp_path: Path
) -> None:
    arch: dict[str, Any] = {"stem_layers": 2, "stem_width": 8, "patch_size": 4, "embed_dim": 16}
    cnn = save_model(tmp_path / "cnn.safetensors", name="fractalnet_20_32", **arch)
    tests = ["salience", "permutation"]
    found = stress(cnn, data, tests=tests, settings=SMALL, salience=model, out=tmp_path / "out")
    assert found.of("salience")
    assert "of mu.safetensors" in found.notes["salience"]["cnn"][0]
    assert "no position embeddings" in found.notes["permutation"]["cnn"][1]


def refused(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["stress", *args]) == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert message.count("error:") == 1
    assert "Traceback" not in message
    return message


def test_a_shift_has_the_classes_of_both_data_sets(model: Path, tmp_path: Path) -> None:
    """The model knows three classes, the data two of them, the shift one of these and the third."""
    two = save_images(tmp_path / "two", ("blue", "red"))
    shifted = save_images(tmp_path / "shifted", ("green", "red"))
    found = stress(model, two, tests=["shift"], settings=SMALL, shift=shifted, out=tmp_path / "o")
    (row,) = found.rows
    assert row.images == 6, "the red ones alone"
    facts = found.as_dict()["data"]["shift"]
    assert (facts["measured"], facts["split"], facts["unreadable"]) == (6, "test", [])
    green = save_images(tmp_path / "green", ("green", "yellow"))
    with pytest.raises(ValueError, match="have no class in common\nhint: classes are matched"):
        stress(model, two, tests=["shift"], settings=SMALL, shift=green, out=tmp_path / "none")


def test_going_on_may_add_tests(model: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = stress(model, data, tests=["crops"], settings=SMALL, out=out)
    both = stress(model, data, tests=["crops", "fgsm"], settings=SMALL, out=out, resume=True)
    assert both.of("crops", "mu")[0].hits == first.of("crops", "mu")[0].hits
    assert both.of("fgsm", "mu")
    assert both.missing == 0


def test_wishes_that_come_to_the_same_size_are_one_level(
    model: Path, data: Path, tmp_path: Path
) -> None:
    settings = StressSettings(resolutions=(0.5, 0.55, 0.95, 1.4))
    found = stress(model, data, tests=["resolutions"], settings=settings, out=tmp_path / "out")
    levels = [(row.text, row.value) for row in found.of("resolutions", "mu")]
    assert levels == [("8x8", 0.5), ("24x24", 1.5)]
    assert found.missing == 0
    assert "0.95 of 16x16 pixels is that size, in patches" in found.notes["resolutions"]["mu"]


def test_what_cannot_be_is_one_message(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mu, tints, out = str(model), str(data), str(tmp_path / "out")
    assert "did you mean 'pgd'" in refused([mu, tints, "--tests", "pdg"], capsys)
    assert "eps: 0.0 must be positive" in refused([mu, tints, "--eps", "0"], capsys)
    assert "is no grid" in refused([mu, tints, "--grids", "4"], capsys)
    empty = tmp_path / "empty"
    empty.mkdir()
    refused([mu, str(empty), "--out", out], capsys)
    stranger = str(save_images(tmp_path / "strange", ("cat", "dog")))
    nothing = refused([mu, stranger, "--out", out], capsys)
    assert "have no class in common: the model knows blue, green, red" in nothing
    assert "no class in common" in refused([mu, tints, "--shift", stranger, "--out", out], capsys)
    half = str(save_images(tmp_path / "half", ("red", "dog")))
    assert "does not know 1 of the 2 classes" in refused([mu, half, "--out", out], capsys)
    cats = str(save_model(tmp_path / "cats.safetensors", ("cat", "dog", "cow")))
    message = refused([mu, tints, "--compare", cats, "--out", out], capsys)
    assert "cats and" in message
    assert "no class in common" in message
    assert "has no split 'val'" not in refused([mu, "nowhere", "--out", out], capsys)
    assert "batch_size=0" in refused([mu, tints, "--batch-size", "0", "--out", out], capsys)
    assert main(["stress", mu, tints, "--head", "7", "--out", out]) == 2
    assert "error: --head 7 is not in a model of 2 heads\nhint: 0 to 1" in capsys.readouterr().err
    gap = str(save_model(tmp_path / "gap.safetensors", cls_token=False, pool="avg"))
    said = refused([mu, tints, "--salience", gap, "--out", out], capsys)
    assert "hint: name a model with a class token" in said
    assert not Path(out).exists()  # nothing was begun


def test_the_command_prints_means_and_weak_points(
    model: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["stress", str(model), str(data), "--tests", "occlusion", "fgsm", "--ratios", "0.5"]
    assert main([*args, "--quick", "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    assert "quick: fewer levels" in shown.out
    assert "occlusion: random, 14x14 cells" in shown.out
    assert "weakest" in shown.out
    assert "not asked for: salience" in shown.err
    again = [*args, "--quick", "--out", str(tmp_path / "out"), "--resume", "--format", "json"]
    assert main(again) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["quick"]


def test_autoattack_is_never_skipped_in_silence(
    model: Path,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyautoattack", None)
    args = ["stress", str(model), str(data), "--tests", "autoattack", "--out", str(tmp_path / "o")]
    assert main(args) == 1
    assert "pip install pyautoattack" in capsys.readouterr().err


def test_an_unreadable_image_is_left_out_and_named(model: Path, tmp_path: Path) -> None:
    images = save_images(tmp_path / "images")
    (images / "test" / "red" / "0.png").write_bytes(b"no image")
    found = stress(
        model,
        images,
        tests=["crops"],
        settings=SMALL,
        bad_share=0.2,
        out=tmp_path / "out",
        console=Console(quiet=True),
    )
    assert found.data["measured"] == 17
    assert "0.png" in found.data["unreadable"][0]


def test_what_patches_are_made_from_is_read_only_where_one_is_made(
    model: Path, tmp_path: Path
) -> None:
    images = save_images(tmp_path / "images")
    (images / "train" / "red" / "0.png").write_bytes(b"no image")

    def run(tests: list[str], *, resume: bool) -> StressResult:
        return stress(
            model,
            images,
            tests=tests,
            settings=SMALL,
            out=tmp_path / "out",
            resume=resume,
            console=Console(quiet=True),
        )

    assert run(["crops"], resume=False).data["notes"] == []
    notes = run(["crops", "patch"], resume=True).data["notes"]
    assert len(notes) == 1
    assert notes[0].startswith("1 images that patches are made from cannot be read")
    assert "0.png" in notes[0]


def test_work_is_not_taken_up_with_another_temperature(data: Path, tmp_path: Path) -> None:
    model = save_model(tmp_path / "model.safetensors")

    def run(**changes: Any) -> StressResult:
        return stress(
            model,
            data,
            tests=["crops"],
            settings=SMALL,
            out=tmp_path / "out",
            console=Console(quiet=True),
            **changes,
        )

    run()
    loaded = load_model(model)
    warm = Calibration(
        temperature=2.0,
        split="val",
        images=99,
        nll_before=1.0,
        nll_after=0.9,
        ece_before=0.1,
        ece_after=0.05,
    )
    save_artifact(model, loaded.model, replace(loaded.header, calibration=warm))
    with pytest.raises(ValueError, match="another classes and temperature\nhint: "):
        run(resume=True)
