"""Make the golden files beside this script from tiny models of timm and of vit-pytorch.

Each file holds one model's weights under their own names (``model.*``) and what the reference
computes with them, so that the test suite compares with the references without installing them.

Run by hand, when a family is added or a reference has changed, in an environment of its own:

    python3.11 -m venv /tmp/parity-venv
    /tmp/parity-venv/bin/pip install -c constraints.txt \
        torch==2.13.0 torchvision==0.28.0 timm==1.0.31 safetensors einops
    /tmp/parity-venv/bin/pip install --no-deps vit-pytorch==1.26.11
    /tmp/parity-venv/bin/python tests/golden/make_golden.py

timm imports torchvision, whose wheels are built for CUDA: beside a CPU torch it needs
``ensure_torchvision``, and it must stay out of the environment of the project.

Tensors of a file, float32 but for the weights of the hybrids, which are float16:

- ``model.<name>``: the state dict, every entry of it random, also what models start at 0 or 1;
- ``golden.images``: two images;
- ``golden.logits``: what the model makes of them, in eval mode;
- ``golden.features``: the tokens that its head reads (``forward_features`` in timm).

``timm_resample.safetensors`` instead holds position tables and patch kernels before and after.
"""

import json
import math
import sys
import zlib
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

HERE = Path(__file__).parent

TINY: dict[str, Any] = {
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "patch_size": 8,
    "img_size": 32,
    "num_classes": 5,
}
"""Sizes that replace those of timm's architecture; all its other switches stay."""

PATCH14 = {"embed_dim": 24, "patch_size": 14, "img_size": 28}
"""Kernels of 14 x 14 are large: narrower models keep their files small."""

TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "vit_augreg": ("vit_tiny_patch16_224", {}),
    "vit_augreg_nonsquare": ("vit_tiny_patch16_224", {"img_size": (24, 40)}),
    "vit_avg": ("vit_base_patch16_224", {"global_pool": "avg"}),
    "vit_qk_norm": ("vit_base_patch16_224", {"qk_norm": True}),
    "deit": ("deit_tiny_patch16_224", {}),
    "deit_distilled": ("deit_tiny_distilled_patch16_224", {}),
    "deit3": ("deit3_small_patch16_224", {}),
    "clip_openai": ("vit_base_patch16_clip_quickgelu_224", {}),
    "clip_laion": ("vit_base_patch16_clip_224", {}),
    "siglip": ("vit_base_patch16_siglip_224", {"img_size": 24, "num_classes": 0}),
    "siglip_gap": ("vit_base_patch16_siglip_gap_224", {"num_classes": 0}),
    "siglip2_so400m": (
        "vit_so400m_patch16_siglip_256",
        {"embed_dim": 24, "mlp_ratio": None, "img_size": 24, "num_classes": 0},
    ),
    "dinov2": ("vit_small_patch14_dinov2", {**PATCH14, "num_classes": 0}),
    "dinov2_reg": ("vit_small_patch14_reg4_dinov2", {**PATCH14, "num_classes": 0}),
    "dinov2_swiglu": (
        "vit_giant_patch14_dinov2",
        {**PATCH14, "mlp_ratio": None, "num_classes": 0},
    ),
    "mae": ("vit_base_patch16_224", {"num_classes": 0}),
    "dino": ("vit_small_patch16_224", {"num_classes": 0}),
    "reg4_gap": ("vit_medium_patch16_reg4_gap_256", {}),
}
"""Per family: timm's architecture and what differs from ``TINY``; None leaves timm's own value."""

LUCIDRAINS: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "num_classes": 5,
    "dim": 32,
    "depth": 2,
    "heads": 2,
    "dim_head": 24,  # 2 * 24 is not 32, as the library allows
    "mlp_dim": 48,
}

TORCHVISION = {
    "image_size": 32,
    "patch_size": 8,
    "num_layers": 2,
    "num_heads": 2,
    "hidden_dim": 32,
    "mlp_dim": 64,
    "num_classes": 5,
}

HYBRIDS: dict[str, tuple[tuple[int, ...], int]] = {
    "hybrid_root": ((), 4),  # as vit_tiny_r_s16_p8_224
    "hybrid_stages": ((1, 1), 1),  # as vit_base_r50_s16_224
}
"""Per family: bottlenecks in each stage of the stem, and the patches on its feature map."""

HYBRID_SIZES: dict[str, Any] = {
    "embed_dim": 16,
    "depth": 1,
    "num_heads": 2,
    "mlp_ratio": 2.0,
    "img_size": 32,
    "num_classes": 5,
}

FAINT = ("patch_embed.proj.", "to_patch_embedding.2.", "cls_token", "dist_token", "reg_token")
"""Kept small, so that the variance which the first norm divides by shows its epsilon."""


def main() -> None:
    """Write every golden file, and say its size."""
    torch.set_num_threads(1)
    ensure_torchvision()
    for family, (architecture, overrides) in TIMM.items():
        arguments = {k: v for k, v in {**TINY, **overrides}.items() if v is not None}
        make_timm(family, architecture, arguments)
    make_timm_resample()
    for family, (stages, patch_size) in HYBRIDS.items():
        make_timm_hybrid(family, stages, patch_size)
    make_timm_bit("bit_timm")
    make_lucidrains("lucidrains_vit", {**LUCIDRAINS, "pool": "cls"})
    make_lucidrains("lucidrains_vit_mean", {**LUCIDRAINS, "pool": "mean"})
    make_torchvision("torchvision_vit", TORCHVISION)


def ensure_torchvision() -> None:
    """Make ``import torchvision`` work beside a CPU build of torch; do nothing where it does."""
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        for op in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{op}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        import torchvision  # noqa: F401


def make_timm(family: str, architecture: str, arguments: Mapping[str, Any]) -> None:
    """Write ``timm_<family>.safetensors``."""
    generator = generator_of(family)
    model = timm_model(architecture, arguments, generator)
    images = random_images(arguments["img_size"], generator)
    with torch.no_grad():
        golden = {
            "golden.images": images,
            "golden.logits": model(images),
            "golden.features": model.forward_features(images),
        }
    metadata = {"architecture": architecture, "arguments": json.dumps(arguments)}
    save(f"timm_{family}", state_of(model) | golden, {"family": family, **metadata}, "timm")


def make_timm_resample() -> None:
    """Write what timm does to the weights of ``vit_augreg`` at other sizes of image and patch."""
    from timm.layers import resample_patch_embed
    from timm.models.vision_transformer import checkpoint_filter_fn

    generator = generator_of("vit_augreg")
    architecture, overrides = TIMM["vit_augreg"]
    arguments = {**TINY, **overrides}
    small = timm_model(architecture, arguments, generator)
    large = timm_model(architecture, {**arguments, "img_size": 48}, torch.Generator())
    wide = timm_model(architecture, {**arguments, "img_size": (24, 40)}, torch.Generator())
    for model in (large, wide):
        model.load_state_dict(checkpoint_filter_fn(small.state_dict(), model))
    images = random_images(48, generator)[:1]
    kernel = small.patch_embed.proj.weight.detach()
    with torch.no_grad():
        tensors = {
            "pos_embed.4x4": small.pos_embed.detach(),
            "pos_embed.6x6": large.pos_embed.detach(),
            "pos_embed.3x5": wide.pos_embed.detach(),
            "patch_embed.8x8": kernel,
            "patch_embed.6x6": resample_patch_embed(kernel, [6, 6]),
            "patch_embed.12x12": resample_patch_embed(kernel, [12, 12]),
            "golden.images": images,
            "golden.logits": large(images),
        }
    metadata = {"architecture": architecture, "arguments": json.dumps(arguments)}
    save("timm_resample", tensors, {"family": "vit_augreg", **metadata}, "timm")


def make_timm_hybrid(family: str, stages: tuple[int, ...], patch_size: int) -> None:
    """Write ``<family>.safetensors``: a hybrid with a ResNet of half the width, in half precision.

    timm builds the stem from the arguments that its own hybrids have, but for the width; the
    weights are rounded to float16 before the model answers, so that the file holds them exactly.
    """
    from timm.layers import StdConv2dSame
    from timm.models import vision_transformer_hybrid as hybrid
    from timm.models.resnetv2 import ResNetV2, create_resnetv2_stem

    parts: dict[str, Any] = {
        "stem_type": "same",
        "preact": False,
        "conv_layer": partial(StdConv2dSame, eps=1e-8),
    }
    backbone: Any = create_resnetv2_stem(3, 32, **parts)
    if stages:
        backbone = ResNetV2(stages, num_classes=0, global_pool="", width_factor=0.5, **parts)
    generator = generator_of(family)
    model = hybrid._create_vision_transformer_hybrid(
        "vit_base_r50_s16_224", backbone=backbone, patch_size=patch_size, **HYBRID_SIZES
    )
    metadata = {"arguments": json.dumps(HYBRID_SIZES), "stages": json.dumps(stages)}
    save_halves(family, model.eval(), generator, metadata)


def make_timm_bit(family: str) -> None:
    """Write ``<family>.safetensors``: BiT with one stage of half the width, in half precision."""
    from timm.layers import StdConv2d
    from timm.models.resnetv2 import ResNetV2

    conv = partial(StdConv2d, eps=1e-8)
    model = ResNetV2([2], num_classes=5, width_factor=0.5, stem_type="fixed", conv_layer=conv)
    save_halves(family, model.eval(), generator_of(family), {})


def save_halves(
    family: str, model: nn.Module, generator: torch.Generator, metadata: dict[str, str]
) -> None:
    """Write a model whose weights are random numbers of float16, and what it makes of images."""
    randomise(model, generator)
    for parameter in model.parameters():
        parameter.data.copy_(parameter.data.half().float())
    images = random_images(32, generator)
    with torch.no_grad():
        golden = {"golden.images": images, "golden.logits": model(images)}
    halves = {name: value.half() for name, value in state_of(model).items()}
    save(family, halves | golden, {"family": family, **metadata}, "timm")


def make_lucidrains(family: str, arguments: Mapping[str, Any]) -> None:
    """Write ``<family>.safetensors`` of ``vit_pytorch.vit.ViT``."""
    from vit_pytorch.vit import ViT

    generator = generator_of(family)
    model = ViT(**arguments).eval()
    randomise(model, generator)
    images = random_images(arguments["image_size"], generator)
    features: list[Tensor] = []
    model.transformer.register_forward_hook(lambda *call: features.append(call[-1]))
    with torch.no_grad():
        logits = model(images)
    tensors = {
        "golden.images": images,
        "golden.logits": logits,
        "golden.features": features[0],
    }
    metadata = {"architecture": "vit_pytorch.vit.ViT", "arguments": json.dumps(arguments)}
    save(family, state_of(model) | tensors, {"family": family, **metadata}, "vit-pytorch")


def make_torchvision(family: str, arguments: Mapping[str, Any]) -> None:
    """Write ``<family>.safetensors`` of ``torchvision.models.VisionTransformer``."""
    from torchvision.models import VisionTransformer

    generator = generator_of(family)
    model = VisionTransformer(**arguments).eval()
    randomise(model, generator)
    images = random_images(arguments["image_size"], generator)
    with torch.no_grad():
        tensors = {"golden.images": images, "golden.logits": model(images)}
    metadata = {"architecture": "torchvision.models.VisionTransformer"}
    metadata |= {"arguments": json.dumps(arguments), "family": family}
    save(family, state_of(model) | tensors, metadata, "torchvision")


def timm_model(architecture: str, arguments: Mapping[str, Any], generator: torch.Generator) -> Any:
    """Build a model of timm in eval mode, with random weights throughout."""
    import timm

    model = timm.create_model(architecture, pretrained=False, **arguments).eval()
    randomise(model, generator)
    return model


def randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Give every parameter a random value of a scale at which it shows in the output."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_(mean_of(name, parameter) + std_of(name, parameter) * noise)


def mean_of(name: str, parameter: Tensor) -> float:
    """Say where a parameter lies: the gains of norms and of LayerScale at 1, the rest at 0."""
    is_gain = parameter.ndim == 1 and name.endswith((".weight", ".gamma"))
    return 1.0 if is_gain else 0.0


def std_of(name: str, parameter: Tensor) -> float:
    """Say how far a parameter spreads."""
    if name.startswith("pos_embed"):
        return 0.04
    if name == "attn_pool.latent":
        return 1.0
    scale = 0.03 if name.startswith(FAINT) else 1.5
    if parameter.ndim > 1 and name.endswith("weight"):
        return scale / math.sqrt(parameter[0].numel())  # of about its input's variance
    return min(scale, 0.2)


def generator_of(family: str) -> torch.Generator:
    """Return the source of a family's weights and images: its own, whichever others are made."""
    return torch.Generator().manual_seed(zlib.crc32(family.encode()))


def random_images(img_size: int | tuple[int, int], generator: torch.Generator) -> Tensor:
    """Draw two images of standard normal pixels."""
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    return torch.randn(2, 3, height, width, generator=generator)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights as a file holds them, having made sure that none kept its first value."""
    state = model.state_dict()
    if left := set(state) - {name for name, _ in model.named_parameters()}:
        raise ValueError(f"not random: {sorted(left)}")
    return {f"model.{name}": value for name, value in state.items()}


def save(name: str, tensors: Mapping[str, Tensor], metadata: dict[str, str], package: str) -> None:
    """Write one file, with the version of the package that made it."""
    path = HERE / f"{name}.safetensors"
    contiguous = {key: value.detach().contiguous() for key, value in tensors.items()}
    save_file(contiguous, path, {**metadata, package: version(package)})
    sort_metadata(path)
    sys.stdout.write(f"{path.name} {path.stat().st_size}\n")


def sort_metadata(path: Path) -> None:
    """Order the metadata, which safetensors does not, so that a second run gives the same bytes."""
    raw = path.read_bytes()
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode().ljust(end - 8)
    if len(text) != end - 8:
        raise ValueError(f"{path}: the header changed its length")
    path.write_bytes(raw[:8] + text + raw[end:])


if __name__ == "__main__":
    main()
