"""Attention while a model runs: exact weights, as part of the graph, of the blocks asked for."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tessera.explain.question import Question, on_grid, token_grid
from tessera.models.vit import Tokens, ViT
from tessera.nn.attention import Attention
from tessera.nn.block import Block
from tessera.nn.pool import AttentionPool, SeqPool

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

    Raises:
        ValueError: No such block or head.
    """
    c, found = model.config, dict[int, Tensor]()
    pooled = c.pool in ("map", "seq")
    block = _numbered(model, question.block)
    if block is None:
        block = c.depth if pooled else c.depth - 1
    with watched(model, found.__setitem__, {block, c.depth}):
        tokens = model.forward_features(image)
        model.pool(tokens)
    question.on_batch(1)
    a = found[block][0]
    if question.head is not None and not 0 <= question.head < len(a):
        raise ValueError(f"head {question.head} is not in an attention of {len(a)} heads from 0")
    a = a.mean(dim=0) if question.head is None else a[question.head]
    if block < c.depth:
        a = (read_weights(model, tokens, found.get(c.depth))[0] @ a)[-tokens.patches.shape[1] :]
    return on_grid(a, token_grid(model, image))


def _numbered(model: ViT, block: int | None) -> int | None:
    if block is None:
        return None
    depth = model.config.depth
    if not -depth <= block < depth:
        raise ValueError(f"block {block} is not in a model of depth {depth}")
    return block % depth
