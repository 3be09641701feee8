"""Mask units and pooled queries against attention written token by token."""

import pytest
import torch
from torch import Tensor

from tessera.nn.block import Mlp
from tessera.nn.hiera import Hiera, HieraBlock, MaskUnitAttention, pool
from tessera.nn.stages import Layer, StageSpec


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spec(blocks: tuple[int, ...] = (1, 1, 2, 1)) -> StageSpec:
    rates = (0.0,) * sum(blocks)
    return StageSpec(
        in_chans=3, patch_size=4, blocks=blocks, width=4, num_heads=1, drop_paths=rates
    )


def slowly(module: MaskUnitAttention, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Mask-unit attention for one image: keys by their unit, queries the largest of 2x2."""
    height, width = grid
    heads, dim = module.num_heads, module.proj.in_features
    q, k, v = ({}, {}, {})
    for n, token in enumerate(x):
        place = (n // width, n % width)
        q[place], k[place], v[place] = module.qkv(token).reshape(3, heads, dim // heads).unbind(0)
    step, rows = 2 if module.pools else 1, []
    for r, c in ((r, c) for r in range(0, height, step) for c in range(0, width, step)):
        corners = [(r + p, c + s) for p in range(step) for s in range(step)]
        query = torch.stack([q[p] for p in corners]).max(dim=0).values
        unit = module.unit or max(grid)
        seen = [p for p in k if (p[0] // unit, p[1] // unit) == (r // unit, c // unit)]
        parts = []
        for h in range(heads):
            logits = torch.stack([query[h] @ k[p][h] for p in seen]) / (dim // heads) ** 0.5
            shares = logits.softmax(dim=0)
            parts.append(sum(a * v[p][h] for a, p in zip(shares, seen, strict=True)))
        rows.append(module.proj(torch.cat(parts)))
    return torch.stack(rows)


@pytest.mark.parametrize("grid", [(8, 8), (4, 8)])
@pytest.mark.parametrize("unit", [4, 2, None])
@pytest.mark.parametrize("halves", [False, True])
@torch.no_grad()
def test_mask_units_are_what_the_formula_says(
    grid: tuple[int, int], unit: int | None, halves: bool
) -> None:
    torch.manual_seed(0)
    layer = Layer(int(halves), 0, 4 if halves else 8, 8, 2, 0.0)
    module = MaskUnitAttention(layer, spec(), unit).double()
    x = randn(2, grid[0] * grid[1], layer.dim_in)
    wanted = torch.stack([slowly(module, image, grid) for image in x])
    # Measured: at most 3e-16 in double precision.
    torch.testing.assert_close(module(x, grid), wanted, rtol=0, atol=1e-12)
    a = module.weights(x, grid)
    torch.testing.assert_close(a.sum(-1), torch.ones_like(a.sum(-1)))


def test_pooling_takes_the_largest_of_four_neighbours() -> None:
    x = torch.arange(24.0).reshape(1, 24, 1)
    assert pool(x, (4, 6)).flatten().tolist() == [7, 9, 11, 19, 21, 23]


def test_units_shrink_with_the_stages_and_the_last_two_look_everywhere() -> None:
    units = [block.attn.unit for block in Hiera(spec(), grid=(1, 2)).blocks]  # type: ignore[union-attr]
    # A block that begins a stage looks as the stage before does: its queries pool, its keys do not.
    assert units == [8, 8, 4, None, None]


@torch.no_grad()
def test_the_residual_of_a_new_stage_is_widened_and_pooled() -> None:
    torch.manual_seed(0)
    block = HieraBlock(Layer(1, 0, 4, 8, 2, 0.0), spec(), 8).double()
    assert isinstance(block.mlp, Mlp)
    assert block.shortcut is not None
    for linear in (block.attn.proj, block.mlp.fc2):
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    x = randn(1, 64, 4)
    wanted = (
        block.shortcut(block.norm1(x)).reshape(4, 2, 4, 2, 8).amax(dim=(1, 3)).reshape(1, 16, 8)
    )
    assert torch.equal(block(x, (8, 8)), wanted)


@torch.no_grad()
def test_a_pixel_changes_its_mask_unit_alone_until_the_third_stage() -> None:
    torch.manual_seed(0)
    model = Hiera(spec(), grid=(2, 2)).double()
    images = randn(1, 3, 64, 64)
    other = images.clone()
    other[..., 10, 10] += 1  # far enough from the edge of its unit, for 7x7 convolutions

    def after(count: int, pixels: Tensor) -> Tensor:
        x, grid = model.embed(pixels)
        for block in list(model.blocks)[:count]:
            x, grid = model._run(block, x, grid)  # type: ignore[arg-type]
        return x.reshape(*grid, -1)

    changed = (after(2, images) != after(2, other)).any(dim=-1)  # 8x8, units of 4x4
    assert changed[:4, :4].all()
    assert not changed[4:].any()
    assert not changed[:, 4:].any()
    assert (after(5, images) != after(5, other)).any(dim=-1).all()
