"""Attention while a model runs: exact weights, as part of the graph, of the blocks asked for."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tessera.explain.question import Question, block_number, on_grid, token_grid
from tessera.models.vit import Tokens, ViT
from tessera.nn.attention import Attention
from tessera.nn.block import Block
from tessera.nn.patch_embed import Grid
from tessera.nn.pool import AttentionPool, SeqPool
from tessera.nn.stages import Stages
from tessera.nn.windows import Tiling

Keep = Callable[[int, Tensor], None]
"""Gets the number of a block and its A, ``b heads t t``; the pool has the number ``depth``, and its
weights are ``b heads n``."""


@contextmanager
def watched(model: ViT, keep: Keep, blocks: Collection[int] | None = None) -> Iterator[None]:
    """Run some blocks by A itself, and hand it out; the answer is the same up to rounding.

    The other blocks keep the fused kernel. A is what the output is made with, so gradients of the
    output with respect to it exist.

    Args:
        blocks: Which blocks, counted from 0, and ``depth`` for the pool; None is all.
    """

    def look(number: int) -> Callable[..., Any]:
        def hook(
            module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], done: Any
        ) -> Tensor:
            assert isinstance(module, Attention | AttentionPool | SeqPool)
            answer, weights = module.attend(*args, **kwargs)
            keep(number, weights)
            return answer

        return hook

    wanted = range(model.config.depth + 1) if blocks is None else blocks
    layers = cast(list[Block], list(model.blocks))
    parts: dict[int, nn.Module] = {i: block.attn for i, block in enumerate(layers)}
    if model.config.pool in ("map", "seq"):
        parts[model.config.depth] = (
            model.attn_pool if model.config.pool == "map" else model.seq_pool
        )
    handles = [
        parts[number].register_forward_hook(look(number), with_kwargs=True)
        for number in wanted
        if number in parts
    ]
    sparse, model.block_sparse = model.block_sparse, False  # masks of pairs, not of blocks
    try:
        yield
    finally:
        model.block_sparse = sparse
        for handle in handles:
            handle.remove()


def read_weights(
    model: ViT, tokens: Tokens, pool: Float[Tensor, "b heads n"] | None
) -> Float[Tensor, "b t"]:
    """Return with which weights the head reads the last tokens; they sum to 1.

    All on the class token; the same on every patch; or what the attention pool says, as the mean of
    its heads. A model with two heads reads class and distillation token alike.

    Args:
        pool: Weights of the pool, in a model that has one.
    """
    c, (batch, patches) = model.config, tokens.patches.shape[:2]
    specials = c.positioned_prefix + c.num_registers
    weights = tokens.patches.new_zeros(batch, specials + patches)
    if c.pool == "cls":
        read = c.positioned_prefix if c.dist_head else 1
        weights[:, :read] = 1 / read
    elif pool is None:
        weights[:, specials:] = 1 / patches
    else:
        weights[:, specials:] = pool.detach().mean(dim=1)
    return weights


@torch.no_grad()
def attention(
    model: ViT, image: Float[Tensor, "1 c h w"], question: Question
) -> Float[Tensor, "rows columns"]:
    """Return how much the tokens that the head reads look at each patch, in one block.

    Without ``block``, the weights with which an attention pool reads the patches, and in a model
    without such a pool the last block. Without ``head``, the mean of the heads.

    Swin and Hiera have blocks on grids of several sizes, and the map has the grid of the tokens
    that the block looks at. Their head reads the mean of all tokens, so each token gets the mean
    over all that look; see ``received``.

    Raises:
        ValueError: No such block or head.
    """
    c, found = model.config, dict[int, Tensor]()
    if isinstance(model.patch_embed, Stages):
        question.on_batch(1)
        (looked,) = model.patch_embed.look(image, [block_number(model, question.block)])
        a = _of_head(looked.weights[0].transpose(0, 1), question.head)
        return on_grid(received(a, looked.tiling), looked.tiling.grid)
    pooled = c.pool in ("map", "seq") and question.block is None
    block = c.depth if pooled else block_number(model, question.block)
    with watched(model, found.__setitem__, {block, c.depth}):
        tokens = model.forward_features(image)
        model.pool(tokens)
    question.on_batch(1)
    a = _of_head(found[block][0], question.head)
    if block < c.depth:
        a = (read_weights(model, tokens, found.get(c.depth))[0] @ a)[-tokens.patches.shape[1] :]
    return on_grid(a, token_grid(model, image))


def has_places(model: ViT, grid: Grid, block: int | None) -> bool:
    """Whether all places of the map can be compared: not if the block looks inside of windows.

    Args:
        grid: Of the tokens that the head reads.
    """
    if not isinstance(model.patch_embed, Stages):
        return True
    tiling = model.patch_embed.tiling_of(block_number(model, block), grid)
    return tiling.window == tiling.grid


def heads_of(model: ViT, block: int | None) -> int:
    """Return how many heads ``attention`` chooses from.

    Raises:
        ValueError: No such block.
    """
    pool = model.config.pool if block is None else ""
    if pool in ("map", "seq"):
        return model.config.num_heads if pool == "map" else 1
    network = model.patch_embed if isinstance(model.patch_embed, Stages) else model
    blocks: list[Any] = list(network.blocks)
    return int(blocks[block_number(model, block)].attn.num_heads)


def received(a: Float[Tensor, "w q k"], tiling: Tiling) -> Float[Tensor, " n"]:
    """Return how much every token is looked at, as a mean over all tokens that look.

    A token looks at nothing outside of its window, so every window gets the share that its tokens
    are of all, and only values inside of one window can be compared; in a shifted window at the
    border, each part that came from another side is a window of its own. The map sums to 1. Where
    windows are padded, padding does not count as a token that looks, and the weight that tokens
    give to padding is cut off: then the map sums to less.

    Args:
        a: Attention in every window, rows summing to 1.
        tiling: Where the keys are.

    Returns:
        One number a token, in raster order of the tiling's grid.
    """
    queries = a.shape[0] * a.shape[1]
    if tiling.padded != tiling.grid:
        queries = tiling.grid[0] * tiling.grid[1]
        a = a * tiling.cut(a.new_ones(1, queries, 1))[0]  # w q 1, 0 on padding
    total = a.sum(dim=1)[None, :, :, None]  # 1 w k 1
    return tiling.glue(total)[0, :, 0] / queries


def _of_head(a: Float[Tensor, "heads *s"], head: int | None) -> Float[Tensor, "*s"]:
    if head is None:
        return a.mean(dim=0)
    check_head(head, len(a))
    return a[head]


def check_head(head: int, heads: int) -> None:
    """Refuse a head that is not there.

    Raises:
        ValueError: No such head.
    """
    if not 0 <= head < heads:
        raise ValueError(f"head {head} is not in an attention of {heads} heads from 0")
