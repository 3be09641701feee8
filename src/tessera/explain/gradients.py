"""What a small change would do: Grad-CAM on tokens, and integrated gradients on pixels."""

from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tessera.explain.question import Question, of_target, on_grid, output, token_grid
from tessera.models.vit import ViT
from tessera.nn.block import Block


def grad_cam(
    model: ViT, image: Float[Tensor, "1 c h w"], question: Question
) -> Float[Tensor, "r c"]:
    """Return Grad-CAM: Selvaraju et al. (2017), equations 1 and 2, with patches for pixels.

    max(0, sum_d a_d x_d), where x are the patch tokens and a the mean over patches of dy/dx: of the
    tokens that attention gets in the last block, or in ``block``; in a network without an encoder,
    of its last features.

    Raises:
        ValueError: No such block.
    """
    x, gradient = token_gradients(model, image, question)
    values = (x * gradient.mean(dim=0)).sum(dim=-1).clamp(min=0)
    return on_grid(values, token_grid(model, image))


def token_gradients(
    model: ViT, image: Float[Tensor, "1 c h w"], question: Question
) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
    """Return the patch tokens that Grad-CAM looks at, and the target's gradient there."""
    seen: list[Tensor] = []

    def hook(module: nn.Module, args: Any, made: Tensor) -> None:
        seen.append(made)

    handle = _place(model, question.block).register_forward_hook(hook)
    try:
        with torch.enable_grad():
            tokens = model.forward_features(image.detach().clone().requires_grad_())
            y = of_target(model.forward_head(tokens), question).sum()
            (gradient,) = torch.autograd.grad(y, seen)
    finally:
        handle.remove()
    count = tokens.patches.shape[1]
    return seen[0].detach()[0, -count:], gradient[0, -count:]


def _place(model: ViT, block: int | None) -> nn.Module:
    depth = model.config.depth
    if depth == 0:
        return model.patch_embed
    index = depth - 1 if block is None else block
    if not -depth <= index < depth:
        raise ValueError(f"block {block} is not in a model of depth {depth}")
    return cast(Block, model.blocks[index]).norm1


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
        question.on_batch(len(part))
    return (image * total / question.steps)[0].sum(dim=0)
