"""Attention patterns: which patch may look at which, by row and column.

A pattern is one function or two of the places of both patches; two take turns from block to block,
or share the heads. Class, distillation and register tokens look at all and are looked at by all.
The same function makes a dense mask, the reference, and the blocks of ``nn.block_sparse``.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import torch
from jaxtyping import Bool
from torch import Tensor

from tessera.nn.patch_embed import Grid
from tessera.nn.remember import remembered


class Place(NamedTuple):
    """Row and column of a patch, or of many that broadcast with others."""

    row: Tensor
    col: Tensor


class TokenGrid(NamedTuple):
    """What a mask depends on beside its pattern."""

    grid: Grid
    specials: int
    """Tokens before the patches."""
    num_heads: int
    window: int
    """Side of the window in patches, of the patterns that have one."""


Sees: TypeAlias = Callable[[Place, Place, TokenGrid], Tensor]
"""Whether the query's patch (first) may look at the key's (second)."""


def local(q: Place, k: Place, tokens: TokenGrid) -> Tensor:
    """A window around the query, cut off at the border: stand-alone self-attention.

    Ramachandran et al. (2019), section 2.2.
    """
    half = tokens.window // 2
    return ((q.row - k.row).abs() <= half) & ((q.col - k.col).abs() <= half)


def neighborhood(q: Place, k: Place, tokens: TokenGrid) -> Tensor:
    """A window of constant size, moved inwards at the border: Hassani et al. (2023), NATTEN."""
    half, (height, width) = tokens.window // 2, tokens.grid
    row, col = q.row.clamp(half, height - 1 - half), q.col.clamp(half, width - 1 - half)
    return ((row - k.row).abs() <= half) & ((col - k.col).abs() <= half)


def window(q: Place, k: Place, tokens: TokenGrid) -> Tensor:
    """The same tile of window x window patches; tiles at the far borders may be smaller.

    Liu et al. (2021), Swin, section 3.2; the mask units of Hiera.
    """
    return _same(tile(q, tokens), tile(k, tokens))


def shifted_window(q: Place, k: Place, tokens: TokenGrid) -> Tensor:
    """The same tile after a shift by half a window, with border tiles of their own (Swin).

    A side that one window covers is not shifted.
    """
    return _same(shifted_tile(q, tokens), shifted_tile(k, tokens))


def tile(at: Place, tokens: TokenGrid) -> Place:
    """Row and column of the tile that a patch is in."""
    return Place(at.row // tokens.window, at.col // tokens.window)


def shifted_tile(at: Place, tokens: TokenGrid) -> Place:
    """Row and column of its tile after the shift."""
    w = tokens.window
    down, right = (w - w // 2 if side > w else 0 for side in tokens.grid)
    return Place((at.row + down) // w, (at.col + right) // w)


def same_row(q: Place, k: Place, tokens: TokenGrid) -> Tensor:
    """The first half of an axial block (paper, D.6; Ho et al., 2019)."""
    return q.row == k.row


def same_column(q: Place, k: Place, tokens: TokenGrid) -> Tensor:
    """The second half of an axial block; also every W-th patch of the raster."""
    return q.col == k.col


def band(q: Place, k: Place, tokens: TokenGrid) -> Tensor:
    """Fewer than W patches away in raster order: Child et al. (2019), both directions."""
    width = tokens.grid[1]
    return (q.row * width + q.col - k.row * width - k.col).abs() < width


def summary(q: Place, k: Place, tokens: TokenGrid) -> Tensor:
    """The last patches of every row, an eighth of it, which sum it up: Child et al. (2019)."""
    width = tokens.grid[1]
    return k.col + q.col * 0 >= width - max(1, width // 8)


class Pattern(NamedTuple):
    """One mask or more, and how blocks and heads divide them."""

    masks: tuple[Sees, ...]
    by: Literal["blocks", "heads"] = "blocks"
    """Masks take turns from block to block, or each goes to a share of the heads in a row."""


PATTERNS: dict[str, Pattern] = {
    "global": Pattern(()),
    "local": Pattern((local,)),
    "neighborhood": Pattern((neighborhood,)),
    "window": Pattern((window,)),
    "shifted_window": Pattern((window, shifted_window)),
    "axial": Pattern((same_row, same_column)),
    "strided": Pattern((band, same_column), by="heads"),
    "fixed": Pattern((same_row, summary), by="heads"),
}


def mask_of_block(name: str, block: int) -> int:
    """Return which of the masks that take turns is that of block number ``block``."""
    pattern = PATTERNS[name]
    return block % len(pattern.masks) if pattern.by == "blocks" and pattern.masks else 0


def dense_mask(
    name: str, block: int, tokens: TokenGrid, device: torch.device
) -> Bool[Tensor, "h t t"] | None:
    """Return who may look at whom in block number ``block``; None where all may.

    ``h`` is 1 where all heads are alike.
    """
    chosen = mask_of_block(name, block)
    return _dense(name, chosen, tokens, device) if PATTERNS[name].masks else None


@remembered
def _dense(name: str, chosen: int, tokens: TokenGrid, device: torch.device) -> Tensor:
    numbers = torch.arange(tokens.specials + tokens.grid[0] * tokens.grid[1], device=device)
    heads = torch.arange(tokens.num_heads if PATTERNS[name].by == "heads" else 1, device=device)
    return may_look(name, chosen, tokens, heads[:, None, None], numbers[:, None], numbers)


def may_look(
    name: str, chosen: int, tokens: TokenGrid, h: Tensor, i: Tensor, j: Tensor
) -> Bool[Tensor, "..."]:
    """Whether token i may look at token j in head h; all broadcast."""
    (first, *others), by = PATTERNS[name]
    specials, width = tokens.specials, tokens.grid[1]
    q = Place((i - specials) // width, (i - specials) % width)
    k = Place((j - specials) // width, (j - specials) % width)
    if by == "heads":
        mine = h < (tokens.num_heads + 1) // 2
        sees = torch.where(mine, first(q, k, tokens), others[0](q, k, tokens))
    else:
        sees = PATTERNS[name].masks[chosen](q, k, tokens) & (h >= 0)  # of the shape of the heads
    return sees | (i < specials) | (j < specials)


def _same(one: Place, other: Place) -> Tensor:
    return (one.row == other.row) & (one.col == other.col)
