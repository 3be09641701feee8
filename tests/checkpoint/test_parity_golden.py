"""Logits equal those of timm and vit-pytorch: golden files of tests/golden/make_golden.py."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tessera.checkpoint.adapt import resize_patch_kernel
from tessera.checkpoint.foreign import LAYOUTS, ForeignModel, load_foreign
from tessera.checkpoint.hierarchical import HIERARCHICAL_LAYOUTS
from tessera.checkpoint.huggingface import HF_LAYOUTS
from tessera.checkpoint.resnets import BIT_LAYOUTS
from tessera.nn.pos_embed import resample

GOLDEN = Path(__file__).parents[1] / "golden"
FAMILIES = [
    p.stem
    for p in sorted(GOLDEN.glob("*.safetensors"))
    if p.stem.startswith(("timm_", "lucidrains_")) and p.stem != "timm_resample"
]

State = dict[str, Tensor]


def read(family: str) -> tuple[State, State, dict[str, str]]:
    """Weights under their authors' names, what they were given and answered, and metadata."""
    with safe_open(GOLDEN / f"{family}.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    weights = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    return weights, {n: t for n, t in tensors.items() if n.startswith("golden.")}, metadata


def told(metadata: dict[str, str]) -> dict[str, Any]:
    """What no tensor tells of these tiny models."""
    arguments = json.loads(metadata["arguments"])
    found: dict[str, Any] = {"num_heads": arguments.get("num_heads") or arguments["heads"]}
    if "dim_head" in arguments:
        found["head_dim"] = arguments["dim_head"]
    size = arguments.get("img_size")
    if isinstance(size, list) and size[0] != size[1]:
        found["img_size"] = tuple(size)
    return found


def load(path: Path, metadata: dict[str, str]) -> ForeignModel:
    name = metadata.get("architecture", "") if "timm" in metadata else ""
    return load_foreign(path, name=name, overrides=told(metadata))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_logits_are_those_of_the_authors_code(family: str, tmp_path: Path) -> None:
    weights, golden, metadata = read(family)
    path = tmp_path / "model.safetensors"
    save_file(weights, path)
    ours = load(path, metadata)
    with torch.inference_mode():
        logits = ours.model(golden["golden.images"])
    # Measured: at most 1.4e-6 over all families, where logits are of order 1 to 30.
    torch.testing.assert_close(logits, golden["golden.logits"], rtol=0, atol=1e-5)
    assert ours.conversion.read + len(ours.conversion.dropped) == len(weights)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda w: {"model": w, "optimizer": {"step": 3}, "epoch": 7},
        lambda w: {"state_dict": {f"module.{n}": t for n, t in w.items()}},
        lambda w: {f"_orig_mod.{n}": t for n, t in w.items()},
        lambda w: {"model": {f"module._orig_mod.model.{n}": t for n, t in w.items()}},
    ],
)
def test_what_training_scripts_wrap_around_the_weights_is_taken_off(
    wrap: Any, tmp_path: Path
) -> None:
    weights, golden, metadata = read("timm_deit")
    path = tmp_path / "deit.pth"
    torch.save(wrap(weights), path)
    with torch.inference_mode():
        logits = load(path, metadata).model(golden["golden.images"])
    torch.testing.assert_close(logits, golden["golden.logits"], rtol=0, atol=1e-5)


def test_the_teacher_of_dino_is_read_without_its_projection_head(tmp_path: Path) -> None:
    weights, golden, metadata = read("timm_dino")
    teacher = {f"module.backbone.{name}": t for name, t in weights.items()}
    teacher |= {f"module.head.mlp.{k}.weight": torch.zeros(2, 2) for k in (0, 2)}
    teacher["module.head.last_layer.weight_g"] = torch.zeros(2, 1)
    path = tmp_path / "dino.pth"
    torch.save({"student": teacher, "teacher": teacher, "epoch": 1}, path)
    ours = load(path, metadata)
    with torch.inference_mode():
        logits = ours.model(golden["golden.images"])
    torch.testing.assert_close(logits, golden["golden.logits"], rtol=0, atol=1e-5)
    assert len(ours.conversion.dropped) == 3


def test_the_decoder_of_mae_and_mask_tokens_are_dropped_by_name(tmp_path: Path) -> None:
    weights, golden, metadata = read("timm_mae")
    extra = {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, 32)}
    path = tmp_path / "mae.pth"
    torch.save({"model": {**weights, **extra}}, path)
    ours = load(path, metadata)
    with torch.inference_mode():
        logits = ours.model(golden["golden.images"])
    torch.testing.assert_close(logits, golden["golden.logits"], rtol=0, atol=1e-5)
    assert {name for name, _ in ours.conversion.dropped} == set(extra)
    assert any("decoder of MAE" in line for line in ours.report())


def test_dinov2s_own_names_give_the_same(tmp_path: Path) -> None:
    weights, golden, metadata = read("timm_dinov2_swiglu")
    own = {
        name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): t
        for name, t in weights.items()
    }
    own["mask_token"] = torch.zeros(1, 24)
    path = tmp_path / "dinov2.pth"
    torch.save(own, path)
    with torch.inference_mode():
        logits = load(path, metadata).model(golden["golden.images"])
    torch.testing.assert_close(logits, golden["golden.logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("grid", [(6, 6), (3, 5)])
def test_positions_are_resampled_as_timm_does(grid: tuple[int, int]) -> None:
    golden = load_file(GOLDEN / "timm_resample.safetensors")
    ours = resample(golden["pos_embed.4x4"], (4, 4), grid, prefix=1)
    # Measured: equal bit for bit.
    theirs = golden[f"pos_embed.{grid[0]}x{grid[1]}"]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [6, 12])
def test_patch_kernels_are_resized_as_timm_does(size: int) -> None:
    golden = load_file(GOLDEN / "timm_resample.safetensors")
    ours = resize_patch_kernel(golden["patch_embed.8x8"], size)
    # Measured: 1.4e-8, where kernels are up to 1.3e-2.
    torch.testing.assert_close(ours, golden[f"patch_embed.{size}x{size}"], rtol=0, atol=1e-7)


def test_a_larger_image_gives_timms_logits(tmp_path: Path) -> None:
    weights, _, metadata = read("timm_vit_augreg")
    golden = load_file(GOLDEN / "timm_resample.safetensors")
    path = tmp_path / "model.safetensors"
    save_file(weights, path)
    with torch.inference_mode():
        logits = load(path, metadata).model(golden["golden.images"])
    torch.testing.assert_close(logits, golden["golden.logits"], rtol=0, atol=1e-5)


def test_every_family_that_is_promised_has_a_golden_file() -> None:
    promised = ["vit_augreg", "vit_avg", "deit", "deit_distilled", "deit3", "clip_openai"]
    promised += ["clip_laion", "siglip", "siglip_gap", "dinov2", "dinov2_reg", "dinov2_swiglu"]
    promised += ["mae", "dino", "reg4_gap", "vit_augreg_nonsquare", "vit_qk_norm"]
    assert {f"timm_{name}" for name in promised} <= set(FAMILIES)
    assert {"lucidrains_vit", "lucidrains_vit_mean"} <= set(FAMILIES)


def test_every_layout_of_the_table_has_a_parity_test() -> None:
    here = {"timm", "lucidrains' vit-pytorch"}
    others = {"Google's own .npz", "torchvision"}  # test_parity_others.py
    transformers = {layout.title for layout in HF_LAYOUTS}  # test_parity_transformers.py
    resnets = {layout.title for layout in BIT_LAYOUTS}  # test_resnets.py
    hierarchies = {layout.title for layout in HIERARCHICAL_LAYOUTS}  # test_hierarchical.py
    named = here | others | transformers | resnets | hierarchies
    assert {layout.title for layout in LAYOUTS} == named
