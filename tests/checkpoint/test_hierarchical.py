"""Swin and Hiera of transformers, of Swin's authors and of timm: the same logits, and back."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tessera.checkpoint.artifact import Header, LoadedModel
from tessera.checkpoint.foreign import load_foreign
from tessera.checkpoint.hierarchical import SWIN, TIMM_SWIN
from tessera.checkpoint.load import load_model
from tessera.checkpoint.rules import CheckpointError, revert
from tessera.checkpoint.write import WRITERS
from tessera.cli import main
from tessera.data.preprocessing import Preprocessing
from tessera.models.vit import ViT, create_model
from tessera.nn.positions.base import resampled_positions

SWIN_SIZES: dict[str, Any] = {
    "image_size": 64,
    "embed_dim": 8,
    "depths": [2, 2, 2],
    "num_heads": [1, 2, 4],
    "window_size": 4,
    "num_labels": 5,
}
HIERA_SIZES: dict[str, Any] = {
    "image_size": [64, 64],
    "embed_dim": 8,
    "depths": [1, 2, 2, 1],
    "num_heads": [1, 2, 4, 8],
    "num_labels": 5,
}
CASES: dict[str, tuple[str, dict[str, Any], tuple[int, int]]] = {
    "Swin, shifted": ("Swin", SWIN_SIZES, (64, 64)),
    "Swin, padded at the border": ("Swin", {**SWIN_SIZES, "window_size": 3}, (64, 64)),
    "Swin, of two stages": (
        "Swin",
        {**SWIN_SIZES, "depths": [2, 3], "num_heads": [2, 4]},
        (48, 80),
    ),
    "Swin, patches of 2, without biases": (
        "Swin",
        {**SWIN_SIZES, "patch_size": 2, "image_size": 32, "qkv_bias": False, "num_channels": 1},
        (32, 48),
    ),
    "Swin, larger images": ("Swin", SWIN_SIZES, (96, 112)),
    "Hiera": ("Hiera", HIERA_SIZES, (64, 64)),
    "Hiera, not square": ("Hiera", {**HIERA_SIZES, "image_size": [64, 96]}, (64, 96)),
    "Hiera, of two stages": (
        "Hiera",
        {
            **HIERA_SIZES,
            **{"depths": [1, 2], "num_heads": [2, 4], "num_query_pool": 1},
            **{"masked_unit_size": [2, 2], "masked_unit_attention": [True, True]},
        },
        (64, 64),
    ),
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.enable_progress_bar()


def make(kind: str, sizes: dict[str, Any], head: str = "ForImageClassification") -> nn.Module:
    """A model of transformers whose every parameter counts."""
    config = getattr(transformers, f"{kind}Config")(**sizes)
    model: nn.Module = getattr(transformers, f"{kind}{head}")(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            gain = "norm" in name and name.endswith("weight")
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + gain)
    return model.eval()


def images(size: tuple[int, int], chans: int = 3) -> Tensor:
    return torch.randn(2, chans, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_the_logits_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    kind, sizes, size = CASES[case]
    theirs = make(kind, sizes)
    theirs.save_pretrained(tmp_path)  # type: ignore[operator]
    ours = load_foreign(tmp_path)
    pixels = images(size, sizes.get("num_channels", 3))
    wanted = theirs(pixels).logits
    # Measured: at most 7.2e-7, where logits are of order 1.
    torch.testing.assert_close(ours.model(pixels), wanted, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_tokens_and_embeddings_are_those_of_the_bare_models(tmp_path: Path) -> None:
    for kind, sizes in (("Swin", SWIN_SIZES), ("Hiera", HIERA_SIZES)):
        theirs = make(kind, sizes, "Model")
        theirs.save_pretrained(tmp_path / kind)  # type: ignore[operator]
        ours = load_foreign(tmp_path / kind).model
        output, tokens = theirs(images((64, 64))), ours.forward_features(images((64, 64)))
        torch.testing.assert_close(
            tokens.patches, output.last_hidden_state, rtol=0, atol=1e-5, msg=kind
        )
        torch.testing.assert_close(
            ours(images((64, 64))), output.pooler_output, rtol=0, atol=1e-5, msg=kind
        )


@torch.inference_mode()
def test_positions_of_hiera_are_resampled_for_other_images(tmp_path: Path) -> None:
    theirs = make("Hiera", HIERA_SIZES)
    theirs.save_pretrained(tmp_path)  # type: ignore[operator]
    ours = load_foreign(tmp_path).model
    pixels = images((96, 128))
    tables = resampled_positions(ours, (3, 4))
    other = make("Hiera", {**HIERA_SIZES, "image_size": [96, 128]})
    state = theirs.state_dict()
    state["hiera.embeddings.position_embeddings"] = tables["patch_embed.pos_embed.table"]
    other.load_state_dict(state)
    torch.testing.assert_close(ours(pixels), other(pixels).logits, rtol=0, atol=1e-5)
    # Theirs is bicubic with another constant, as torch has without antialiasing: 2.4e-3 apart.
    near = theirs(pixels, interpolate_pos_encoding=True).logits
    torch.testing.assert_close(ours(pixels), near, rtol=0, atol=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Swin", "Hiera"])
@torch.inference_mode()
def test_the_published_tiny_size_gives_their_logits(kind: str, tmp_path: Path) -> None:
    sizes = {} if kind == "Swin" else {"depths": [1, 2, 7, 2]}
    theirs = make(kind, {"num_labels": 1000, **sizes})
    with torch.no_grad():  # deviation 0.2 is for narrow layers
        for name, parameter in theirs.named_parameters():
            if parameter.ndim > 1 and "position" not in name:
                parameter.mul_(0.2)
    theirs.save_pretrained(tmp_path)  # type: ignore[operator]
    name = "swin_tiny_patch4_window7_224" if kind == "Swin" else "hiera_tiny_224"
    ours = load_foreign(tmp_path).model
    assert ours.config == create_model(name).config
    wanted = theirs(images((224, 224))).logits
    # Measured: 0 for Swin, 1.2e-6 for Hiera, where logits are at most 4.
    torch.testing.assert_close(ours(images((224, 224))), wanted, rtol=0, atol=1e-5)


def authors(state: dict[str, Tensor], *, timm: bool) -> dict[str, Tensor]:
    """The published file of transformers' Swin under its authors' names, or timm's."""
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        name = name.removeprefix("swin.").removeprefix("encoder.")
        for ours, theirs in (
            ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
            ("embeddings.norm", "patch_embed.norm"),
            ("attention.self.relative", "attn.relative"),
            ("attention.output.dense", "attn.proj"),
            ("intermediate.dense", "mlp.fc1"),
            ("output.dense", "mlp.fc2"),
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
            ("layernorm.", "norm."),
            ("classifier", "head.fc" if timm else "head"),
        ):
            name = name.replace(ours, theirs)
        if timm:  # which counts a merging to the stage that follows it
            name = re.sub(
                r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) + 1}.downsample", name
            )
        found[name] = tensor
    for block in {n.rpartition("attention.self.")[0] for n in found if "attention.self" in n}:
        for part in ("weight", "bias"):
            qkv = [
                found.pop(f"{block}attention.self.{p}.{part}") for p in ("query", "key", "value")
            ]
            found[f"{block}attn.qkv.{part}"] = torch.cat(qkv)
        found[f"{block}attn.relative_position_index"] = torch.zeros(16, 16, dtype=torch.int64)
    return found


@pytest.mark.parametrize("timm", [False, True])
@torch.inference_mode()
def test_files_of_the_authors_and_of_timm_need_no_config(timm: bool, tmp_path: Path) -> None:
    sizes = {**SWIN_SIZES, "depths": [1, 2, 1, 1], "num_heads": [1, 2, 4, 8], "image_size": 224}
    theirs = make("Swin", sizes)
    theirs.save_pretrained(tmp_path)  # type: ignore[operator]
    path = tmp_path / "theirs.safetensors"
    save_file(authors(load_file(tmp_path / "model.safetensors"), timm=timm), path)
    ours = load_foreign(path)
    assert ours.layout is (TIMM_SWIN if timm else SWIN)
    assert ours.notes == ("images of 224 pixels assumed",)
    assert any("computed from the window" in line for line in ours.report())
    pixels = images((128, 128))
    torch.testing.assert_close(ours.model(pixels), theirs(pixels).logits, rtol=0, atol=1e-5)
    back = revert(ours.model.state_dict(), ours.layout.rules(vars_of(ours.model)), 0)
    for name, tensor in load_file(path).items():
        if "index" not in name:
            assert torch.equal(back[name], tensor)


def vars_of(model: ViT) -> dict[str, Any]:
    return {"stem_blocks": model.config.stem_blocks}


SMALL: dict[str, tuple[str, dict[str, Any]]] = {
    "swin": ("swin_tiny_patch4_window7_224", {"attention_window": 2}),
    "hiera": ("hiera_tiny_224", {}),
}


def small(kind: str, **changes: Any) -> LoadedModel:
    name, arch = SMALL[kind]
    torch.manual_seed(0)
    numbers = {"stem_blocks": (1, 2, 1), "stem_width": 8, "stem_heads": 2, "img_size": (32, 48)}
    model = create_model(name, num_classes=3, **{**numbers, **arch, **changes}).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    size = model.config.image_shape
    header = Header(
        config=model.config, preprocessing=Preprocessing(size=size), class_names=("a", "b", "c")
    )
    return LoadedModel(model=model, header=header, path=Path("model.safetensors"))


@pytest.mark.parametrize("kind", SMALL)
@torch.inference_mode()
def test_what_is_written_opens_in_transformers_and_comes_back(kind: str, tmp_path: Path) -> None:
    loaded = small(kind, mlp="gelu_tanh")
    WRITERS["hf"](loaded, tmp_path / "theirs")
    opened = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "theirs")
    pixels = images(loaded.header.config.image_shape)
    wanted = loaded.model(pixels)
    torch.testing.assert_close(opened.eval()(pixels).logits, wanted, rtol=0, atol=1e-5)
    assert opened.config.id2label == {0: "a", 1: "b", 2: "c"}
    back = load_model(tmp_path / "theirs")
    assert back.header.config == loaded.header.config
    assert back.header.class_names == ("a", "b", "c")
    for name, tensor in loaded.model.state_dict().items():
        assert torch.equal(back.model.state_dict()[name], tensor)


def test_the_command_converts_both_ways(tmp_path: Path) -> None:
    make("Swin", SWIN_SIZES).save_pretrained(tmp_path / "theirs")  # type: ignore[operator]
    own = tmp_path / "own.safetensors"
    assert main(["convert", str(tmp_path / "theirs"), str(own), "--to", "tessera"]) == 0
    assert main(["convert", str(own), str(tmp_path / "again"), "--to", "hf"]) == 0
    one, two = (load_file(tmp_path / f / "model.safetensors") for f in ("theirs", "again"))
    assert set(one) == set(two)
    for name, tensor in one.items():
        assert torch.equal(two[name], tensor)


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        ("Swin", {"use_absolute_embeddings": True}, "asks for use_absolute_embeddings=True"),
        ("Swin", {"mlp_ratio": 2.0}, r"asks for mlp_ratio=2\.0"),
        ("Swin", {"hidden_act": "relu"}, "hidden_act='relu' is unknown"),
        ("Swin", {"layer_norm_eps": 1e-6}, "asks for layer_norm_eps=1e-06"),
        ("Swin", {"image_size": 60}, "img_size=60 is no multiple of patch_size=16"),
        ("Hiera", {"num_query_pool": 2}, "asks for num_query_pool=2"),
        ("Hiera", {"masked_unit_size": [16, 16]}, r"asks for masked_unit_size=\[16, 16\]"),
        ("Hiera", {"num_heads": [1, 1, 2, 4]}, r"asks for num_heads=\[1, 1, 2, 4\]"),
    ],
)
def test_a_config_that_asks_for_another_network_is_refused(
    kind: str, changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    make(kind, SWIN_SIZES if kind == "Swin" else HIERA_SIZES).save_pretrained(tmp_path)  # type: ignore[operator]
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(CheckpointError, match=f"(?s){message}.*hint: "):
        load_foreign(tmp_path)


def test_the_heads_of_hiera_are_said_or_known(tmp_path: Path) -> None:
    make("Hiera", HIERA_SIZES).save_pretrained(tmp_path)  # type: ignore[operator]
    bare = tmp_path / "model.safetensors"
    with pytest.raises(CheckpointError, match=r"(?s)width 8.*hint: .*--arch\.stem-heads"):
        load_foreign(bare)
    assert load_foreign(bare, overrides={"stem_heads": 2}).model.config.stem_heads == 2
    make("Hiera", {**HIERA_SIZES, "embed_dim": 96, "depths": [1, 1, 1, 1]}).save_pretrained(
        tmp_path
    )  # type: ignore[operator]
    assert load_foreign(bare).model.config.stem_heads == 1


@pytest.mark.parametrize(
    ("to", "kind", "changes", "word"),
    [
        ("hf", "swin", {"norm_eps": 1e-6}, "norm_eps=1e-06"),
        ("hf", "hiera", {"qkv_bias": False}, "qkv_bias=False"),
        ("hf", "swin", {"norm": "rmsnorm"}, "norm='rmsnorm'"),
        ("timm", "swin", {}, "patch_embed='swin'"),
        ("npz", "hiera", {}, "patch_embed='hiera'|cls_token=False"),
    ],
)
def test_what_a_format_cannot_say_is_refused(
    to: str, kind: str, changes: dict[str, Any], word: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=f"(?s)({word}).*--to tessera keeps everything"):
        WRITERS[to](small(kind, **changes), tmp_path / "out")
