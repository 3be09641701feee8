"""The artefact gives back exactly what was put in, and a file that is none says so."""

import json
import re
import struct
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tessera.checkpoint.artifact import (
    FORMAT,
    RUN_FILE,
    ArtifactError,
    Calibration,
    Header,
    load_artifact,
    read_header,
    save_artifact,
    write_atomically,
)
from tessera.checkpoint.load import load_model
from tessera.data.preprocessing import IMAGENET_MEAN, Preprocessing
from tessera.models.variants import parse
from tessera.models.vit import ViT

NAMES = ("ant", "bee", "Käfer & Co.")


def make_model(**arch: Any) -> ViT:
    torch.manual_seed(0)
    config = parse("vit_mu_patch16", img_size=(32, 48), num_classes=3, num_registers=2, **arch)
    model = ViT(config)
    assert isinstance(model.head, torch.nn.Linear)
    torch.nn.init.normal_(model.head.weight)  # zero at first, and then all logits are equal
    return model


def make_header(model: ViT) -> Header:
    return Header(
        config=model.config,
        preprocessing=Preprocessing(size=(32, 48), crop_pct=0.9, mean=IMAGENET_MEAN),
        class_names=NAMES,
        card={"seed": 3, "recipe": 'model = "x"\n', "metrics": {"accuracy": 0.5}},
    )


@pytest.fixture
def model() -> ViT:
    return make_model()


@pytest.fixture
def saved(model: ViT, tmp_path: Path) -> Path:
    path = tmp_path / RUN_FILE
    save_artifact(path, model, make_header(model))
    return path


def header_text(path: Path) -> dict[str, Any]:
    """What stands in a file, as JSON."""
    length = struct.unpack("<Q", path.read_bytes()[:8])[0]
    outer = json.loads(path.read_bytes()[8 : 8 + length])
    return dict(json.loads(outer["__metadata__"]["tessera"]))


CALIBRATION = Calibration(
    temperature=1.75,
    split="val",
    images=40,
    nll_before=0.5,
    nll_after=0.4,
    ece_before=0.2,
    ece_after=0.01,
)


def test_a_calibration_comes_back_and_an_old_file_has_none(
    saved: Path, model: ViT, tmp_path: Path
) -> None:
    assert "calibration" not in header_text(saved), "as files were before there was any"
    assert load_artifact(saved).header.calibration is None
    assert load_artifact(saved).header.temperature is None
    path = tmp_path / "calibrated.safetensors"
    save_artifact(path, model, replace(make_header(model), calibration=CALIBRATION))
    assert load_artifact(path).header.calibration == CALIBRATION
    assert load_artifact(path).header.temperature == 1.75
    assert header_text(path)["format"] == header_text(saved)["format"], "old readers read it"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0 must be a positive number"),
        ({"temperature": -1.0}, "must be a positive number"),
        ({"temperature": float("nan")}, "must be a positive number"),
        ({"temperature": float("inf")}, "must be a positive number"),
        ({"temperature": "hot"}, "of the wrong type"),
        ({"images": 0}, "says nothing"),
        ({"ece_after": float("nan")}, "ece_after=nan"),
        ({"nll_before": -0.1}, "nll_before=-0.1"),
        ({"colour": 1}, "has no 'colour'"),
        (None, "missing"),
        ([1.75], "of the wrong type"),
    ],
)
def test_a_calibration_that_makes_no_sense_is_refused(
    change: Any, message: str, saved: Path, model: ViT, tmp_path: Path
) -> None:
    text = header_text(saved)
    good = asdict(CALIBRATION)
    if isinstance(change, dict):
        text["calibration"] = good | change
    else:
        text["calibration"] = {"temperature": 1.75} if change is None else change
    path = tmp_path / "changed.safetensors"
    save_file(model.state_dict(), path, metadata={"tessera": json.dumps(text)})
    with pytest.raises(ArtifactError, match=re.escape(message)):
        load_artifact(path)


def test_only_a_classifier_has_a_temperature(model: ViT) -> None:
    with pytest.raises(ValueError, match="multilabel has no temperature"):
        replace(make_header(model), calibration=CALIBRATION, task="multilabel")


def test_weights_and_header_come_back_exactly(saved: Path, model: ViT) -> None:
    loaded = load_artifact(saved)
    assert loaded.header == make_header(model)
    assert loaded.path == saved
    assert not loaded.model.training
    ours, theirs = model.state_dict(), loaded.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(theirs[name].dtype == ours[name].dtype for name in ours)


@torch.inference_mode()
def test_a_loaded_model_answers_as_the_saved_one_bit_for_bit(saved: Path, model: ViT) -> None:
    images = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    logits = model.eval()(images)
    assert torch.equal(load_artifact(saved).model(images), logits)
    assert logits.std() > 0


def test_a_loaded_model_can_be_trained_and_saved_again(saved: Path, tmp_path: Path) -> None:
    loaded = load_artifact(saved)
    loss = loaded.model(torch.ones(1, 3, 32, 48)).sum()
    loss.backward()
    assert all(p.grad is not None for p in loaded.model.parameters())
    again = tmp_path / "again.safetensors"
    save_artifact(again, loaded.model, loaded.header)
    assert again.read_bytes() == saved.read_bytes()


@pytest.mark.parametrize(
    "arch",
    [
        {"pool": "map", "layer_scale_init": 0.1, "representation_dim": 8},
        {"pos_embed": "none", "cls_token": False, "pool": "avg", "final_norm": "none"},
        {"pos_embed": "sincos2d", "mlp": "swiglu", "norm": "rmsnorm", "patch_embed": "linear"},
    ],
    ids=lambda arch: "-".join(arch),
)
def test_every_kind_of_model_comes_back(arch: dict[str, Any], tmp_path: Path) -> None:
    model, path = make_model(**arch), tmp_path / "kind.safetensors"
    save_artifact(path, model, make_header(model))
    loaded = load_artifact(path)
    assert loaded.header.config == model.config
    assert loaded.model.state_dict().keys() == model.state_dict().keys()


def test_reading_the_header_needs_no_valid_weights(saved: Path, model: ViT) -> None:
    assert read_header(saved) == make_header(model)


def test_a_model_without_class_names_is_saved_without(model: ViT, tmp_path: Path) -> None:
    header = Header(config=model.config, preprocessing=Preprocessing(size=(32, 48)), class_names=())
    save_artifact(tmp_path / "x.safetensors", model, header)
    assert load_artifact(tmp_path / "x.safetensors").header == header


def test_class_names_that_do_not_fit_the_head_are_not_saved(model: ViT, tmp_path: Path) -> None:
    header = Header(
        config=model.config, preprocessing=Preprocessing(size=(32, 48)), class_names=("a", "b")
    )
    with pytest.raises(ValueError, match="2 class names for a head of 3 outputs"):
        save_artifact(tmp_path / "x.safetensors", model, header)
    assert not any(tmp_path.iterdir())


def assert_refused(path: Path, *words: str) -> None:
    """The path stands in the message, and every word does."""
    with pytest.raises(ArtifactError) as caught:
        load_artifact(path)
    for word in (str(path), *words):
        assert word in str(caught.value)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, 0.2, 0.5, 0.99, -1])
def test_a_truncated_file_is_refused(saved: Path, keep: float) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    assert_refused(saved, "no complete safetensors file", "hint:")


@pytest.mark.parametrize(
    "content",
    [b"this is a text", b"PK\3\4 a zip, as torch.save writes" * 9, b"\0" * 99, b"\xff" * 99],
)
def test_a_file_of_another_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(content)
    assert_refused(path, "no complete safetensors file")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / "none.safetensors", "no model file")
    assert_refused(tmp_path)


def test_safetensors_of_others_are_refused(model: ViT, tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file(model.state_dict(), path)
    assert_refused(path, "no Tessera header")
    save_file(model.state_dict(), path, metadata={"format": "pt"})
    assert_refused(path, "no Tessera header")


def write(path: Path, text: dict[str, Any] | str, tensors: dict[str, torch.Tensor]) -> None:
    metadata = {"tessera": text if isinstance(text, str) else json.dumps(text)}
    save_file(tensors, path, metadata=metadata)


def test_a_newer_format_is_refused_with_the_way_out(saved: Path) -> None:
    write(saved, {**header_text(saved), "format": FORMAT + 1}, load_file(saved))
    assert_refused(saved, f"format {FORMAT + 1}", f"up to {FORMAT}", "hint: update")


@pytest.mark.parametrize("name", ["cls_token", "head.bias", "blocks.0.attn.qkv.weight"])
def test_weights_that_are_not_numbers_are_refused(name: str, saved: Path) -> None:
    for value in (float("nan"), float("inf"), -float("inf")):
        tensors = load_file(saved)
        tensors[name].view(-1)[-1] = value
        write(saved, header_text(saved), tensors)
        assert_refused(saved, name, "not finite")


def test_a_tensor_too_many_or_too_few_is_named(saved: Path) -> None:
    text, tensors = header_text(saved), load_file(saved)
    write(saved, text, {**tensors, "teacher.weight": torch.zeros(1)})
    assert_refused(saved, "has the unknown teacher.weight")
    del tensors["norm.weight"]
    write(saved, text, tensors)
    assert_refused(saved, "lacks norm.weight")


def test_a_long_list_of_missing_tensors_is_cut_short(saved: Path) -> None:
    tensors = load_file(saved)
    write(saved, header_text(saved), {"norm.bias": tensors["norm.bias"]})
    missing = len(tensors) - 1
    assert_refused(saved, f"and {missing - 3} more")


def test_a_tensor_of_another_shape_is_named_with_both_shapes(saved: Path) -> None:
    tensors = load_file(saved)
    write(saved, header_text(saved), {**tensors, "head.bias": torch.zeros(4)})
    assert_refused(saved, "head.bias is (4,), not (3,)")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.int64, torch.bool])
def test_tensors_of_another_type_are_refused(dtype: torch.dtype, saved: Path) -> None:
    tensors = load_file(saved)
    write(saved, header_text(saved), {**tensors, "head.bias": tensors["head.bias"].to(dtype)})
    assert_refused(saved, "head.bias")


LIES: dict[str, dict[str, Any] | str] = {
    "no JSON": '{"format": 1',
    "too deep": "[" * 100_000,
    "a list": "[]",
    "nothing": "null",
    "format is text": {"format": "1"},
    "format is nothing": {"format": None},
    "format is from the past": {"format": -1},
    "depth is more": {"config": {"depth": 2}},
    "depth is zero": {"config": {"depth": 0}},
    "depth is text": {"config": {"depth": "1"}},
    "depth is a float": {"config": {"depth": 1.0}},
    "classes are more": {"config": {"num_classes": 4}},
    "classes are none": {"config": {"num_classes": 0}},
    "classes are a float": {"config": {"num_classes": 3.0}},
    "width is another": {"config": {"embed_dim": 64}},
    "width is a float": {"config": {"embed_dim": 32.0}},
    "width is absurd": {"config": {"embed_dim": 2**40}},
    "width is beyond 64 bits": {"config": {"embed_dim": 2**70}},
    "image is absurd": {"config": {"img_size": 16 * 10**9}},
    "image has three sides": {"config": {"img_size": [32, 32, 32]}},
    "image is text": {"config": {"img_size": "32"}},
    "registers are a float": {"config": {"num_registers": 2.0}},
    "positions are unknown": {"config": {"pos_embed": "rotary"}},
    "positions do not fit": {"config": {"pos_embed": "sincos2d", "embed_dim": 6}},
    "class token is text": {"config": {"cls_token": "yes"}},
    "epsilon is text": {"config": {"norm_eps": "small"}},
    "pool is unknown": {"config": {"pool": "max"}},
    "field is unknown": {"config": {"colour": "red"}},
    "config is a list": {"config": [1]},
    "config is nothing": {"config": None},
    "three channels become one": {
        "preprocessing": {"channels": 1, "mean": [0.5], "std": [0.5]},
    },
    "size is no multiple of the patch": {"preprocessing": {"size": [33, 33]}},
    "size has fractions": {"preprocessing": {"size": [32.5, 32.5]}},
    "size is text": {"preprocessing": {"size": "ab"}},
    "mean is text": {"preprocessing": {"mean": ["a", "b", "c"]}},
    "mean is no number": {"preprocessing": {"mean": [float("nan")] * 3}},
    "deviation is no number": {"preprocessing": {"std": [float("nan")] * 3}},
    "crop is unknown": {"preprocessing": {"crop": "left"}},
    "interpolation is a list": {"preprocessing": {"interpolation": ["bicubic"]}},
    "names are too few": {"class_names": ["ant", "bee"]},
    "names are one text": {"class_names": "abc"},
    "names are numbers": {"class_names": [1, 2, 3]},
    "names are nothing": {"class_names": None},
    "card is text": {"card": "text"},
    "card is nothing": {"card": None},
}


def lie(truth: dict[str, Any], change: dict[str, Any] | str) -> dict[str, Any] | str:
    if isinstance(change, str):
        return change
    merged = dict(truth)
    for key, value in change.items():
        merged[key] = {**truth[key], **value} if isinstance(value, dict) else value
    return merged


LOADER = """
import json, pathlib, sys
from tessera.checkpoint.artifact import load_artifact
found = {}
for path in sorted(pathlib.Path(sys.argv[1]).glob("*.safetensors")):
    try:
        load_artifact(path)
        found[path.stem] = ["accepted", ""]
    except Exception as error:
        found[path.stem] = [type(error).__name__, str(error)]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, str]]:
    """What a user's Python says to each lie.

    In a process of its own: the shape checks of the test run refuse wrong types before our code
    sees them, and users do not have these checks.
    """
    folder = tmp_path_factory.mktemp("lies")
    model = make_model()
    tensors = dict(model.state_dict())
    save_artifact(folder / "truth.safetensors", model, make_header(model))
    truth = header_text(folder / "truth.safetensors")
    for name, change in LIES.items():
        write(folder / f"{name}.safetensors", lie(truth, change), tensors)
    for name in truth:
        partial = {key: value for key, value in truth.items() if key != name}
        write(folder / f"without {name}.safetensors", partial, tensors)
    ran = subprocess.run(
        [sys.executable, "-c", LOADER, str(folder)], capture_output=True, text=True, check=True
    )
    return {name: (kind, text) for name, (kind, text) in json.loads(ran.stdout).items()}


def test_the_truth_is_accepted(answers: dict[str, tuple[str, str]]) -> None:
    assert answers["truth"] == ("accepted", "")


@pytest.mark.parametrize("name", LIES)
def test_a_header_that_lies_is_refused_with_the_path_and_nothing_else_happens(
    name: str, answers: dict[str, tuple[str, str]]
) -> None:
    kind, message = answers[name]
    assert kind == "ArtifactError", message
    assert f"{name}.safetensors" in message


@pytest.mark.parametrize("name", ["format", "config", "preprocessing", "class_names", "card"])
def test_a_header_that_lacks_a_part_is_refused_by_the_name_of_the_part(
    name: str, answers: dict[str, tuple[str, str]]
) -> None:
    kind, message = answers[f"without {name}"]
    assert kind == "ArtifactError", message
    assert "safetensors" in message
    assert repr(name) in message


def test_an_absurd_depth_is_refused_before_it_is_built(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = header_text(saved)
    text["config"]["depth"] = 3000  # takes 11 s to build; millions would never end
    write(saved, text, load_file(saved))
    monkeypatch.setattr("tessera.models.vit.Block", refuse_to_be_built)
    assert_refused(saved)


def refuse_to_be_built(*args: object, **named: object) -> None:
    raise AssertionError("a block was built")


class Interrupted(BaseException):
    """Stands for Ctrl-C, a full disk, or a kill that Python notices."""


@pytest.mark.parametrize("error", [Interrupted, OSError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_file_as_it_was(
    error: type[BaseException], saved: Path
) -> None:
    before = saved.read_bytes()

    def write_half(part: Path) -> None:
        part.write_bytes(b"half")
        raise error

    with pytest.raises(error):
        write_atomically(saved, write_half)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_an_interrupted_save_leaves_the_old_model_usable(
    saved: Path, model: ViT, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def save_half(tensors: object, filename: Path, metadata: object) -> None:
        Path(filename).write_bytes(before[:1000])
        raise OSError("no space left on device")

    monkeypatch.setattr("tessera.checkpoint.artifact.save_file", save_half)
    with pytest.raises(OSError, match="no space left"):
        save_artifact(saved, model, make_header(model))
    assert load_artifact(saved).header == make_header(model)
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_a_write_replaces_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old and longer")
    write_atomically(path, lambda part: part.write_bytes(b"new"))
    assert path.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_model_is_a_file_or_a_run_folder(saved: Path) -> None:
    for ref in (saved, str(saved), saved.parent, str(saved.parent)):
        assert load_model(ref).path == saved


def test_a_folder_without_a_model_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=rf"is a folder without {RUN_FILE}\nhint: ") as caught:
        load_model(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_model_that_is_not_there_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no model at '.*none'\nhint: "):
        load_model(tmp_path / "none")


def test_no_code_from_a_file_is_run(saved: Path) -> None:
    text = header_text(saved)
    assert set(text) == {"format", "config", "preprocessing", "class_names", "task", "card"}
    assert json.loads(json.dumps(text["config"])) == json.loads(
        json.dumps(asdict(make_model().config))
    )
