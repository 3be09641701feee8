"""The verb: files, geometry, and what it says to bad input."""

import copy
import json
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import tessera
from tessera import explaining
from tessera.checkpoint.artifact import Header, save_artifact
from tessera.cli import main
from tessera.config import ViTConfig
from tessera.data.images import as_image
from tessera.data.preprocessing import Preprocessing
from tessera.explain.methods import METHODS
from tessera.explain.overlay import colours_of, overlay
from tessera.explaining import ExplainSettings, explain, explain_model, find_target
from tessera.models.vit import ViT
from tessera.predict import load
from tessera.progress import Counter
from tessera.report.maps import save_maps

NAMES = ("tench, Tinca tinca", "ant", "bee")


def header_of(crop: str = "crop", **changes: Any) -> Header:
    config = ViTConfig(
        **{
            "embed_dim": 16,
            "depth": 2,
            "num_heads": 2,
            "mlp_dim": 16,
            "patch_size": 8,
            "img_size": 32,
            "num_classes": 3,
            **changes,
        }
    )
    preprocessing = Preprocessing(size=(32, 32), crop=crop, crop_pct=0.8)  # type: ignore[arg-type]
    names = NAMES if config.num_classes == 3 else ()
    return Header(config=config, preprocessing=preprocessing, class_names=names)


def saved(path: Path, **changes: Any) -> Path:
    torch.manual_seed(0)
    header = header_of(**changes)
    save_artifact(path, ViT(header.config, init="timm"), header)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("model") / "model.safetensors")


def photo(path: Path, size: tuple[int, int] = (60, 45), mode: str = "RGB") -> Path:
    width, height = size
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


FAST = ("--curve-steps", "2", "--sanity-images", "1")


def test_the_files_of_a_run(model: Path, tmp_path: Path, capsys: Any) -> None:
    first = photo(tmp_path / "a b.png")
    second = photo(tmp_path / "grey.jpg", (37, 90), "L")
    out = tmp_path / "out"
    words = ["explain", str(model), str(first), str(second), "--method", "rollout", "pca"]
    assert main([*words, "occlusion", "--target", "bee", "--out", str(out), *FAST]) == 0
    shown = capsys.readouterr().out
    assert "bee 0." in shown
    assert "rank correlation" in shown
    for stem, size in (("0000-a-b", (60, 45)), ("0001-grey", (37, 90))):
        for method in ("rollout", "pca", "occlusion"):
            with Image.open(out / f"{stem}.{method}.png") as picture:
                assert picture.size == size  # the image's own
        with np.load(out / f"{stem}.npz") as maps:
            assert maps["rollout"].shape == maps["occlusion"].shape == (4, 4)
            assert maps["pca"].shape == (4, 4, 3)
    numbers = json.loads((out / "explain.json").read_text())
    assert [image["target"] for image in numbers["images"]] == ["bee", "bee"]
    by_name = {method["name"]: method for method in numbers["methods"]}
    assert by_name["pca"]["faithfulness"] is None
    assert by_name["rollout"]["faithfulness"]["images"] == 2
    assert by_name["rollout"]["sanity"]["threshold"] == 0.5
    page = (out / "explain.html").read_text()
    assert not re.search(r"<(script|link|iframe)|src=\"(?!data:)", page)  # nothing from outside
    assert (out / "contact.png").exists()
    assert main([*words, "--out", str(out)]) == 2  # nothing is overwritten
    assert "already holds something else" in capsys.readouterr().err


def test_the_predicted_class_is_explained_unless_another_is_named(
    model: Path, tmp_path: Path
) -> None:
    image = photo(tmp_path / "a.png")
    settings = ExplainSettings(curve_steps=0, sanity_images=0)
    found = explain(model, [image], settings)
    best = load(model).predict([image])[0]
    assert found.images[0].target == found.images[0].predicted == best.labels[0]
    assert found.images[0].answer == pytest.approx(best.probabilities[0], abs=1e-6)
    assert found.facts["methods"] == ["relevance"]
    array = np.asarray(Image.open(image))
    again = explain(model, [array], settings)
    assert np.array_equal(again.images[0].maps[0].values, found.images[0].maps[0].values)


@pytest.mark.parametrize(
    ("target", "number"),
    [("bee", 2), ("Ant", 1), ("tinca tinca", 0), ("1", 1), (2, 2), (None, None)],
)
def test_a_target_is_a_name_or_a_number(model: Path, target: Any, number: Any) -> None:
    assert find_target(target, load(model)) == number


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["IMAGE", "--target", "beee"], "no class 'beee'\nhint: did you mean 'bee'?"),
        (["IMAGE", "--target", "7"], "class 7 is not in a model of 3 classes from 0"),
        (
            ["IMAGE", "--block", "5", "--method", "attention"],
            "block 5 is not in a model of",
        ),
        (
            ["IMAGE", "--block", "0"],
            "block 0 changes nothing in relevance\nhint: leave it out, or take a method that "
            "looks at one block: attention, grad-cam",
        ),
        (["IMAGE", "--head", "2", "--method", "attention"], "head 2 is not in an attention of 2"),
        (["IMAGE", "--method", "grad-cam", "--head", "1"], "looks at one head: attention"),
        (["EMPTY"], "has no images"),
        (["NOTHING.jpg"], "no such image"),
        ([], "no images given\nhint: give files, folders"),
        (["BROKEN"], "no image could be read\nhint: "),
        (["IMAGE", "--steps", "0"], "steps=0 must be at least 1"),
    ],
)
def test_bad_input_gives_one_message_and_writes_nothing(
    model: Path, tmp_path: Path, capsys: Any, words: list[str], message: str
) -> None:
    image = photo(tmp_path / "image.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    names = {"IMAGE": image, "EMPTY": tmp_path / "empty", "BROKEN": tmp_path / "broken.jpg"}
    given = [str(names.get(word, word)) for word in words]
    out = tmp_path / "out"
    assert main(["explain", str(model), *given, "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(out.glob("*"))


def test_a_network_without_encoder_says_what_it_has(tmp_path: Path, capsys: Any) -> None:
    network = {
        "embed_dim": 256,
        "depth": 0,
        "patch_embed": "resnetv2",
        "stem_blocks": (1, 1),
        "stem_width": 32,
        "cls_token": False,
        "pos_embed": "none",
        "pool": "avg",
        "final_norm": "none",
    }
    path = saved(tmp_path / "network.safetensors", **network)
    image = str(photo(tmp_path / "a.png"))
    out = ["--out", str(tmp_path / "out")]
    assert main(["explain", str(path), image, "--method", "rollout", *out]) == 2
    assert "has none\nhint: for this model there are grad-cam" in capsys.readouterr().err
    assert main(["explain", str(path), image, *FAST, *out]) == 0
    assert "grad-cam" in capsys.readouterr().out
    sections = explain_model(path)
    assert sections["filters"].image is not None
    assert sections["positions"].note == "the model has no positions"
    assert "no encoder" in sections["distance"].note


def test_an_unreadable_image_is_named_and_left_out(
    model: Path, tmp_path: Path, capsys: Any
) -> None:
    photo(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8 no image")
    out = tmp_path / "out"
    assert main(["explain", str(model), str(tmp_path), "--out", str(out), *FAST]) == 1
    assert "b.jpg" in capsys.readouterr().err
    assert (out / "0000-a.relevance.png").exists()


def test_what_was_made_before_an_interruption_stands_on_the_page(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [photo(tmp_path / f"{i}.png") for i in range(3)]

    def stopped_at_the_third(source: Any) -> Image.Image:
        if str(source) == str(paths[2]):
            raise KeyboardInterrupt
        return as_image(source)

    monkeypatch.setattr(explaining, "as_image", stopped_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        explain(model, paths, ExplainSettings(methods=["rollout"]), out=tmp_path / "out")
    found = json.loads((tmp_path / "out" / "explain.json").read_text())
    assert [Path(image["name"]).name for image in found["images"]] == ["0.png", "1.png"]
    assert found["finished"] is False
    assert found["methods"][0]["sanity"] is None
    assert "Stopped before the end" in (tmp_path / "out" / "explain.html").read_text()


def test_what_was_wrong_is_said_and_not_that_the_page_could_not_be_written(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [photo(tmp_path / f"{i}.png") for i in range(2)]

    def full(*args: Any) -> Image.Image:
        if args[1] == 1:
            raise OSError(28, "No space left on device")
        return save_maps(*args)

    def fuller(*args: Any) -> Path:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(explaining, "save_maps", full)
    monkeypatch.setattr(explaining, "write_explanation", fuller)
    with pytest.raises(OSError, match="No space left"):
        explain(model, paths, ExplainSettings(methods=["rollout"]), out=tmp_path / "out")


@pytest.mark.parametrize(("method", "classes"), [*((m, 3) for m in sorted(METHODS)), ("pca", 0)])
def test_the_work_that_is_announced_is_the_work_that_is_counted(
    method: str, classes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = header_of(num_classes=classes)
    model = tmp_path / "model.safetensors"
    save_artifact(model, ViT(header.config), header)
    (tmp_path / "1.png").write_bytes(b"no image")
    done: list[int] = []
    expected: list[int | None] = []

    def begin(self: Counter, bar: Any, text: str, total: int | None) -> None:
        expected.append(total)

    monkeypatch.setattr(Counter, "__init__", begin)
    monkeypatch.setattr(Counter, "advance", lambda self, pieces: done.append(pieces))
    settings = ExplainSettings(methods=[method], curve_steps=3, sanity_images=1)
    photos = [photo(tmp_path / f"{i}.png") for i in (0, 2)]
    explain(model, [photos[0], tmp_path / "1.png", photos[1]], settings)
    assert [sum(done)] == expected


def test_a_turned_photograph_is_explained_upright(model: Path, tmp_path: Path) -> None:
    upright = photo(tmp_path / "up.png", (48, 64))
    with Image.open(upright) as image:
        exif = Image.Exif()
        exif[0x0112] = 6  # the camera lay on its side
        image.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    settings = ExplainSettings(curve_steps=0, sanity_images=0)
    found = explain(model, [upright, tmp_path / "turned.png"], settings, out=tmp_path / "out")
    first, second = (image.maps[0].values for image in found.images)
    assert np.array_equal(first, second)
    with Image.open(tmp_path / "out" / "0001-turned.relevance.png") as picture:
        assert picture.size == (48, 64)


@pytest.mark.parametrize("crop", ["crop", "squash", "letterbox", "native"])
@pytest.mark.parametrize("size", [(60, 45), (45, 60), (32, 32), (640, 100)])
def test_a_map_lies_where_the_model_saw_it(crop: str, size: tuple[int, int]) -> None:
    """A dot of the image, found in the model's input, is where the overlay puts that cell."""
    prepare = header_of(crop).preprocessing
    left, top, right, bottom = prepare.seen(size[1], size[0])
    for share in ((0.3, 0.4), (0.7, 0.55)):
        x, y = left + share[0] * (right - left), top + share[1] * (bottom - top)
        if not (3 <= x < size[0] - 3 and 3 <= y < size[1] - 3):
            continue
        pixels = np.zeros((size[1], size[0], 3), np.uint8)
        black = prepare.pixels(Image.fromarray(pixels))[0].double()  # and the letterbox's paper
        reach = max(2, round((right - left) / 32), round((bottom - top) / 32))
        pixels[int(y) - reach : int(y) + reach + 1, int(x) - reach : int(x) + reach + 1] = 255
        seen = prepare.pixels(Image.fromarray(pixels))[0].double() - black
        total = seen.sum()
        column = float((seen.sum(0) * (torch.arange(seen.shape[1]) + 0.5)).sum() / total)
        row = float((seen.sum(1) * (torch.arange(seen.shape[0]) + 0.5)).sum() / total)
        assert column == pytest.approx(share[0] * seen.shape[1], abs=1.0)
        assert row == pytest.approx(share[1] * seen.shape[0], abs=1.0)


def test_pixels_outside_the_crop_are_left_as_they_are() -> None:
    prepare = header_of().preprocessing
    image = Image.fromarray(np.full((45, 60, 3), 200, np.uint8))
    colours = torch.zeros(4, 4, 3)
    painted = np.asarray(overlay(image, colours, prepare))
    marked = (painted != 200).any(axis=-1)
    left, top, right, bottom = prepare.seen(45, 60)
    rows, columns = np.mgrid[0:45, 0:60] + 0.5
    inside = (columns >= left) & (columns <= right) & (rows >= top) & (rows <= bottom)
    assert np.array_equal(marked, inside)
    assert 0.3 < inside.mean() < 0.6  # 0.8 of the height, squared, of a wider image


def test_an_image_of_many_pixels_is_drawn_in_strips() -> None:
    prepare = header_of("squash").preprocessing
    tall = Image.fromarray(np.zeros((1300, 20, 3), np.uint8))
    colours = torch.rand(4, 4, 3, generator=torch.Generator().manual_seed(0))
    painted = np.asarray(overlay(tall, colours, prepare, strength=1.0)).astype(float)
    assert np.abs(np.diff(painted, axis=0)).max() <= 2  # no seam between strips


def test_colours_of_a_map() -> None:
    same = colours_of(torch.full((3, 3), 0.2))
    assert (same == same[0, 0]).all()
    signed = colours_of(torch.tensor([[-5.0, 0.0], [0.5, 1.0]]))
    assert torch.equal(signed[0, 0], signed[0, 1])  # what speaks against it has no colour
    assert signed[1, 1].sum() > signed[1, 0].sum() > signed[0, 0].sum()


@pytest.mark.parametrize("pos_embed", ["learned", "rope2d_mixed", "bias2d"])
def test_figure_7_of_a_model(pos_embed: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "model.safetensors", pos_embed=pos_embed, num_registers=2)
    out = tmp_path / "out"
    image = photo(tmp_path / "a.png")
    words = ["explain", str(path), str(image), "--model-only", "--out", str(out)]
    assert main(words) == 0
    numbers = json.loads((out / "explain.json").read_text())
    assert not any(numbers[key]["note"] for key in ("filters", "positions", "distance", "norms"))
    with np.load(out / "model.npz") as arrays:
        assert arrays["filters"].shape == (16, 3, 8, 8)  # no more directions than filters
        similar = arrays["position_similarity"]
        assert similar.shape == (16, 16)
        if pos_embed != "bias2d":
            # Measured: 1.2e-7.
            assert np.allclose(np.diag(similar), 1, atol=1e-5)
        assert arrays["attention_distance"].shape == (2, 2)
        assert arrays["token_norms"].shape == (16,)
    assert set(numbers["norms"]["special_tokens"]) == {"cls", "registers"}


def test_schemes_that_say_nothing_without_content_say_so(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.safetensors", pos_embed="shaw")
    assert "depend on what the patches hold" in explain_model(path)["positions"].note
    assert "none were given" in explain_model(path)["distance"].note


def test_tessera_explain_is_the_verb_whatever_was_imported_before() -> None:
    assert callable(tessera.explain)
    assert callable(tessera.transfer)
    assert tessera.explain is explain


def test_the_package_travels_to_other_processes_by_its_name() -> None:
    assert pickle.loads(pickle.dumps(tessera)) is tessera
    assert copy.deepcopy(tessera) is tessera
