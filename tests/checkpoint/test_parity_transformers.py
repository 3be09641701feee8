"""Logits equal those of Hugging Face transformers for the same weights, family by family."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from tessera.checkpoint.foreign import load_foreign
from tessera.checkpoint.huggingface import FAMILIES

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
}
MLP = {"intermediate_size": 48}


def last(output: Any) -> Tensor:
    return output.last_hidden_state[:, 0]


def pooled(output: Any) -> Tensor:
    return output.pooler_output


def logits(output: Any) -> Tensor:
    return output.logits


CASES: dict[str, tuple[str, str, dict[str, Any], Any]] = {
    "vit": ("ViTConfig", "ViTForImageClassification", MLP, logits),
    "vit, no bias": ("ViTConfig", "ViTForImageClassification", {**MLP, "qkv_bias": False}, logits),
    "vit, headless": ("ViTConfig", "ViTModel", MLP, last),
    "deit": ("DeiTConfig", "DeiTForImageClassification", MLP, logits),
    "deit, two heads": ("DeiTConfig", "DeiTForImageClassificationWithTeacher", MLP, logits),
    "vit_mae": ("ViTMAEConfig", "ViTMAEModel", {**MLP, "mask_ratio": 0.0}, last),
    "dinov2": ("Dinov2Config", "Dinov2Model", {}, last),
    "dinov2, gated": ("Dinov2Config", "Dinov2Model", {"use_swiglu_ffn": True}, last),
    "dinov2_with_registers": (
        "Dinov2WithRegistersConfig",
        "Dinov2WithRegistersModel",
        {"num_register_tokens": 3},
        last,
    ),
    "dinov3_vit": ("DINOv3ViTConfig", "DINOv3ViTModel", {**MLP, "num_register_tokens": 4}, last),
    "dinov3_vit, gated": (
        "DINOv3ViTConfig",
        "DINOv3ViTModel",
        {**MLP, "num_register_tokens": 4, "use_gated_mlp": True, "hidden_act": "silu"},
        last,
    ),
    "clip_vision_model": (
        "CLIPVisionConfig",
        "CLIPVisionModelWithProjection",
        {**MLP, "projection_dim": 24},
        lambda output: output.image_embeds,
    ),
    "clip_vision_model, exact GELU": (
        "CLIPVisionConfig",
        "CLIPVisionModelWithProjection",
        {**MLP, "projection_dim": 24, "hidden_act": "gelu"},
        lambda output: output.image_embeds,
    ),
    "siglip_vision_model": ("SiglipVisionConfig", "SiglipVisionModel", MLP, pooled),
}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.enable_progress_bar()


def make(config_name: str, model_name: str, arguments: dict[str, Any]) -> Any:
    torch.manual_seed(0)
    config = getattr(transformers, config_name)(**SIZES, **arguments)
    model = getattr(transformers, model_name)(config).eval()
    shake(model)
    return model


def shake(model: nn.Module) -> None:
    """Give every tensor a value of its own, so that none can be mixed up or left out unseen."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)


def images(size: tuple[int, int] = (32, 32)) -> Tensor:
    return torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("case", CASES)
def test_the_outputs_are_those_of_transformers(case: str, tmp_path: Path) -> None:
    config_name, model_name, arguments, pick = CASES[case]
    theirs = make(config_name, model_name, arguments)
    theirs.save_pretrained(tmp_path)
    ours = load_foreign(tmp_path)
    with torch.inference_mode():
        if case == "vit_mae":  # it shuffles the patches, which changes no class token
            wanted = pick(theirs(images(), noise=torch.arange(16.0).expand(3, 16)))
        else:
            wanted = pick(theirs(images()))
        # Measured: at most 1e-6 over all cases, where outputs are of order 1.
        torch.testing.assert_close(ours.model(images()), wanted, rtol=0, atol=1e-5)


def test_a_two_tower_model_gives_its_vision_tower(tmp_path: Path) -> None:
    torch.manual_seed(0)
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"intermediate_size": 16, "vocab_size": 50}
    config = transformers.CLIPConfig(
        text_config=text, vision_config={**SIZES, **MLP}, projection_dim=24
    )
    theirs = transformers.CLIPModel(config).eval()
    shake(theirs)
    theirs.save_pretrained(tmp_path)
    ours = load_foreign(tmp_path)
    assert any("text tower" in why for _, why in ours.conversion.dropped)
    with torch.inference_mode():
        wanted = theirs.visual_projection(theirs.vision_model(images()).pooler_output)
        torch.testing.assert_close(ours.model(images()), wanted, rtol=0, atol=1e-5)


def test_every_family_of_the_table_has_a_parity_test() -> None:
    tested = {case.partition(",")[0] for case in CASES} | {"clip"}  # clip: the two-tower test
    assert set(FAMILIES) - tested == {"siglip"}  # siglip: the two-tower form of the same tower
