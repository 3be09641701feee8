"""What a map is asked for: of which class, in which block, with how much work."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from tessera.models.vit import ViT
from tessera.nn.patch_embed import Grid, grid_of


@dataclass(frozen=True, kw_only=True)
class Question:
    """What a method is asked about one image."""

    target: int | None = None
    """Number of the class, or of the output; None in a model without a head."""
    task: Literal["classify", "multilabel", "regress"] = "classify"
    temperature: float = 1.0
    """Divides the logits of classes before they become probabilities, as the model's calibration
    says."""
    block: int | None = None
    """Which block, counted from 0 through all stages, negative from the end; None is what the
    method says."""
    head: int | None = None
    """Which attention head; None is the mean of all."""
    steps: int = 32
    """Points between the baseline and the image, in integrated gradients."""
    batch_size: int = 16
    """Images per forward pass, where a method needs many."""
    on_batch: Callable[[int], None] = lambda images: None
    """Told how many forward passes of one image were made, where a method needs many."""


def output(model: ViT, images: Float[Tensor, "b c h w"], question: Question) -> Float[Tensor, " b"]:
    """Return the target's logit, or the number that a regression answers."""
    return of_target(model(images), question)


def of_target(logits: Float[Tensor, "b k"], question: Question) -> Float[Tensor, " b"]:
    """Pick the target's column."""
    if question.target is None:
        raise ValueError(
            "the model has no head, so no class can be explained\n"
            "hint: attention, rollout and pca need none"
        )
    return logits[:, question.target]


@torch.inference_mode()
def answer(model: ViT, images: Float[Tensor, "b c h w"], question: Question) -> Float[Tensor, " b"]:
    """Return the target's probability, or the number that a regression answers."""
    parts = []
    for batch in images.split(question.batch_size):
        logits = model(batch).float()
        match question.task:
            case "classify":
                logits = (logits / question.temperature).softmax(dim=-1)
            case "multilabel":
                logits = logits.sigmoid()
        parts.append(of_target(logits, question))
        question.on_batch(len(batch))
    return torch.cat(parts)


def block_number(model: ViT, block: int | None) -> int:
    """Return the number of a block, counted from 0; None is the last one.

    Blocks of Swin and Hiera are counted through all stages.

    Raises:
        ValueError: No such block.
    """
    count = model.config.num_layers
    index = count - 1 if block is None else block
    if not -count <= index < count:
        raise ValueError(f"block {block} is not in a model of depth {count}")
    return index % count


def token_grid(model: ViT, image: Float[Tensor, "b c h w"]) -> Grid:
    """Return the rows and columns of tokens that an image becomes: those that the head reads.

    In Swin and Hiera these are the tokens of the last stage, whose grid is the coarsest.
    """
    return grid_of(image, model.config.patch_size)


def on_grid(values: Float[Tensor, " n"], grid: Grid) -> Float[Tensor, "rows columns"]:
    """Lay out one value a patch, in raster order."""
    return values.reshape(grid)
