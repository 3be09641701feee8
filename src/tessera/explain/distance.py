"""How far attention looks, block by block and head by head."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tessera.config import HIERARCHICAL
from tessera.explain.attention import watched
from tessera.explain.question import token_grid
from tessera.models.vit import ViT


def attention_distance(
    a: Float[Tensor, "b heads n n"], grid: tuple[int, int], patch_size: int
) -> Float[Tensor, "b heads"]:
    """Return the mean distance of what patches look at, in pixels, weighted by attention.

    Dosovitskiy et al. (2020), section D.7: for each query patch the distances of the key patches,
    weighted by their attention, and the mean of that over queries. Distances are between centres.

    Args:
        a: From patches to patches, rows summing to 1.
    """
    rows, columns = (torch.arange(side, device=a.device) for side in grid)
    centres = torch.cartesian_prod(rows, columns).to(a.dtype) * patch_size
    between = torch.cdist(centres, centres)  # n n
    return (a * between).sum(dim=-1).mean(dim=-1)


@torch.no_grad()
def distances(
    model: ViT, images: Sequence[Float[Tensor, "1 c h w"]]
) -> Float[Tensor, "depth heads"]:
    """Return the attention distance of every head, the mean over images, in input pixels.

    Attention to class, distillation and register tokens has no distance; what is left is
    rescaled to rows that sum to 1.

    Raises:
        ValueError: The model has no encoder, or there are no images.
    """
    if model.config.depth == 0:
        kind = model.config.patch_embed
        inside = f"{kind} attends inside of windows, whose distances are not measured"
        none = "the model has no encoder, so it has no attention over patches"
        raise ValueError(inside if kind in HIERARCHICAL else none)
    if not images:
        raise ValueError("attention distance is measured on images, and none were given")
    total: dict[int, Tensor] = {}
    for image in images:
        grid = token_grid(model, image)
        count = grid[0] * grid[1]

        def keep(block: int, a: Tensor, count: int = count, grid: tuple[int, int] = grid) -> None:
            own = a[:, :, -count:, -count:].float()
            own = own / own.sum(dim=-1, keepdim=True).clamp(min=1e-30)
            found = attention_distance(own, grid, model.config.patch_size)[0]
            total[block] = total.get(block, torch.zeros_like(found)) + found

        with watched(model, keep, range(model.config.depth)):
            model.forward_features(image)
    return torch.stack([total[i] for i in sorted(total)]).cpu() / len(images)
