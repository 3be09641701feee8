"""What a model itself says about where it looks, for occlusion that follows it."""

from jaxtyping import Float
from torch import Tensor

from tessera.config import NETWORKS, ViTConfig
from tessera.models.vit import ViT
from tessera.nn.patch_embed import grid_of
from tessera.robustness.cells import Grid

SOURCES = {
    "cls": "attention of the class token in the last block",
    "map": "weights of the attention pooling",
    "seq": "weights of the sequence pooling",
}
"""What tells about the patches, by how the model pools them."""


def salience_source(config: ViTConfig) -> str | None:
    """Name what a model tells about its patches; None where it tells nothing.

    Naseer et al. (2021) take what the class token of DINO's S/16 attends to in the last block, one
    head of it. A model whose answer does not come from a class token may still weigh its patches
    when it pools them; the mean over patches weighs all alike, and a network of convolutions has no
    tokens at all.
    """
    return None if config.patch_embed in NETWORKS else SOURCES.get(config.pool)


def require_salience(config: ViTConfig, name: str) -> None:
    """Refuse a model that tells nothing about its patches.

    Raises:
        ValueError: It does not.
    """
    if salience_source(config) is None:
        raise ValueError(
            f"{name} answers from neither a class token nor a weighted pooling, so it does not say "
            "what is salient\nhint: name a model with a class token"
        )


def salience(
    model: ViT, images: Float[Tensor, "b c h w"], *, head: int | None = None
) -> tuple[Float[Tensor, "b n"], Grid]:
    """Return how much a model looks at each patch, and the grid of the patches.

    Args:
        images: Normalised as the model wants them.
        head: Of the attention, counted from 0; None is the mean over the heads.

    Raises:
        ValueError: The model has no such head, or tells nothing about its patches.
    """
    config = model.config
    if salience_source(config) is None:
        raise ValueError(
            "a model that answers from neither a class token nor a weighted pooling has no salience"
        )
    grid = grid_of(images, config.patch_size)
    patches = grid[0] * grid[1]
    if config.pool == "cls":
        (weights,) = model.attention_weights(images, [-1])
        mass = weights[:, :, 0, -patches:]  # b heads n
    elif config.pool == "map":
        mass = model.attn_pool.weights(model.forward_features(images).patches)
    else:
        mass = model.seq_pool.weights(model.forward_features(images).patches)[:, None]
    if head is None:
        return mass.mean(dim=1), grid
    if not 0 <= head < mass.shape[1]:
        raise ValueError(
            f"head {head} is not in a model of {mass.shape[1]} heads\n"
            f"hint: 0 to {mass.shape[1] - 1}, or leave it out for their mean"
        )
    return mass[:, head], grid
