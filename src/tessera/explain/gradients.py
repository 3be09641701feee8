"""What a small change would do: Grad-CAM on tokens, and integrated gradients on pixels."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tessera.explain.attention import watched
from tessera.explain.question import (
    Question,
    block_number,
    of_target,
    on_grid,
    output,
    token_grid,
)
from tessera.models.vit import ViT
from tessera.nn.stages import Stages


def grad_cam(
    model: ViT, image: Float[Tensor, "1 c h w"], question: Question
) -> Float[Tensor, "rows columns"]:
    """Return Grad-CAM: Selvaraju et al. (2017), equations 1 and 2, on what the head sums.

    max(0, sum_d a_d x_nd), where a is the mean over patches of dy/dx. With a mean of the patches,
    x are the last tokens, or those after ``block``. A class token sums values, so there x_n is
    A_n v_n, in all heads: what patch n adds to it in the last block, or in ``block``; then a x_n is
    A_n dy/dA_n. The same for an attention pool. One block alone is seen: what an earlier one told
    the class token is not.

    Raises:
        ValueError: No such block.
    """
    pooled = model.config.depth == 0 or model.config.pool == "avg"
    values = _of_tokens(model, image, question) if pooled else _of_sums(model, image, question)
    rows, columns = token_grid(model, image)
    finer = math.isqrt(len(values) // (rows * columns))  # more than 1 in early stages of Swin
    return on_grid(values.clamp(min=0), (rows * finer, columns * finer))


def _of_tokens(model: ViT, image: Tensor, question: Question) -> Float[Tensor, " n"]:
    """A x_n of the tokens after a block, or of the last features."""
    depth, seen = model.config.depth, list[Tensor]()

    def hook(module: nn.Module, args: Any, made: Tensor) -> None:
        seen.append(made)

    place: nn.Module = model.patch_embed
    if depth:
        place = model.blocks[block_number(model, question.block)]
    elif question.block is not None and isinstance(model.patch_embed, Stages):
        place = model.patch_embed.blocks[block_number(model, question.block)]
    handle = place.register_forward_hook(hook)
    try:
        with torch.enable_grad():
            tokens = model.forward_features(image.detach().clone().requires_grad_())
            y = of_target(model.forward_head(tokens), question).sum()
            (gradient,) = torch.autograd.grad(y, seen)
            question.on_batch(3)
    finally:
        handle.remove()
    specials = seen[0].shape[1] - tokens.patches.shape[1] if depth else 0
    x, slope = seen[0].detach()[0, specials:], gradient[0, specials:].mean(dim=0)
    return (x * slope).sum(dim=-1)


def _of_sums(model: ViT, image: Tensor, question: Question) -> Float[Tensor, " n"]:
    """A x_n of what patches add to the class token, or to the pool."""
    c, found = model.config, dict[int, Tensor]()
    own = c.pool in ("map", "seq") and question.block is None
    block = c.depth if own else block_number(model, question.block)
    with torch.enable_grad(), watched(model, found.__setitem__, {block}):
        tokens = model.forward_features(image.detach().clone().requires_grad_())
        y = of_target(model.forward_head(tokens), question).sum()
        (gradient,) = torch.autograd.grad(y, [found[block]])
    question.on_batch(3)
    added = (found[block].detach() * gradient)[0].sum(dim=0)  # n of the pool, t t of a block
    if added.ndim == 2:
        special = c.pool == "cls"
        rows = added[: c.positioned_prefix] if special else added[-tokens.patches.shape[1] :]
        added = rows.sum(dim=0)
    return added[-tokens.patches.shape[1] :]


def integrated_gradients(
    model: ViT, image: Float[Tensor, "1 c h w"], question: Question
) -> Float[Tensor, "h w"]:
    """Return integrated gradients: Sundararajan et al. (2017), equation 1, channels summed.

    The baseline is the mean colour, 0 after normalisation; the integral is the midpoint rule
    with ``steps`` points. Signed: what speaks against the target is below 0. All values sum to
    y(image) - y(baseline), but for what the rule misses.
    """
    total = torch.zeros_like(image)
    points = (torch.arange(question.steps, device=image.device) + 0.5) / question.steps
    for part in points.to(image.dtype).split(question.batch_size):
        scaled = (part.view(-1, 1, 1, 1) * image).requires_grad_()
        with torch.enable_grad():
            y = output(model, scaled, question).sum()
            (gradient,) = torch.autograd.grad(y, scaled)
        total += gradient.sum(dim=0, keepdim=True)
        question.on_batch(3 * len(part))
    return (image * total / question.steps)[0].sum(dim=0)


@torch.inference_mode()
def shortfall(
    model: ViT,
    image: Float[Tensor, "1 c h w"],
    values: Float[Tensor, "h w"],
    question: Question,
) -> float:
    """Return by which share integrated gradients miss y(image) - y(baseline), which they sum to.

    Sundararajan et al. (2017), section 3, completeness. Small where the gradients were smooth; 1
    where the answer jumps between points, as behind a norm of the image, which undoes scaling.
    """
    ends = output(model, torch.cat([image, torch.zeros_like(image)]), question)
    change = float(ends[0] - ends[1])
    return abs(float(values.sum()) - change) / max(abs(change), 1e-6)
