"""Trained weights for other classes, another image size or another patch size."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tessera.checkpoint.artifact import LoadedModel
from tessera.checkpoint.rules import CheckpointError
from tessera.config import ViTConfig
from tessera.data.dataset import Task
from tessera.models.vit import ViT
from tessera.nn.positions.base import resampled_positions
from tessera.nn.swin import resampled_windows

CHANGEABLE = {
    "img_size",
    "patch_size",
    "pool",
    "drop_rate",
    "attn_drop_rate",
    "attention",
    "attention_window",
    "drop_path_rate",
    "drop_path_rule",
    "drop_path_kind",
}
"""Fields that may differ from those the weights were trained with."""

HEAD = ("head.", "head_dist.", "pre_logits.")


def adapt(
    loaded: LoadedModel,
    class_names: tuple[str, ...],
    overrides: Mapping[str, Any],
    *,
    task: Task = "classify",
    plain_head: bool = False,
) -> tuple[ViT, tuple[str, ...]]:
    """Make a model for new classes out of a trained one (paper, section 3.2).

    The whole pre-training head goes, and a zero-initialised linear one takes its place, unless the
    classes are the same by name. Positions are resampled on their grid, patch kernels by the
    pseudo-inverse rule.

    Args:
        plain_head: One linear map on the pooled tokens and nothing else, as a linear probe wants.

    Returns:
        The model, and what was done, a line each.

    Raises:
        CheckpointError: An override that the weights cannot follow.
    """
    old = loaded.header.config
    changed = {name: value for name, value in overrides.items() if value != getattr(old, name)}
    fixed = sorted(set(changed) - CHANGEABLE)
    pools = {changed.get("pool", old.pool), old.pool}
    if fixed or (len(pools) > 1 and pools & {"map", "seq"}):  # which have weights of their own
        raise CheckpointError(
            f"{', '.join(fixed) or 'pool'} cannot differ from what the weights were trained with\n"
            f"hint: with weights, these can: {', '.join(sorted(CHANGEABLE))}"
        )
    same_task = task == loaded.header.task != "regress"  # whose head learns standardised numbers
    same_head = same_task and bool(class_names) and class_names == loaded.header.class_names
    config = replace(old, **changed, num_classes=len(class_names))
    if not same_head or plain_head:
        config = replace(config, representation_dim=None)
    if plain_head:
        same_head, config = False, replace(config, dist_head=False)
    model = ViT(config)
    state = model.state_dict()
    trained = loaded.model.state_dict()
    positions, notes = _positions(loaded.model, config)
    for name, tensor in (trained | positions).items():
        if name.startswith(HEAD) and not same_head:
            continue
        if name == "patch_embed.proj.weight" and old.patch_size != config.patch_size:
            tensor = _resize_projection(tensor, old, config)
            notes.append(f"patches resized from {old.patch_size} to {config.patch_size} pixels")
        state[name] = tensor
    model.load_state_dict(state)
    notes.append("head kept: the classes are the same" if same_head else "new head, all zeros")
    return model, tuple(notes)


def resize_patch_kernel(
    kernel: Float[Tensor, "d c old old"], patch_size: int
) -> Float[Tensor, "d c new new"]:
    """Resize patch kernels so that resized patches give the same tokens (Beyer et al., 2023).

    FlexiViT's pseudo-inverse rule: with B the linear map of bicubic antialiased resizing, the new
    kernel is pinv(B^T) w, which for a larger patch preserves the product with every resized patch.
    """
    old = kernel.shape[-1]
    basis = torch.eye(old * old, dtype=torch.float64).reshape(old * old, 1, old, old)
    resized = F.interpolate(basis, size=(patch_size, patch_size), mode="bicubic", antialias=True)
    inverse = torch.linalg.pinv(resized.reshape(old * old, -1))  # new*new old*old
    flat = kernel.reshape(*kernel.shape[:2], -1).double()
    product = torch.einsum("no,dco->dcn", inverse, flat)
    return product.reshape(*kernel.shape[:2], patch_size, patch_size).to(kernel.dtype)


def _positions(model: ViT, config: ViTConfig) -> tuple[dict[str, Tensor], list[str]]:
    """The tables of positions as the new config has them, and what was done to them."""
    old, trained, notes = model.config, model.state_dict(), []
    tables = resampled_positions(model, config.grid) if old.grid != config.grid else {}
    if any(not torch.equal(tensor, trained[name]) for name, tensor in tables.items()):
        notes.append(f"positions resampled from {_by(old.grid)} to {_by(config.grid)} patches")
    before, after = old.attention_window, config.attention_window
    if old.patch_embed == "swin" and before != after:
        tables |= resampled_windows(model, after)
        notes.append(f"relative positions of windows resampled from {before} to {after} tokens")
    return tables, notes


def _resize_projection(weight: Tensor, old: ViTConfig, new: ViTConfig) -> Tensor:
    if old.patch_embed != "conv":
        raise CheckpointError(
            "patch_size can differ only with patch_embed='conv'\n"
            f"hint: leave it at {old.patch_size}"
        )
    return resize_patch_kernel(weight, new.patch_size)


def _by(grid: tuple[int, int]) -> str:
    return f"{grid[0]}x{grid[1]}"
