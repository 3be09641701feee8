"""The same Vision Transformer in the libraries that people use, for benchmarks/throughput.py."""

import importlib
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import tessera
from tessera.checkpoint.foreign import load_foreign
from tessera.models.variants import SIZES, Size

SIDE, PATCH, CLASSES = 224, 16, 1000
TOLERANCE = 1e-4
"""How far logits of the same weights may lie apart; measured: 3e-7 at Ti/16."""


class Logits(nn.Module):
    """A model of transformers that returns the logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).logits


def ensure_torchvision() -> None:
    """Import torchvision beside a CPU build of torch, on which its own operators cannot load.

    timm and transformers need it to be importable; none of these operators is used here.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        signature = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        for operator in ("nms", "qnms"):
            torch.library.define(f"torchvision::{operator}", signature)
        import torchvision  # noqa: F401


def _ours(size: Size, word: str) -> nn.Module:
    return tessera.create_model(f"vit_{word}_patch{PATCH}_{SIDE}", num_classes=CLASSES)


def _transformers(size: Size, word: str) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=size.embed_dim,
        num_hidden_layers=size.depth,
        num_attention_heads=size.num_heads,
        intermediate_size=size.mlp_dim,
        image_size=SIDE,
        patch_size=PATCH,
        num_labels=CLASSES,
    )
    return Logits(ViTForImageClassification(config))


def _timm(size: Size, word: str) -> nn.Module:
    import timm

    return timm.create_model(f"vit_{word}_patch{PATCH}_{SIDE}", num_classes=CLASSES)


def _torchvision(size: Size, word: str) -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(
        SIDE, PATCH, size.depth, size.num_heads, size.embed_dim, size.mlp_dim, num_classes=CLASSES
    )


def _vit_pytorch(size: Size, word: str) -> nn.Module:
    from vit_pytorch import ViT

    return ViT(
        image_size=SIDE,
        patch_size=PATCH,
        num_classes=CLASSES,
        dim=size.embed_dim,
        depth=size.depth,
        heads=size.num_heads,
        dim_head=size.embed_dim // size.num_heads,
        mlp_dim=size.mlp_dim,
    )


BUILDERS: dict[str, Callable[[Size, str], nn.Module]] = {
    "tessera": _ours,
    "transformers": _transformers,
    "timm": _timm,
    "torchvision": _torchvision,
    "vit-pytorch": _vit_pytorch,
}
"""By the name of the distribution."""

MODULES = {
    "tessera": "tessera.models.vit",
    "transformers": "transformers.models.vit.modeling_vit",
    "timm": "timm",
    "torchvision": "torchvision.models.vision_transformer",
    "vit-pytorch": "vit_pytorch",
}


def build(peer: str, word: str) -> nn.Module:
    """Build a model of one library with seeded random weights, the head's included.

    Args:
        word: A size, such as "tiny".
    """
    torch.manual_seed(0)
    model = BUILDERS[peer](SIZES[word], word)
    for name, parameter in model.named_parameters():
        if parameter.shape == (CLASSES, SIZES[word].embed_dim):
            nn.init.trunc_normal_(parameter, std=0.02)
        elif name.endswith("bias"):
            nn.init.normal_(parameter, std=0.02)
    return model


def load_library(peer: str) -> None:
    """Import what a model of a library needs.

    Raises:
        ImportError: It is not here.
    """
    if _has("torchvision"):  # vit-pytorch imports it too
        ensure_torchvision()
    importlib.import_module(MODULES[peer])
    if peer == "transformers":
        import transformers

        transformers.logging.disable_progress_bar()


def find_peers() -> tuple[dict[str, str], dict[str, str]]:
    """Return versions of the libraries that can be used here, ours first, and why others cannot."""
    there, missing = {"tessera": version("tessera-vit") if _has("tessera-vit") else "source"}, {}
    for peer in MODULES:
        try:
            load_library(peer)
            there.setdefault(peer, "" if peer == "tessera" else version(peer))
        except (ImportError, RuntimeError) as error:
            missing[peer] = str(error).splitlines()[0]
    return there, missing


def _has(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def distance(peer: str, theirs: nn.Module) -> float:
    """Return how far our logits lie from theirs, with their weights in our model."""
    model: Any = theirs.model if isinstance(theirs, Logits) else theirs
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "model.safetensors"
        if isinstance(theirs, Logits):
            model.save_pretrained(name)  # with config.json, which says what no tensor does
            path = Path(name)
        else:
            state = model.state_dict()
            save_file({key: t.contiguous().cpu().clone() for key, t in state.items()}, path)
        ours = load_foreign(path).model
    device = next(theirs.parameters()).device
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)).to(device)
    with torch.inference_mode():
        return float((ours.to(device)(images) - theirs.eval()(images)).abs().max())
