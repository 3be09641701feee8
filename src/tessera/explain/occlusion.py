"""What happens when a part of the image is covered."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from tessera.explain.question import Question, output, token_grid
from tessera.models.vit import ViT

WINDOWS = 14
"""Windows along the longer side, at most."""


@torch.inference_mode()
def occlusion(
    model: ViT, image: Float[Tensor, "1 c h w"], question: Question
) -> Float[Tensor, "rows columns"]:
    """Return by how much the target's logit falls when a window is covered by the mean colour.

    Zeiler and Fergus (2014), section 4.2, with windows of whole patches side by side: one patch, or
    as many as leave 14 windows along the longer side. One forward pass a window.
    """
    grid, patch = token_grid(model, image), model.config.patch_size
    side = window(grid)
    places = [(r, c) for r in range(0, grid[0], side) for c in range(0, grid[1], side)]
    found = torch.zeros(grid, device=image.device)
    whole = output(model, image, question)[0]
    question.on_batch(1)
    for start in range(0, len(places), question.batch_size):
        part = places[start : start + question.batch_size]
        covered = image.repeat(len(part), 1, 1, 1)
        for one, (row, column) in zip(covered, part):
            y, x = row * patch, column * patch
            one[:, y : y + side * patch, x : x + side * patch] = 0
        for (row, column), y in zip(part, output(model, covered, question)):
            found[row : row + side, column : column + side] = whole - y
        question.on_batch(len(part))
    return found


def window(grid: tuple[int, int]) -> int:
    """Return the side of a window in patches."""
    return math.ceil(max(grid) / WINDOWS)


def windows(grid: tuple[int, int]) -> int:
    """Return how many windows cover a grid."""
    side = window(grid)
    return math.ceil(grid[0] / side) * math.ceil(grid[1] / side)
