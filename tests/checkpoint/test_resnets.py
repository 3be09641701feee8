"""BiT and hybrids of Google, timm and transformers give their authors' logits, and go back."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

import tessera
from tessera.checkpoint.artifact import Header, LoadedModel
from tessera.checkpoint.foreign import load_foreign
from tessera.checkpoint.load import load_model
from tessera.checkpoint.rules import CheckpointError
from tessera.checkpoint.write import WRITERS
from tessera.cli import main
from tessera.data.preprocessing import Preprocessing
from tessera.models.vit import ViT, create_model

GOLDEN = Path(__file__).parents[1] / "golden"

Arrays = dict[str, np.ndarray]


def golden(family: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    with safe_open(GOLDEN / f"{family}.safetensors", framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights = {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")}
    return weights, {n: t for n, t in tensors.items() if n.startswith("golden.")}


@pytest.mark.parametrize(
    ("family", "blocks"), [("hybrid_root", ()), ("hybrid_stages", (1, 1)), ("bit_timm", (2,))]
)
def test_the_logits_are_those_of_timm(family: str, blocks: tuple[int, ...], tmp_path: Path) -> None:
    weights, answers = golden(family)
    path = tmp_path / "model.safetensors"
    save_file(weights, path)
    ours = load_foreign(path, overrides={"num_heads": 2} if "hybrid" in family else {})
    config = ours.model.config
    assert (config.stem_blocks, config.stem_width, config.stem_norm) == (blocks, 32, "timm")
    assert ours.conversion.read == len(weights)
    with torch.inference_mode():
        logits = ours.model(answers["golden.images"])
    # Measured: at most 1.7e-6, where logits are of order 1.
    torch.testing.assert_close(logits, answers["golden.logits"], rtol=0, atol=1e-5)


def test_a_stem_of_another_kind_is_refused(tmp_path: Path) -> None:
    weights, _ = golden("hybrid_root")
    weights = {n.replace("backbone.conv", "backbone.0.conv"): t for n, t in weights.items()}
    path = tmp_path / "model.safetensors"
    save_file(weights, path)
    with pytest.raises(CheckpointError, match=r"(?s)its stem is no ResNet of BiT's.*hint: "):
        load_foreign(path, overrides={"num_heads": 2})


# transformers, live -------------------------------------------------------------------------------

SIZES: dict[str, Any] = {
    "embedding_size": 32,
    "hidden_sizes": [128, 256],
    "depths": [2, 1],
    "num_labels": 5,
}


def randomised(model: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            gain = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + gain)
    return model.eval()


@pytest.mark.parametrize("kind", ["BitForImageClassification", "BitModel"])
def test_the_logits_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    transformers.logging.set_verbosity_error()
    theirs = randomised(getattr(transformers, kind)(transformers.BitConfig(**SIZES)))
    theirs.save_pretrained(tmp_path)  # type: ignore[operator]
    images = torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(1))
    ours = load_foreign(tmp_path, overrides={"img_size": 48})
    assert (ours.model.config.stem_blocks, ours.model.config.patch_size) == ((2, 1), 8)
    with torch.inference_mode():
        output = theirs(images)
        wanted = output.logits if kind != "BitModel" else output.pooler_output.flatten(1)
        # Measured: at most 8.3e-7, where values are of order 1.
        torch.testing.assert_close(ours.model(images), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"layer_type": "bottleneck"},
        {"global_padding": "SAME"},
        {"embedding_dynamic_padding": True},
    ],
)
def test_another_kind_of_their_resnet_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    transformers.BitForImageClassification(
        transformers.BitConfig(**SIZES, **changes)
    ).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=f"asks for {next(iter(changes))}="):
        load_foreign(tmp_path)


# Google's .npz, against the formulae --------------------------------------------------------------

WIDTH, PATCHES = 32, 2


def gn(x: np.ndarray, scale: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    """GroupNorm of one image, ``h w c``, with 32 groups of neighbouring channels."""
    found = np.empty_like(x)
    size = x.shape[-1] // 32
    for g in range(32):
        part = x[..., g * size : (g + 1) * size]
        found[..., g * size : (g + 1) * size] = (part - part.mean()) / np.sqrt(part.var() + eps)
    return found * scale.reshape(-1) + bias.reshape(-1)


def windows(x: np.ndarray, side: int, stride: int) -> tuple[int, int, np.ndarray]:
    rows, cols = (x.shape[0] - side) // stride + 1, (x.shape[1] - side) // stride + 1
    found = [
        x[r * stride : r * stride + side, c * stride : c * stride + side]
        for r in range(rows)
        for c in range(cols)
    ]
    return rows, cols, np.stack(found)  # n side side c


def padded(x: np.ndarray, side: int, stride: int, *, same: bool, value: float = 0) -> np.ndarray:
    pads = []
    for length in x.shape[:2]:
        total = max((math.ceil(length / stride) - 1) * stride + side - length, 0)
        pads.append((total // 2, total - total // 2) if same else (side // 2, side // 2))
    return np.pad(x, [*pads, (0, 0)], constant_values=value)


def std_conv(x: np.ndarray, kernel: np.ndarray, stride: int = 1, *, same: bool) -> np.ndarray:
    mean, std = kernel.mean(axis=(0, 1, 2)), kernel.std(axis=(0, 1, 2))
    divisor = std + 1e-5 if same else np.sqrt(std**2 + 1e-10)  # the hybrid's code, and BiT's
    kernel = (kernel - mean) / divisor
    side = kernel.shape[0]
    rows, cols, found = windows(padded(x, side, stride, same=same), side, stride)
    return np.einsum("nabi,abio->no", found, kernel).reshape(rows, cols, -1)


def pool(x: np.ndarray) -> np.ndarray:
    rows, cols, found = windows(x, 3, 2)
    return found.max(axis=(1, 2)).reshape(rows, cols, -1)


def relu(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0)


def hybrid_stem(w: Arrays, image: np.ndarray, blocks: tuple[int, ...]) -> np.ndarray:
    """The root and the stages of google-research/vision_transformer, then ``embedding``."""

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return gn(x, w[f"{name}/scale"], w[f"{name}/bias"], 1e-6)

    x = relu(norm(std_conv(image, w["conv_root/kernel"], 2, same=True), "gn_root"))
    x = pool(padded(x, 3, 2, same=True, value=-np.inf))
    for i, count in enumerate(blocks, start=1):
        for j in range(1, count + 1):
            unit, stride = f"block{i}/unit{j}", 2 if i > 1 and j == 1 else 1
            shortcut = x
            if f"{unit}/conv_proj/kernel" in w:
                shortcut = std_conv(x, w[f"{unit}/conv_proj/kernel"], stride, same=True)
                shortcut = norm(shortcut, f"{unit}/gn_proj")
            x = relu(norm(std_conv(x, w[f"{unit}/conv1/kernel"], same=True), f"{unit}/gn1"))
            x = std_conv(x, w[f"{unit}/conv2/kernel"], stride, same=True)
            x = relu(norm(x, f"{unit}/gn2"))
            x = norm(std_conv(x, w[f"{unit}/conv3/kernel"], same=True), f"{unit}/gn3")
            x = relu(shortcut + x)
    side = w["embedding/kernel"].shape[0]
    _, _, found = windows(x, side, side)
    return np.einsum("nabi,abid->nd", found, w["embedding/kernel"]) + w["embedding/bias"]


def bit(w: Arrays, image: np.ndarray, blocks: tuple[int, ...]) -> np.ndarray:
    """The whole of big_transfer's ResNetV2."""
    conv, root = "standardized_conv2d/kernel", "resnet/root_block"

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return relu(gn(x, w[f"{name}/group_norm/gamma"], w[f"{name}/group_norm/beta"], 1e-5))

    x = std_conv(image, w[f"{root}/{conv}"], 2, same=False)
    x = pool(np.pad(x, [(1, 1), (1, 1), (0, 0)]))
    for i, count in enumerate(blocks, start=1):
        for j in range(1, count + 1):
            unit, stride = f"resnet/block{i}/unit{j:02d}", 2 if i > 1 and j == 1 else 1
            active, shortcut = norm(x, f"{unit}/a"), x
            if f"{unit}/a/proj/{conv}" in w:
                shortcut = std_conv(active, w[f"{unit}/a/proj/{conv}"], stride, same=False)
            x = norm(std_conv(active, w[f"{unit}/a/{conv}"], same=False), f"{unit}/b")
            x = norm(std_conv(x, w[f"{unit}/b/{conv}"], stride, same=False), f"{unit}/c")
            x = shortcut + std_conv(x, w[f"{unit}/c/{conv}"], same=False)
    mean = norm(x, "resnet").mean(axis=(0, 1))
    return mean @ w["resnet/head/conv2d/kernel"][0, 0] + w["resnet/head/conv2d/bias"]


MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "hybrid": ("R50+B/16", {"stem_blocks": (2, 1), "patch_size": 16}),
    "root alone": ("R+Ti/16", {"patch_size": 8}),
    "BiT": ("R50x1", {"stem_blocks": (2, 1)}),
}


def make(kind: str, **changes: Any) -> LoadedModel:
    name, arch = MODELS[kind]
    sizes = {"embed_dim": 24, "num_heads": 2, "mlp_dim": 40, "depth": 1} if kind != "BiT" else {}
    arch = {"img_size": 32, "num_classes": 3, "stem_width": WIDTH, **sizes, **arch, **changes}
    model = randomised(create_model(name, **arch))
    assert isinstance(model, ViT)
    header = Header(
        config=model.config,
        preprocessing=Preprocessing(size=(32, 32), crop_pct=0.9),
        class_names=("ant", "bee", "wasp"),
    )
    return LoadedModel(model=model, header=header, path=Path("memory"))


@pytest.mark.parametrize("kind", MODELS)
def test_an_npz_comes_back_the_same_and_stands_under_googles_names(
    kind: str, tmp_path: Path
) -> None:
    loaded = make(kind)
    path = tmp_path / "model.npz"
    WRITERS["npz"](loaded, path)
    back = load_model(path, overrides={"img_size": 32})
    assert back.model.config == loaded.model.config
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(tensor, back.model.state_dict()[name]), name
    with np.load(path) as file:
        names = set(file.files)
        kernel = (
            file["resnet/block2/unit01/b/standardized_conv2d/kernel"]
            if kind == "BiT"
            else (file["conv_root/kernel"])
        )
    if kind == "BiT":
        assert kernel.shape == (3, 3, 64, 64)
        assert {"resnet/block1/unit01/a/proj/standardized_conv2d/kernel"} <= names
        assert "resnet/block1/unit02/a/proj/standardized_conv2d/kernel" not in names
    else:
        assert kernel.shape == (7, 7, 3, WIDTH)
        assert ("block1/unit1/conv_proj/kernel" in names) is (kind == "hybrid")
        assert "block1/unit2/conv_proj/kernel" not in names


@pytest.mark.parametrize("kind", MODELS)
def test_an_npz_is_computed_by_the_formulae_of_its_code(kind: str, tmp_path: Path) -> None:
    loaded = make(kind)
    path = tmp_path / "model.npz"
    WRITERS["npz"](loaded, path)
    with np.load(path) as file:
        arrays = {name: file[name].astype(np.float64) for name in file.files}
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
    pixels = image[0].permute(1, 2, 0).numpy()
    model = load_model(path, overrides={"img_size": 32}).model.double()
    with torch.inference_mode():
        found = model(image)[0] if kind == "BiT" else model.patch_embed(image)[0]
    blocks = model.config.stem_blocks
    wanted = (bit if kind == "BiT" else hybrid_stem)(arrays, pixels, blocks)
    # Measured: at most 8.8e-14 in double precision, where values are of order 1.
    np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=1e-10)


def test_norms_of_older_files_have_axes_of_length_one(tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    WRITERS["npz"](make("hybrid"), path)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    older = {n: a.reshape(1, 1, 1, -1) if "/gn" in f"/{n}" else a for n, a in arrays.items()}
    np.savez(tmp_path / "older.npz", allow_pickle=False, **older)
    one, two = (load_foreign(p).model for p in (path, tmp_path / "older.npz"))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, two.state_dict()[name])


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_every_array_of_an_npz_is_needed_and_in_its_shape(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    blocks = {} if kind == "root alone" else {"stem_blocks": (1,)}
    WRITERS["npz"](make(kind, **blocks), path)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    wanted = [n for n in arrays if "Transformer" not in n and n not in ("cls", "head/bias")]
    for name in wanted:
        array = arrays[name]
        others = {n: a for n, a in arrays.items() if n != name}
        for wrong in (None, np.concatenate([array, array[:1]]), np.float32(1)):
            np.savez(path, allow_pickle=False, **others, **({} if wrong is None else {name: wrong}))
            with pytest.raises(CheckpointError, match=r"(?s)model.npz.*\nhint: "):
                load_foreign(path)
    np.savez(path, allow_pickle=False, **arrays, **{"block9/extra": np.zeros(3, np.float32)})
    with pytest.raises(CheckpointError, match="no rule reads: block9/extra"):
        load_foreign(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"is no complete \.npz file"):
        load_foreign(path)


@pytest.mark.parametrize(
    ("to", "kind", "changes", "word"),
    [
        ("npz", "hybrid", {"stem_norm": "timm"}, "stem_norm='timm'"),
        ("npz", "BiT", {"stem_norm": "paper"}, "stem_norm='paper'"),
        ("timm", "hybrid", {}, "patch_embed='resnet'"),
        ("hf", "hybrid", {}, "patch_embed='resnet'"),
        ("timm", "BiT", {}, "patch_embed='resnetv2'"),
    ],
)
def test_what_a_format_cannot_say_of_a_resnet_is_refused(
    to: str, kind: str, changes: dict[str, Any], word: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError) as caught:
        WRITERS[to](make(kind, **changes), tmp_path / "out")
    assert word in str(caught.value)
    assert "hint: --to tessera keeps everything" in str(caught.value)


def test_the_command_converts_a_hybrid_both_ways(tmp_path: Path) -> None:
    WRITERS["npz"](make("hybrid"), tmp_path / "one.npz")
    own = tmp_path / "own.safetensors"
    assert main(["convert", str(tmp_path / "one.npz"), str(own), "--to", "tessera"]) == 0
    assert main(["convert", str(own), str(tmp_path / "two.npz"), "--to", "npz"]) == 0
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "two.npz") as two:
        assert set(one.files) == set(two.files)
        for name in one.files:
            np.testing.assert_array_equal(one[name], two[name])
    assert tessera.load(own).header.config.stem_blocks == (2, 1)
