"""Writing and reading back changes nothing, bit for bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import tessera
from tessera.checkpoint.artifact import Header, LoadedModel
from tessera.checkpoint.load import load_model
from tessera.checkpoint.rules import CheckpointError
from tessera.checkpoint.write import WRITERS
from tessera.cli import main
from tessera.data.preprocessing import Preprocessing
from tessera.models.variants import parse
from tessera.models.vit import ViT

NAMES = ("ant", "bee", "wasp")

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "odd mlp": {"mlp_dim": 89},
    "registers": {"num_registers": 4, "layer_scale_init": 0.1},
    "averaged": {"pool": "avg", "final_norm": "pooled"},
    "attention pooling": {"pool": "map", "cls_token": False},
    "distilled": {"dist_token": True, "dist_head": True},
    "clip": {"embed_norm": True, "norm_eps": 1e-5},
    "swiglu": {"mlp": "swiglu"},
    "query-key norm": {"qk_norm": True},
}


def make(**arch: Any) -> LoadedModel:
    config = parse("vit_mu_patch8", img_size=32, num_classes=3, **arch)
    model = ViT(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    preprocessing = Preprocessing(size=(32, 32), crop_pct=0.9)
    header = Header(config=config, preprocessing=preprocessing, class_names=NAMES)
    return LoadedModel(model=model, header=header, path=Path("memory"))


def place(folder: Path, to: str) -> Path:
    return folder / {"tessera": "m.safetensors", "npz": "m.npz"}.get(to, to)


def assert_same(one: LoadedModel, two: LoadedModel) -> None:
    state = two.model.state_dict()
    assert set(state) == set(one.model.state_dict())
    for name, tensor in one.model.state_dict().items():
        assert torch.equal(tensor, state[name]), name


@pytest.mark.parametrize("to", WRITERS)
def test_the_plain_model_comes_back_the_same_from_every_format(to: str, tmp_path: Path) -> None:
    loaded = make()
    WRITERS[to](loaded, place(tmp_path, to))
    back = load_model(place(tmp_path, to))
    assert_same(loaded, back)
    assert back.header.config == loaded.header.config
    if to != "npz":  # which holds tensors and nothing else
        one, two = back.header.preprocessing, loaded.header.preprocessing
        assert one.resized_size == two.resized_size  # 35 for 32, whatever share that is
        assert replace(one, crop_pct=1.0) == replace(two, crop_pct=1.0)
        assert back.header.class_names == NAMES


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_comes_back_the_same_from_timm_format(variant: str, tmp_path: Path) -> None:
    loaded = make(**VARIANTS[variant])
    WRITERS["timm"](loaded, tmp_path / "timm")
    back = load_model(tmp_path / "timm")
    assert_same(loaded, back)


def test_transformers_opens_what_we_write_and_answers_the_same(tmp_path: Path) -> None:
    transformers.logging.set_verbosity_error()
    loaded = make(mlp_dim=48)
    WRITERS["hf"](loaded, tmp_path / "hf")
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "hf").eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        # Weights are N(0, 1) here, so logits are of order 100; measured 1.5e-5.
        torch.testing.assert_close(
            theirs(images).logits, loaded.model(images), rtol=1e-5, atol=1e-4
        )
    assert theirs.config.id2label == dict(enumerate(NAMES))


@pytest.mark.parametrize(
    ("to", "arch", "word"),
    [
        ("hf", {"num_registers": 2}, "num_registers=2"),
        ("hf", {"mlp": "swiglu"}, "gated MLP"),
        ("npz", {"qk_norm": True}, "qk_norm=True"),
        ("npz", {"norm_eps": 1e-5}, "norm_eps"),
        ("timm", {"pos_embed": "sincos2d"}, "pos_embed='sincos2d'"),
        ("timm", {"pos_place": "shared"}, "place='shared'"),
        ("npz", {"pos_place": "every"}, "place='every'"),
        ("timm", {"attention": "local"}, "attention='local'"),
        ("hf", {"attention": "window"}, "attention='window'"),
    ],
)
def test_what_a_format_cannot_say_is_refused_not_left_out(
    to: str, arch: dict[str, Any], word: str, tmp_path: Path
) -> None:
    target = place(tmp_path, to)
    with pytest.raises(CheckpointError) as caught:
        WRITERS[to](make(**arch), target)
    assert word in str(caught.value)
    assert not target.exists()


def test_the_command_converts_and_overwrites_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    WRITERS["tessera"](make(), tmp_path / "m.safetensors")
    argv = ["convert", str(tmp_path / "m.safetensors"), str(tmp_path / "hf"), "--to", "hf"]
    assert main(argv) == 0
    assert "written" in capsys.readouterr().out
    assert tessera.load(tmp_path / "hf").class_names == NAMES
    assert main(argv) == 2
    assert "nothing is overwritten" in capsys.readouterr().err


def test_the_command_says_what_the_file_does_not(tmp_path: Path) -> None:
    WRITERS["npz"](make(), tmp_path / "m.npz")
    (tmp_path / "names.txt").write_text("ant\nbee\nwasp\n")
    target = tmp_path / "m.safetensors"
    argv = ["convert", str(tmp_path / "m.npz"), str(target), "--to", "tessera"]
    argv += ["--class-names", str(tmp_path / "names.txt"), "--crop-pct", "0.875"]
    assert main([*argv, "--mean", "0.1", "0.2", "0.3"]) == 0
    predictor = tessera.load(target)
    assert predictor.class_names == NAMES
    assert predictor.header.preprocessing.crop_pct == 0.875
    assert predictor.header.preprocessing.mean == (0.1, 0.2, 0.3)
