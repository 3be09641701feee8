"""Changes that turn a recipe's Vision Transformer into another network of like size."""

from collections.abc import Callable, Sequence
from typing import Any

from tessera.config import ViTConfig
from tessera.studies.design import Base, Variant

ENCODER = (
    *("embed_dim", "depth", "num_heads", "head_dim", "mlp_dim", "patch_size", "cls_token"),
    *("dist_token", "dist_head", "num_registers", "pos_embed", "pos_place", "pos_clip"),
    *("rope_theta", "embed_norm", "pool", "final_norm", "representation_dim", "attention"),
    *("attention_window", "drop_path_rate", "drop_path_rule", "drop_path_kind", "drop_rate"),
)
"""Fields of an encoder, of which a network without one knows nothing or something else."""


def without_encoder(base: Base, model: str) -> dict[str, Any]:
    """Return the changes to a network of another kind, which undo what the recipe says of one."""
    undone: dict[str, Any] = {f"arch.{name}": "none" for name in ENCODER}
    return {"model": model, **undone, "arch.img_size": base.config.img_size, "arch.drop_rate": 0.0}


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
