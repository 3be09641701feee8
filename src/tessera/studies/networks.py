"""Changes that turn a recipe's Vision Transformer into another network of like size."""

from collections.abc import Callable, Sequence
from typing import Any

from tessera.config import ViTConfig
from tessera.studies.design import Base, Variant

WITHOUT_ENCODER: dict[str, Any] = {
    f"arch.{name}": "none"
    for name in (
        *("embed_dim", "depth", "num_heads", "head_dim", "mlp_dim", "patch_size"),
        *("pos_place", "pos_clip", "rope_theta", "embed_norm", "representation_dim"),
        *("dist_token", "dist_head", "num_registers", "attention", "attention_window"),
    )
} | {
    "arch.depth": 0,
    "arch.num_heads": 1,
    "arch.mlp_dim": 1,
    "arch.cls_token": False,
    "arch.pos_embed": "none",
    "arch.pool": "avg",
    "arch.final_norm": "none",
}
"""Undoes what a recipe says of an encoder; the network's own width and stride follow."""


def build_config(base: Base, changes: dict[str, Any]) -> ViTConfig | None:
    """Return the model of these changes; None where the numbers do not fit together."""
    try:
        return Variant(name="", changes=changes).config(base.recipe, base.config.num_classes)
    except ValueError:
        return None


def nearest(
    candidates: Sequence[tuple[dict[str, Any], ViTConfig]],
    base: Base,
    count: Callable[[ViTConfig], int],
) -> dict[str, Any]:
    """Return the changes whose model is nearest in parameters to the recipe's own.

    Raises:
        ValueError: There is no candidate.
    """
    if not candidates:
        height, width = base.config.image_shape
        raise ValueError(
            f"no other network fits images of {height}x{width} pixels\n"
            "hint: a side that is a multiple of 16, such as --arch.img-size 32"
        )
    wanted = count(base.config)
    return min(candidates, key=lambda pair: abs(count(pair[1]) - wanted))[0]
