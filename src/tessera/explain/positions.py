"""How alike positions are to a model, under every scheme for which that means something."""

from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tessera.config import HIERARCHICAL
from tessera.models.vit import ViT
from tessera.nn.block import Block
from tessera.nn.positions.base import NoPosEmbed, Relative, Rotation


class PositionSimilarity(NamedTuple):
    """A number for every pair of patches at the model's own grid."""

    values: Float[Tensor, "n n"]
    grid: tuple[int, int]
    meaning: str


@torch.no_grad()
def position_similarity(model: ViT) -> PositionSimilarity:
    """Return how alike the positions of patches are: Dosovitskiy et al. (2020), Figure 7, centre.

    Cosine similarity of what is added to the patches; for rotary schemes the factor that a turn
    leaves of the product of a query and an equal key, the mean over channels and heads; for
    relative schemes the number added to the logit, the mean over heads.

    Raises:
        ValueError: The scheme has no positions, or its terms depend on what the patches hold.
    """
    c = model.config
    scheme, where = model.pos_embed, ""
    if c.place == "every":
        own = cast(Block, model.blocks[0]).pos_embed
        assert own is not None
        scheme, where = own, ", in the first block"
    if isinstance(scheme, NoPosEmbed):
        inside = c.patch_embed in HIERARCHICAL
        where = f"positions of {c.patch_embed} are inside of its stages, and are not shown"
        raise ValueError(where if inside else "the model has no positions")
    device, count = next(model.parameters()).device, c.grid[0] * c.grid[1]
    rows = scheme.rows(c.grid, device)
    if rows is not None:
        unit = F.normalize(rows[-count:].float(), dim=-1)
        meaning = f"cosine similarity of position embeddings{where}"
        return PositionSimilarity((unit @ unit.T).cpu(), c.grid, meaning)
    rotation = scheme.rotation(c.grid, device)
    if rotation is not None:
        meaning = f"what a turn leaves of q k for equal q and k{where}"
        return PositionSimilarity(_turned(rotation).cpu(), c.grid, meaning)
    values = _biases(scheme.relative(c.grid, device), count)
    meaning = f"number added to the attention logit, mean of the heads{where}"
    return PositionSimilarity(values.cpu(), c.grid, meaning)


def _turned(rotation: Rotation) -> Float[Tensor, "n n"]:
    """The mean over channels of cos(angle_i - angle_j)."""
    cos, sin = rotation.cos.float(), rotation.sin.float()
    found = (cos @ cos.mT + sin @ sin.mT) / cos.shape[-1]
    return found if found.ndim == 2 else found.flatten(0, -3).mean(dim=0)


def _biases(relative: Relative | None, count: int) -> Float[Tensor, "n n"]:
    if relative is None or relative.bias is None:
        raise ValueError("the terms of this position scheme depend on what the patches hold")
    return relative.bias.float().mean(dim=0)[relative.pairs][-count:, -count:]
