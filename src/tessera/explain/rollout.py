"""Attention followed through all blocks, back to the patches that it came from."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from tessera.explain.attention import read_weights, watched
from tessera.explain.question import Question, of_target, on_grid, token_grid
from tessera.models.vit import Tokens, ViT


@torch.no_grad()
def rollout(
    model: ViT, image: Float[Tensor, "1 c h w"], question: Question
) -> Float[Tensor, "rows columns"]:
    """Return attention rollout: Abnar and Zuidema (2020); Dosovitskiy et al. (2020), section D.8.

    Per block the mean A of the heads, with the residual as (A + I) / 2, multiplied over all blocks;
    of the product, the row that the head reads. Knows no class.
    """
    means: dict[int, Tensor] = {}
    pools: list[Tensor] = []

    def keep(number: int, weights: Tensor) -> None:
        if number == model.config.depth:
            pools.append(weights)
        else:
            means[number] = weights[0].mean(dim=0)

    with watched(model, keep):
        tokens = model.forward_features(image)
        model.pool(tokens)
    question.on_batch(1)
    start = read_weights(model, tokens, pools[0] if pools else None)[0]
    row = rolled(start, [means[i] for i in sorted(means)])
    return on_grid(row[-tokens.patches.shape[1] :], token_grid(model, image))


def rolled(
    start: Float[Tensor, " t"], attention: Sequence[Float[Tensor, "t t"]]
) -> Float[Tensor, " t"]:
    """Return start (A_L + I)/2 ... (A_1 + I)/2, from the last block to the first."""
    row = start
    for a in reversed(attention):
        row = (row @ a + row) / 2
    return row


def gradient_rollout(
    model: ViT, image: Float[Tensor, "1 c h w"], question: Question
) -> Float[Tensor, "rows columns"]:
    """Return rollout through the attention that speaks for the target.

    A is replaced by mean_h max(0, dy/dA * A), its rows normalised to 1; a row without any such
    weight keeps its token. After Gildenblat (2020), vit-explain, which weights so without
    normalising, and lets the residual of 1 drown gradients that are small.
    """
    weighted, start, count = _weighted(model, image, question)
    identity = torch.eye(start.shape[0], device=start.device)
    normalised = [
        torch.where(
            (total := a.sum(dim=-1, keepdim=True)) > 0, a / total.clamp(min=1e-30), identity
        )
        for a in weighted
    ]
    return on_grid(rolled(start, normalised)[-count:], token_grid(model, image))


def relevance(
    model: ViT, image: Float[Tensor, "1 c h w"], question: Question
) -> Float[Tensor, "rows columns"]:
    """Return relevance: Chefer et al. (2021), "Generic attention-model explainability", eq. 5, 6.

    R begins as the identity; each block makes R + mean_h max(0, dy/dA * A) R of it. Of R, the row
    that the head reads; an attention pool is read by its own weights, treated like A.
    """
    weighted, start, count = _weighted(model, image, question)
    row = start
    for a in reversed(weighted):
        row = row + row @ a
    return on_grid(row[-count:], token_grid(model, image))


def _weighted(model: ViT, image: Tensor, question: Question) -> tuple[list[Tensor], Tensor, int]:
    """mean_h max(0, dy/dA * A) of every block, the row that is read, and the number of patches."""
    found: dict[int, Tensor] = {}
    seen: list[Tokens] = []
    with torch.enable_grad(), watched(model, found.__setitem__):
        seen.append(model.forward_features(image.detach().clone().requires_grad_()))
        y = of_target(model.forward_head(seen[0]), question).sum()
        numbers = sorted(found)
        gradients = torch.autograd.grad(y, [found[i] for i in numbers])
    question.on_batch(3)
    weighted = [
        (gradient * found[i].detach()).clamp(min=0)[0].mean(dim=0)
        for i, gradient in zip(numbers, gradients, strict=True)
    ]
    count, pool = seen[0].patches.shape[1], None
    if numbers[-1] == model.config.depth:
        pool = weighted.pop()[None, None]
    return weighted, read_weights(model, seen[0], pool)[0].detach(), count
