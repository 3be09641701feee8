"""What every position scheme is: a module that adds, turns or relates, at one place or more."""

from abc import ABC
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tessera.nn.block_sparse import Blocks
from tessera.nn.patch_embed import Grid


@dataclass(frozen=True, kw_only=True, slots=True)
class PosSpec:
    """What a position scheme may want to know about the model."""

    grid: Grid
    """Rows and columns of patches at the size the model is made for."""
    embed_dim: int
    head_dim: int
    prefix: int
    """Tokens before the patches that have a row of their own: the class token, so that a table
    has N + 1 rows as in the paper, and the distillation token."""
    registers: int = 0
    """Tokens between those and the patches that have no position."""
    num_heads: int = 1
    theta: float | None = None
    """Longest period of a rotary scheme; None is its source's."""
    clip: int = 16
    """Largest offset that a clipped relative scheme tells apart: k of Shaw et al. (2018)."""

    @property
    def specials(self) -> int:
        """Tokens before the patches: class, distillation and register tokens."""
        return self.prefix + self.registers


class Rotation(NamedTuple):
    """Turns the patch tokens of queries or keys; the tokens before them are left as they are."""

    sin: Float[Tensor, "*h n e"]
    cos: Float[Tensor, "*h n e"]

    def turn(self, x: Float[Tensor, "b h t e"]) -> Float[Tensor, "b h t e"]:
        """Rotate pairs of channels, i and i + e/2, of the last n tokens."""
        count = self.sin.shape[-2]
        prefix, patches = x.split([x.shape[2] - count, count], dim=2)
        first, second = patches.chunk(2, dim=-1)
        turned = patches * self.cos + torch.cat([-second, first], dim=-1) * self.sin
        return torch.cat([prefix, turned.to(x.dtype)], dim=2)


class Relative(NamedTuple):
    """Terms of attention for pairs: token i, which looks, and token j, which is looked at.

    Every pair has the number of a row; all pairs of one relation share it.
    """

    pairs: Int[Tensor, "t t"]
    """The row of the pair (i, j)."""
    bias: Float[Tensor, "h m"] | None = None
    """A number for each head and row, added to the logit."""
    keys: Float[Tensor, "#h m e"] | None = None
    """A vector for each row, added to the key before its product with the query."""
    values: Float[Tensor, "m e"] | None = None
    """A vector for each row, added to the value."""

    def logits(self, q: Float[Tensor, "b h t e"]) -> Float[Tensor, "#b h t t"]:
        """Return what is added to q k^T / sqrt(e)."""
        terms = []
        if self.keys is not None:  # m products a query, handed out, instead of t
            products = q @ self.keys.to(q.dtype).mT * q.shape[-1] ** -0.5  # b h t m
            terms.append(products.gather(-1, self.pairs.expand(*q.shape[:2], -1, -1)))
        if self.bias is not None:
            terms.append(self.bias[:, self.pairs].to(q.dtype)[None])
        return sum(terms[1:], start=terms[0])

    def mix(self, a: Float[Tensor, "b h t t"]) -> Float[Tensor, "b h t e"]:
        """Return the sum over j of A_ij times the value vector of the pair."""
        assert self.values is not None
        mass = a.new_zeros(*a.shape[:3], self.values.shape[0])
        mass = mass.scatter_add(-1, self.pairs.expand(*a.shape[:2], -1, -1), a)  # b h t m
        return mass @ self.values.to(a.dtype)


class Placement(NamedTuple):
    """What one block is told about where its tokens are."""

    add: Float[Tensor, "t d"] | None = None
    """Added to the tokens that enter the block."""
    rotation: Rotation | None = None
    relative: Relative | None = None
    mask: Bool[Tensor, "#h t t"] | Blocks | None = None
    """Which pairs of tokens attention is for; None is all."""
    grid: Grid | None = None
    """Rows and columns of the patches, for a block with a scheme of its own."""

    @property
    def inside(
        self,
    ) -> tuple[Rotation | None, Relative | None, Tensor | Blocks | None, Grid | None]:
        """What the block is told beside its tokens."""
        return self.rotation, self.relative, self.mask, self.grid

    def enter(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """Return the tokens as the block gets them."""
        return x if self.add is None else x + self.add.to(x.dtype)


class PosEmbed(nn.Module, ABC):
    """Base of all schemes, which override ``rows``, ``rotation`` or ``relative``."""

    has_values: ClassVar[bool] = False
    """Whether ``relative`` has vectors for the values, which need A itself."""

    def __init__(self, spec: PosSpec) -> None:
        super().__init__()
        self.spec = spec

    def forward(self, x: Float[Tensor, "b t d"], grid: Grid) -> Float[Tensor, "b t d"]:
        """Add positions, once, to the prefix and the patch tokens of this grid."""
        rows = self.rows(grid, x.device)
        return x if rows is None else x + rows.to(x.dtype)

    def rows(self, grid: Grid, device: torch.device) -> Float[Tensor, "m d"] | None:
        """Return what is added to the prefix and the patches, where the scheme adds."""
        return None

    def rotation(self, grid: Grid, device: torch.device) -> Rotation | None:
        """Return the turn of queries and keys, where the scheme is rotary."""
        return None

    def relative(self, grid: Grid, device: torch.device) -> Relative | None:
        """Return the terms of pairs of tokens, where the scheme is relative.

        Raises:
            ValueError: The scheme's table says nothing about this grid.
        """
        return None

    def placement(self, grid: Grid, device: torch.device, *, add: bool) -> Placement:
        """Return what a block wants of this scheme.

        Args:
            add: Add the rows at the block; False where they were added before the first one.
        """
        rows = self.rows(grid, device) if add else None
        if rows is not None and self.spec.registers:  # which have no position
            zeros = rows.new_zeros(self.spec.registers, rows.shape[1])
            rows = torch.cat([rows[: self.spec.prefix], zeros, rows[self.spec.prefix :]])
        rotation, relative = self.rotation(grid, device), self.relative(grid, device)
        return Placement(rows, rotation, relative, grid=grid)

    def reset_parameters(self) -> None:
        """Draw the first weights of the scheme's own source, where a model's scheme has none."""

    def resampled(self, grid: Grid) -> dict[str, Tensor]:
        """Return the parameters by name, as a model made for another grid has them.

        Raises:
            ValueError: The scheme's table says nothing about this grid.
        """
        return {name: parameter.detach() for name, parameter in self.named_parameters()}


class NoPosEmbed(PosEmbed):
    """Nothing: the model sees a bag of patches."""


def resampled_positions(model: nn.Module, grid: Grid) -> dict[str, Tensor]:
    """Return the parameters of all position schemes in a model, for another grid, by name.

    Raises:
        ValueError: A scheme's table says nothing about this grid.
    """
    return {
        f"{name}.{key}": tensor
        for name, module in model.named_modules()
        if isinstance(module, PosEmbed)
        for key, tensor in module.resampled(grid).items()
    }
