"""Weights of others: logits, preprocessing, names of classes, and what fine-tuning starts from."""

import csv
import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from einops import rearrange
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

import tessera
import tessera.checkpoint.choose as choosing
from tessera.checkpoint import weights
from tessera.checkpoint.adapt import adapt
from tessera.checkpoint.artifact import Header, LoadedModel
from tessera.checkpoint.huggingface import HF_LAYOUTS
from tessera.checkpoint.layout import Layout
from tessera.checkpoint.load import load_model
from tessera.checkpoint.others import TORCHVISION
from tessera.checkpoint.preprocess import CLIP_MEAN, CLIP_STD
from tessera.checkpoint.rules import CheckpointError, revert
from tessera.checkpoint.timm import TIMM
from tessera.cli import main
from tessera.data.preprocessing import HALF, IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from tessera.models.vit import ViT, create_model
from tessera.nn.pos_embed import resample

NAMES = ("ant", "bee", "wasp")

# Real weights ---------------------------------------------------------------------------------

REAL = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
TURNED = "n02951585_can_opener.JPEG"
"""The one photograph whose EXIF tag says that the camera was turned; timm does not look at it."""


def read_reference(shared: Path) -> dict[str, np.ndarray]:
    """What timm answers; see ``design.md`` beside the weights."""
    with np.load(shared / "weights" / "vit_tiny_reference.npz") as file:
        return {name: file[name] for name in file.files}


def test_real_weights_give_timms_logits_for_photographs(shared: Path) -> None:
    predictor = tessera.load(shared / "weights" / f"{REAL}.safetensors")
    theirs, folder = read_reference(shared), shared / "data" / "imagenet-100-images"
    paths = [folder / str(name) for name in theirs["files"]]
    with Image.open(folder / TURNED) as image:
        as_stored = np.asarray(image.convert("RGB"))
    ours = predictor.logits([as_stored if path.name == TURNED else path for path in paths])
    # Measured: 9.5e-6 at most, where logits go up to 21; the contract is 2e-3.
    np.testing.assert_allclose(ours, theirs["logits"], rtol=0, atol=1e-4)

    with (folder / "labels.csv").open() as file:
        index = {row["file"]: int(row["class_index"]) for row in csv.DictReader(file)}
    right = [index[path.name] == row.argmax() for path, row in zip(paths, ours, strict=True)]
    assert sum(right) == 83


def test_a_turned_photograph_is_seen_upright(shared: Path) -> None:
    predictor = tessera.load(shared / "weights" / f"{REAL}.safetensors")
    theirs, folder = read_reference(shared), shared / "data" / "imagenet-100-images"
    row = [str(name) for name in theirs["files"]].index(TURNED)
    difference = np.abs(predictor.logits([folder / TURNED])[0] - theirs["logits"][row]).max()
    assert 4 < difference < 5  # measured: 4.46; timm sees it lying on its side


def test_real_weights_give_timms_logits_for_a_random_input(shared: Path) -> None:
    model = load_model(shared / "weights" / f"{REAL}.safetensors").model
    images = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(7))
    with torch.inference_mode():
        ours = model(images)
    theirs = torch.from_numpy(read_reference(shared)["random_logits"])
    # Measured: equal bit for bit; the contract is 2e-3.
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_real_weights_come_with_the_record_of_their_name(
    shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    header = load_model(shared / "weights" / f"{REAL}.safetensors").header
    record = weights.published()[REAL]
    assert header.preprocessing == record.preprocessing
    assert header.card["weights"] == REAL
    assert header.card["license"] == "Apache-2.0"
    assert header.config.num_classes == record.num_classes == 1000
    assert caplog.records == []


# Preprocessing --------------------------------------------------------------------------------


def theirs(layout: Layout, **arch: Any) -> dict[str, Tensor]:
    """A tiny model under the names of a layout."""
    model = create_model("vit_mu_patch8", **{"num_classes": 3, "img_size": 32, **arch})
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return revert(state, layout.rules(asdict(model.config)), 1, zeros=layout.zeros)


def write(path: Path, layout: Layout = TIMM, **arch: Any) -> Path:
    save_file({name: t.contiguous() for name, t in theirs(layout, **arch).items()}, path)
    return path


def write_folder(folder: Path, layout: Layout, *, config: Any = None, images: Any = None) -> Path:
    """Weights with a config.json and a preprocessor_config.json beside them."""
    folder.mkdir()
    write(folder / "model.safetensors", layout)
    for name, content in (("config", config), ("preprocessor_config", images)):
        if content is not None:
            (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


VIT_JSON = {
    "model_type": "vit",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 8,
}

TIMM_CFG = {
    "input_size": [3, 40, 32],
    "interpolation": "bilinear",
    "crop_pct": 0.8,
    "crop_mode": "center",
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.6],
}


@pytest.mark.parametrize(
    ("name", "size", "crop_pct", "mean"),
    [
        ("vit_tiny_patch16_384.augreg_in21k_ft_in1k", 384, 1.0, HALF),
        ("vit_small_patch32_224.augreg_in21k", 224, 0.9, HALF),
        ("deit_tiny_patch16_224.fb_in1k", 224, 0.875, IMAGENET_MEAN),
    ],
)
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_published_name_tells_the_preprocessing(
    kind: str,
    name: str,
    size: int,
    crop_pct: float,
    mean: tuple[float, ...],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if kind == "file":
        path = write(tmp_path / f"{name}.safetensors")
    else:  # what lies beside the weights says less than the authors
        path = write_folder(tmp_path / name, TIMM, config={"pretrained_cfg": TIMM_CFG})
    header = load_model(path).header
    found = header.preprocessing
    assert (found.size, found.crop_pct, found.mean) == ((size, size), crop_pct, mean)
    assert header.card["weights"] == name
    assert caplog.records == []


PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "squashed": ("ViTImageProcessor", {"size": {"height": 32, "width": 32}}),
    "squashed, bicubic": (
        "ViTImageProcessor",
        {"size": {"height": 32, "width": 32}, "resample": 3},
    ),
    "not square": ("SiglipImageProcessor", {"size": {"height": 32, "width": 40}}),
    "not normalised": (
        "ViTImageProcessor",
        {"size": {"height": 32, "width": 32}, "do_normalize": False},
    ),
    "cropped": (
        "CLIPImageProcessor",
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
    ),
    "cropped from larger": (
        "BitImageProcessor",
        {"size": {"shortest_edge": 37}, "crop_size": {"height": 32, "width": 32}},
    ),
}


@pytest.mark.parametrize("case", PROCESSORS)
def test_a_preprocessor_config_gives_the_pixels_of_transformers(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name, arguments = PROCESSORS[case]
    processor = getattr(transformers, name)(**arguments)
    folder = write_folder(
        tmp_path / "vit", HF_LAYOUTS[0], config={**VIT_JSON, "pretrained_cfg": TIMM_CFG}
    )
    processor.save_pretrained(folder)
    prepare = load_model(folder).header.preprocessing
    rng = np.random.default_rng(0)
    for shape in ((60, 99, 3), (123, 51, 3), (32, 32, 3), (11, 12, 3)):
        image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
        wanted = torch.as_tensor(np.asarray(processor(image)["pixel_values"])[0])
        # Measured: equal bit for bit.
        torch.testing.assert_close(prepare(image), wanted, rtol=0, atol=1e-6)
    assert not any("assumed" in record.message for record in caplog.records)


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, {"crop": "crop", "crop_pct": 0.8, "interpolation": "bilinear"}),
        ({"crop_mode": "squash", "crop_pct": None}, {"crop": "squash", "crop_pct": 1.0}),
        ({"interpolation": "bicubic"}, {"interpolation": "bicubic"}),
    ],
)
def test_timms_config_tells_the_preprocessing(
    changes: dict[str, Any],
    wanted: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = {"architecture": "vit_mu_patch8_32", "pretrained_cfg": {**TIMM_CFG, **changes}}
    folder = write_folder(tmp_path / "vit", TIMM, config=config)
    found = load_model(folder).header.preprocessing
    told = {"size": (40, 32), "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), **wanted}
    assert {name: getattr(found, name) for name in told} == told
    assert caplog.records == []


ASSUMED: dict[str, tuple[Layout, dict[str, Any], dict[str, Any]]] = {
    "the paper": (TIMM, {}, {"mean": HALF, "std": HALF, "crop_pct": 0.9}),
    "grey images": (TIMM, {"in_chans": 1}, {"mean": (0.5,), "std": (0.5,), "channels": 1}),
    "layer scale": (TIMM, {"layer_scale_init": 0.1}, {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}),
    "distilled": (TIMM, {"dist_token": True, "dist_head": True}, {"mean": IMAGENET_MEAN}),
    "CLIP": (TIMM, {"embed_norm": True}, {"mean": CLIP_MEAN, "std": CLIP_STD, "crop_pct": 1.0}),
    "torchvision": (
        TORCHVISION,
        {},
        {"mean": IMAGENET_MEAN, "crop_pct": 0.875, "interpolation": "bilinear"},
    ),
}


@pytest.mark.parametrize("family", ASSUMED)
def test_what_nobody_says_is_assumed_aloud(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    layout, arch, wanted = ASSUMED[family]
    found = load_model(write(tmp_path / "mine.safetensors", layout, **arch)).header.preprocessing
    assert {name: getattr(found, name) for name in wanted} == wanted
    assert found.size == (32, 32)
    said = [r for r in caplog.records if "how images are prepared" in r.message]
    assert [(r.name, r.levelno) for r in said] == [("tessera", logging.WARNING)]
    assert said[0].message.startswith("mine.safetensors: ")
    assert f"assumed: crop to 32x32, mean {found.mean}, std {found.std}" in said[0].message
    assert "<model>.<tag>" in said[0].message


# Class names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({"0": "ant", "1": "bee", "2": "wasp"}, NAMES),
        ({"2": "wasp", "0": "ant", "1": "bee"}, NAMES),
        ({"0": "ant", "1": "bee", "2": "wasp", "3": "hornet"}, NAMES),
        ({"0": "ant", "2": "wasp"}, ("ant", "1", "wasp")),
        ({"0": "crane", "1": "bee", "2": "crane"}, ("crane (0)", "bee", "crane (2)")),
        (None, ("0", "1", "2")),
    ],
    ids=["in order", "out of order", "too many", "one missing", "one twice", "none"],
)
def test_id2label_names_the_classes(
    labels: dict[str, str] | None, names: tuple[str, ...], tmp_path: Path
) -> None:
    config = VIT_JSON if labels is None else {**VIT_JSON, "id2label": labels}
    images = {"size": {"height": 32, "width": 32}}
    folder = write_folder(tmp_path / "vit", HF_LAYOUTS[0], config=config, images=images)
    predictor = tessera.load(folder)
    assert predictor.class_names == names
    answer = predictor.predict([np.zeros((32, 32, 3), np.uint8)], top_k=3)[0]
    assert sorted(answer.labels) == sorted(names)


@pytest.mark.parametrize(
    ("labels", "names"), [(list(NAMES), NAMES), (["ant", "bee"], ()), ("ant", ())]
)
def test_timms_label_names_name_the_classes_if_there_are_enough(
    labels: Any, names: tuple[str, ...], tmp_path: Path
) -> None:
    config = {"label_names": labels, "pretrained_cfg": TIMM_CFG}
    folder = write_folder(tmp_path / "vit", TIMM, config=config)
    assert load_model(folder).header.class_names == names


# Other classes, other sizes -------------------------------------------------------------------


def make(**arch: Any) -> LoadedModel:
    """A model that has learnt something: every parameter is random, the head too."""
    model = create_model("vit_mu_patch8", **{"num_classes": 3, "img_size": 32, **arch}).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    prepare = Preprocessing(size=model.config.image_shape)
    header = Header(config=model.config, preprocessing=prepare, class_names=NAMES)
    return LoadedModel(model=model, header=header, path=Path("memory"))


def images(height: int = 32, width: int = 32) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def features(model: ViT, x: Tensor) -> Tensor:
    tokens = model.eval().forward_features(x)
    return torch.cat([tokens.cls, tokens.patches], dim=1)


@pytest.mark.parametrize(
    "arch",
    [{}, {"dist_token": True, "dist_head": True}, {"representation_dim": 12}, {"num_classes": 0}],
    ids=["one head", "two heads", "a hidden layer", "no head"],
)
@pytest.mark.parametrize("classes", [("cat", "dog"), tuple("abcdefg"), ("wasp", "bee", "ant")])
def test_other_classes_get_a_head_of_zeros_on_the_same_features(
    classes: tuple[str, ...], arch: dict[str, Any]
) -> None:
    loaded = make(**arch)
    before = {name: tensor.clone() for name, tensor in loaded.model.state_dict().items()}
    model, notes = adapt(loaded, classes, {})
    with torch.inference_mode():
        assert torch.equal(model.eval()(images()), torch.zeros(2, len(classes)))
    assert torch.equal(features(model, images()), features(loaded.model, images()))
    assert model.config.num_classes == len(classes)
    assert model.config.representation_dim is None
    assert notes == ("new head, all zeros",)
    after = loaded.model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("arch", [{}, {"representation_dim": 12}])
def test_the_same_classes_keep_the_whole_head(arch: dict[str, Any]) -> None:
    loaded = make(**arch)
    model, notes = adapt(loaded, NAMES, {})
    with torch.inference_mode():
        assert torch.equal(model.eval()(images()), loaded.model(images()))
    assert notes == ("head kept: the classes are the same",)


@pytest.mark.parametrize("size", [48, 24, (24, 40), (64, 32)])
@pytest.mark.parametrize("arch", [{}, {"num_registers": 2}, {"dist_token": True}])
def test_another_size_resamples_the_positions_of_patches_alone(
    arch: dict[str, Any], size: int | tuple[int, int]
) -> None:
    loaded = make(**arch)
    model, notes = adapt(loaded, NAMES, {"img_size": size})
    old, new = loaded.model.state_dict(), model.state_dict()
    rows, cols = model.config.grid
    prefix = loaded.header.config.positioned_prefix
    wanted = resample(old["pos_embed.table"], (4, 4), (rows, cols), prefix=prefix)
    assert torch.equal(new["pos_embed.table"], wanted)
    assert torch.equal(new["pos_embed.table"][:, :prefix], old["pos_embed.table"][:, :prefix])
    assert all(torch.equal(new[n], old[n]) for n in old if n != "pos_embed.table")
    x = images(*model.config.image_shape)
    assert torch.equal(features(model, x), features(loaded.model, x))  # which does so as it goes
    assert notes[0] == f"positions resampled from 4x4 to {rows}x{cols} patches"


@pytest.mark.parametrize("place", ["every", "shared"])
@pytest.mark.parametrize(
    "name", ["learned", "learned2d", "shaw_values", "bias2d", "rope2d_mixed", "sincos2d"]
)
def test_another_size_resamples_every_scheme_at_every_place(name: str, place: str) -> None:
    loaded = make(pos_embed=name, pos_place=place, depth=2, num_registers=1, pos_clip=2)
    model, notes = adapt(loaded, NAMES, {"img_size": (40, 24)})
    x = images(40, 24)
    assert torch.equal(features(model, x), features(loaded.model, x))
    resampled = name in ("learned", "learned2d", "bias2d")
    assert ("positions resampled from 4x4 to 5x3 patches" in notes) == resampled


def test_raster_offsets_cannot_follow_to_another_width() -> None:
    with pytest.raises(ValueError, match=r"raster offsets of 4x4 patches.*\nhint: "):
        adapt(make(pos_embed="relative"), NAMES, {"img_size": 40})


def test_the_same_size_leaves_the_positions_as_they_are() -> None:
    loaded = make()
    model, notes = adapt(loaded, ("cat", "dog"), {"img_size": 32, "drop_path_rate": 0.1})
    table = loaded.model.state_dict()["pos_embed.table"]
    assert torch.equal(model.state_dict()["pos_embed.table"], table)
    assert notes == ("new head, all zeros",)
    assert model.config.drop_path_rate == 0.1


def test_larger_patches_see_enlarged_patches_as_before() -> None:
    loaded = make()
    model, notes = adapt(loaded, NAMES, {"patch_size": 16, "img_size": 64})
    assert notes[0] == "patches resized from 8 to 16 pixels"
    patches = rearrange(images(), "b c (h p) (w q) -> (b h w) c p q", p=8, q=8)
    enlarged = F.interpolate(patches, size=(16, 16), mode="bicubic", antialias=True)
    x = rearrange(enlarged, "(b h w) c p q -> b c (h p) (w q)", h=4, w=4)
    # Measured: 1.0e-6, where features go up to 1.8.
    torch.testing.assert_close(
        features(model, x), features(loaded.model, images()), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("arch", "overrides", "named"),
    [
        ({}, {"depth": 2}, "depth cannot differ"),
        ({}, {"num_heads": 4, "mlp_dim": 64, "img_size": 48}, "mlp_dim, num_heads cannot differ"),
        ({}, {"pool": "map"}, "pool cannot differ"),
        ({"pool": "map"}, {"pool": "avg"}, "pool cannot differ"),
        ({"patch_embed": "linear"}, {"patch_size": 16}, "patch_size can differ only with"),
    ],
)
def test_what_weights_cannot_follow_is_refused_by_name(
    arch: dict[str, Any], overrides: dict[str, Any], named: str
) -> None:
    with pytest.raises(CheckpointError) as caught:
        adapt(make(**arch), NAMES, overrides)
    assert str(caught.value).startswith(named)
    assert "hint: " in str(caught.value)


def test_the_class_token_can_give_way_to_the_mean_of_patches() -> None:
    model, _ = adapt(make(), NAMES, {"pool": "avg"})
    assert model.config.pool == "avg"


# --weights auto -------------------------------------------------------------------------------

WORD = {record: word for word, record in choosing.CANDIDATES.items()}


def have(monkeypatch: pytest.MonkeyPatch, *, cores: int = 8, cached: str = "") -> None:
    """Pretend to have so many cores, and these sizes in the cache."""
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    monkeypatch.setattr(choosing, "is_cached", lambda record: WORD[record.name] in cached.split())


@pytest.mark.parametrize(
    ("device", "cores", "images", "size"),
    [
        ("cuda", 2, 100, "base"),
        ("cuda", 64, 1_000_000, "base"),
        ("mps", 4, 1_000_000, "small"),
        ("cpu", 8, 19_999, "small"),
        ("cpu", 8, 20_000, "tiny"),
        ("cpu", 7, 100, "tiny"),
        ("cpu", 2, 1_000_000, "tiny"),
    ],
)
def test_auto_picks_what_the_machine_affords(
    device: str, cores: int, images: int, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, cores=cores)
    record, why = choosing.choose(images, device)
    assert WORD[record.name] == size
    assert record.license == "Apache-2.0"
    assert why


@pytest.mark.parametrize(
    ("device", "cached", "size"),
    [
        ("cuda", "tiny small base", "base"),
        ("cuda", "tiny small", "small"),
        ("cuda", "tiny", "tiny"),
        ("mps", "tiny small base", "small"),
        ("mps", "tiny base", "tiny"),
        ("mps", "base", "base"),
        ("cpu", "tiny base", "tiny"),
        ("cpu", "small base", "small"),
        ("cpu", "base", "base"),
    ],
)
@pytest.mark.parametrize("how", ["flag", "environment"])
def test_without_network_auto_takes_the_largest_of_the_cache_that_is_not_too_large(
    how: str, device: str, cached: str, size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch, cores=2, cached=cached)
    if how == "environment":  # which the hub's library reads when it is imported
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    record, why = choosing.choose(1_000, device, offline=how == "flag")
    assert WORD[record.name] == size
    assert "in the cache" in why


@pytest.mark.parametrize("device", ["cuda", "mps", "cpu"])
def test_without_network_and_cache_auto_names_the_ways_out(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    have(monkeypatch)
    with pytest.raises(CheckpointError) as caught:
        choosing.choose(1_000, device, offline=True)
    said, _, hint = str(caught.value).partition("\nhint: ")
    assert said == "no pretrained weights are in the cache, and fetching is off"
    assert "--weights none" in hint
    assert "give a file with --weights" in hint


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [(["--offline"], 2, "fetching is off"), ([], 1, "broke off: no route to host")],
    ids=["offline", "no network"],
)
def test_training_without_weights_to_be_had_says_weights_none(
    flags: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def no_route(url: str) -> None:
        raise OSError("no route to host")

    have(monkeypatch)
    monkeypatch.setattr(weights, "cached_file", lambda *_: None)
    monkeypatch.setattr(weights, "get_hf_file_metadata", no_route)
    out = tmp_path / "run"
    assert main(["train", "digits", "--weights", "auto", "--out", str(out), *flags]) == code
    error = capsys.readouterr().err
    assert said in error
    assert "--weights none" in error.partition("\nhint: ")[2]
    assert "Traceback" not in error
    assert not out.exists()


def test_published_weights_that_are_not_in_the_cache_are_not_fetched_offline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(weights, "cached_file", lambda *_: None)
    with pytest.raises(CheckpointError, match=rf"{REAL} is not in the cache.*\nhint: "):
        load_model(REAL, offline=True)
