"""Attention inside of windows of a grid of tokens, which Swin and Hiera share."""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tessera.nn.noise import Dropout
from tessera.nn.patch_embed import Grid


class Tiling(NamedTuple):
    """A grid cut into windows, after a cyclic shift up and to the left."""

    grid: Grid
    window: Grid
    """Rows and columns of a window."""
    shift: int = 0

    @property
    def padded(self) -> Grid:
        """The grid with rows below and columns on the right, so that whole windows fill it."""
        (height, width), (rows, cols) = self.grid, self.window
        return -(-height // rows) * rows, -(-width // cols) * cols

    def cut(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b w t d"]:
        """Return the windows in raster order, and the tokens of each in raster order."""
        x = rearrange(x, "b (h w) d -> b h w d", h=self.grid[0])
        if self.padded != self.grid:
            (height, width), (rows, cols) = self.grid, self.padded
            x = F.pad(x, (0, 0, 0, cols - width, 0, rows - height))
        if self.shift:
            x = x.roll((-self.shift, -self.shift), dims=(1, 2))
        rows, cols = self.window
        return rearrange(x, "b (h r) (w c) d -> b (h w) (r c) d", r=rows, c=cols)

    def glue(self, x: Float[Tensor, "b w t d"]) -> Float[Tensor, "b n d"]:
        """Put windows back in their places; the inverse of ``cut``."""
        rows, cols = self.window
        high = self.padded[0] // rows
        x = rearrange(x, "b (h w) (r c) d -> b (h r) (w c) d", h=high, r=rows, c=cols)
        if self.shift:
            x = x.roll((self.shift, self.shift), dims=(1, 2))
        return x[:, : self.grid[0], : self.grid[1]].flatten(1, 2)


def attend(
    q: Float[Tensor, "b w h q e"],
    k: Float[Tensor, "b w h t e"],
    v: Float[Tensor, "b w h t e"],
    terms: Float[Tensor, "#w h q t"] | None,
    drop: Dropout,
) -> Float[Tensor, "b w h q e"]:
    """Attend in every window, by the fused kernel where no probability is dropped.

    Args:
        terms: Added to the logits; minus infinity where a token may not look.
    """
    if drop.training and drop.rate > 0:
        return drop(probabilities(q, k, terms)) @ v
    count, heads = q.shape[1:3]
    if terms is None or terms.shape[0] == 1:  # windows are alike: as images of a batch
        x = F.scaled_dot_product_attention(q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), terms)
        return x.unflatten(0, (-1, count))
    told = terms.flatten(0, 1)[None]  # they differ: as heads
    x = F.scaled_dot_product_attention(q.flatten(1, 2), k.flatten(1, 2), v.flatten(1, 2), told)
    return x.unflatten(1, (count, heads))


def probabilities(
    q: Float[Tensor, "b w h q e"],
    k: Float[Tensor, "b w h t e"],
    terms: Float[Tensor, "#w h q t"] | None,
) -> Float[Tensor, "b w h q t"]:
    """Return softmax(q k^T / sqrt(D_h) + terms) in every window."""
    logits = q @ k.mT * q.shape[-1] ** -0.5
    return (logits if terms is None else logits + terms).softmax(dim=-1)


def split_heads(
    qkv: Float[Tensor, "b w t d"], heads: int
) -> tuple[
    Float[Tensor, "b w h t e"],
    Float[Tensor, "b w h t e"],
    Float[Tensor, "b w h t e"],
]:
    """Split queries, keys and values from one another, and each into heads."""
    parts = rearrange(qkv, "b w t (qkv h e) -> qkv b w h t e", qkv=3, h=heads)
    q, k, v = torch.unbind(parts)
    return q, k, v


def join_heads(x: Float[Tensor, "b w h t e"]) -> Float[Tensor, "b w t d"]:
    """Lay the heads of every token side by side."""
    return rearrange(x, "b w h t e -> b w t (h e)")
