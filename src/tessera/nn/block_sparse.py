"""Attention patterns through torch's flex_attention, which skips what nobody may look at.

It skips blocks of 128 x 128 pairs. In raster order a column or a tile touches nearly all of them,
so the tokens are first put into an order in which those that see each other are neighbours, and put
back afterwards; that is exact.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from tessera.nn.attention_masks import (
    PATTERNS,
    Place,
    Sees,
    TokenGrid,
    mask_of_block,
    may_look,
    same_column,
    shifted_tile,
    shifted_window,
    summary,
    tile,
    window,
)
from tessera.nn.remember import remembered

KERNELS = 128
"""As many are compiled in a process."""


class Blocks(NamedTuple):
    """Which blocks of pairs are computed, and in which order the tokens stand for that."""

    mask: BlockMask
    order: Int[Tensor, "h t"] | None
    """Numbers of the tokens, for each head or one row for all; None is as they are."""


def by_columns(at: Place, tokens: TokenGrid) -> Place:
    """Column by column."""
    return Place(at.col, at.row)


ORDERS: dict[Sees, Callable[[Place, TokenGrid], Place]] = {
    window: tile,
    shifted_window: shifted_tile,
    same_column: by_columns,
    summary: by_columns,
}
"""What patches are sorted by, first its row, then its column; all others stay in raster order,
which suits rows, and windows around each patch."""


def block_mask(name: str, block: int, tokens: TokenGrid, device: torch.device) -> Blocks | None:
    """Return who may look at whom in block number ``block``, in blocks; None where all may."""
    chosen = mask_of_block(name, block)
    return _blocks(name, chosen, tokens, device) if PATTERNS[name].masks else None


def block_sparse_attention(
    q: Float[Tensor, "b h t e"],
    k: Float[Tensor, "b h t e"],
    v: Float[Tensor, "b h t e"],
    blocks: Blocks,
    bias: Float[Tensor, "#b h t t"] | None,
) -> Float[Tensor, "b h t e"]:
    """Attend where the mask allows, with numbers to add to the logits."""
    run: Any = flex_attention if torch.compiler.is_compiling() else fused()
    mask, order = blocks
    if order is not None:
        rows = order[None, :, :, None]
        q, k, v = (x.take_along_dim(rows, dim=2) for x in (q, k, v))
    if bias is None:
        x = run(q, k, v, block_mask=mask)
    else:
        if order is not None:
            bias = bias.take_along_dim(rows, dim=2).take_along_dim(order[None, :, None], dim=3)
        x = run(q, k, v, _adding(bias), block_mask=mask)
    if order is None:
        return x
    return x.take_along_dim(order.argsort(dim=1)[None, :, :, None], dim=2)


@cache
def fused() -> Callable[..., Any]:
    """Return the compiled kernel; compiling takes seconds for each mask and size.

    For more masks and sizes than torch's limit of 8 it would run, slowly, what was not compiled.
    """
    compiled = torch.compile(flex_attention)

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch._dynamo.config.patch(recompile_limit=KERNELS):
            return compiled(*args, **kwargs)

    return run


def _adding(bias: Tensor) -> Callable[..., Tensor]:
    """Return what adds a number to the logit of every pair."""
    if bias.shape[0] == 1:
        return lambda s, b, h, i, j: s + bias[0, h, i, j]
    return lambda s, b, h, i, j: s + bias[b, h, i, j]


@remembered
def _blocks(name: str, chosen: int, tokens: TokenGrid, device: torch.device) -> Blocks:
    count = tokens.specials + tokens.grid[0] * tokens.grid[1]
    heads = tokens.num_heads if PATTERNS[name].by == "heads" else None
    order = _order(name, chosen, tokens, device)

    def sees(h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if order is not None:
            row = h if heads else h * 0
            i, j = order[row, i], order[row, j]
        return may_look(name, chosen, tokens, h, i, j)

    mask = create_block_mask(
        lambda b, h, i, j: sees(h, i, j), None, heads, count, count, device=str(device)
    )
    return Blocks(mask, order)


def _order(
    name: str, chosen: int, tokens: TokenGrid, device: torch.device
) -> Int[Tensor, "h t"] | None:
    """The order of the tokens that the masks ask for; special tokens stay first."""
    masks, by = PATTERNS[name]
    if by == "blocks":
        rows = [_sorted(masks[chosen], tokens, device)]
    else:
        first = (tokens.num_heads + 1) // 2
        shares = zip(masks, (first, tokens.num_heads - first), strict=True)
        rows = [_sorted(mask, tokens, device) for mask, count in shares for _ in range(count)]
    order = torch.stack(rows)
    return None if (order.diff(dim=1) == 1).all() else order


def _sorted(mask: Sees, tokens: TokenGrid, device: torch.device) -> Int[Tensor, " t"]:
    (height, width), specials = tokens.grid, tokens.specials
    numbers = torch.arange(height * width, device=device)
    if mask in ORDERS:
        row, col = ORDERS[mask](Place(numbers // width, numbers % width), tokens)
        numbers = (row * max(height, width) + col).argsort(stable=True)
    return torch.cat([torch.arange(specials, device=device), specials + numbers])
