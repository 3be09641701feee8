"""Shifted windows against attention written token by token, and what Swin is made of."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tessera.nn.noise import key_noise
from tessera.nn.stages import Layer, StageSpec
from tessera.nn.swin import PatchMerging, Swin, WindowAttention, WindowBias, tile
from tessera.nn.windows import Tiling


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def spec(**changes: object) -> StageSpec:
    numbers = {"in_chans": 3, "patch_size": 4, "blocks": (2, 2), "width": 8, "num_heads": 2}
    return StageSpec(**{**numbers, "drop_paths": (0.0,) * 4, **changes})  # type: ignore[arg-type]


def attention(window: int, *, shifted: bool, **changes: object) -> WindowAttention:
    torch.manual_seed(0)
    layer = Layer(stage=0, place=int(shifted), dim_in=8, dim=8, num_heads=2, drop_path=0.0)
    module = WindowAttention(layer, spec(**changes), window=window, shifted=shifted).double()
    torch.nn.init.normal_(module.bias.table)
    return module.eval()


def slowly(module: WindowAttention, x: Tensor, grid: tuple[int, int]) -> Tensor:
    """SW-MSA for one image, token by token: who looks at whom by tiles of the plane.

    Windows lie at multiples of the window from minus (window - shift); a token sees those that lie
    in the same window and on the image or its padding. A window over the upper or the left edge
    is cut there: what the cyclic shift would put beside it is masked.
    """
    (height, width), w = grid, module.window
    if min(grid) <= w:
        w = min(grid)
    shift = module.window // 2 if module.shifted and min(grid) > module.window else 0
    high, wide = -(-height // w) * w, -(-width // w) * w
    tokens = {(r, c): torch.zeros(8).double() for r in range(high) for c in range(wide)}
    tokens |= {(r, c): x[r * width + c] for r in range(height) for c in range(width)}
    q, k, v = ({}, {}, {})
    for place, token in tokens.items():
        q[place], k[place], v[place] = module.qkv(token).reshape(3, 2, 4).unbind(0)
    side, table, rows = module.window, module.bias.table, []
    for r, c in ((r, c) for r in range(height) for c in range(width)):
        mine = ((r - shift) // w, (c - shift) // w)
        seen = [p for p in tokens if ((p[0] - shift) // w, (p[1] - shift) // w) == mine]
        heads = []
        for h in range(2):
            logits = [
                q[r, c][h] @ k[p][h] / 2
                + table[(r - p[0] + side - 1) * (2 * side - 1) + c - p[1] + side - 1, h]
                for p in seen
            ]
            shares = torch.stack(logits).softmax(dim=0)
            heads.append(sum(a * v[p][h] for a, p in zip(shares, seen, strict=True)))
        rows.append(module.proj(torch.cat(heads)))
    return torch.stack(rows)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("grid", [(6, 6), (3, 6), (4, 6), (5, 7), (2, 5)])
@torch.no_grad()
def test_windows_are_what_tiles_of_the_plane_say(grid: tuple[int, int], shifted: bool) -> None:
    module = attention(3, shifted=shifted)
    x = randn(2, grid[0] * grid[1], 8)
    found = module(x, grid)
    wanted = torch.stack([slowly(module, image, grid) for image in x])
    # Measured: at most 3e-16 in double precision.
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@given(
    rows=st.integers(1, 9),
    cols=st.integers(1, 9),
    window=st.integers(1, 5),
    shift=st.integers(0, 2),
)
def test_windows_go_back_to_their_places(rows: int, cols: int, window: int, shift: int) -> None:
    tiling = Tiling((rows, cols), (window, window), min(shift, window - 1))
    x = randn(2, rows * cols, 3)
    windows = tiling.cut(x)
    assert windows.shape[2] == window * window
    assert torch.equal(tiling.glue(windows), x)


@torch.no_grad()
def test_weights_are_those_that_forward_uses_and_never_cross_the_edge() -> None:
    module = attention(4, shifted=True)
    x = randn(1, 64, 8)
    a = module.weights(x, (8, 8))
    assert a.shape == (1, 4, 2, 16, 16)
    torch.testing.assert_close(a.sum(-1), torch.ones_like(a.sum(-1)))
    tiling = tile((8, 8), 4, shifted=True)
    numbers = tiling.cut(torch.arange(64.0)[None, :, None])[0, :, :, 0]  # w t
    rows = numbers // 8
    far = (rows[:, :, None] - rows[:, None, :]).abs() >= 4
    assert far.any()
    assert not a[0].transpose(0, 1)[:, far].any()


def test_a_small_window_has_the_same_offsets_as_a_large_one() -> None:
    bias = WindowBias(4, 2)
    torch.nn.init.normal_(bias.table)
    large, small = bias(4).reshape(2, 4, 4, 4, 4), bias(2).reshape(2, 2, 2, 2, 2)
    assert torch.equal(small, large[:, :2, :2, :2, :2])


def test_a_table_is_resampled_for_another_window() -> None:
    bias = WindowBias(3, 2)
    with torch.no_grad():
        bias.table.copy_(torch.arange(5.0).repeat(5)[:, None].expand(-1, 2))  # by column
    found = bias.resampled(5).reshape(9, 9, 2)
    assert torch.equal(bias.resampled(3), bias.table)
    assert (found[:, 1:] > found[:, :-1]).all()
    torch.testing.assert_close(found, found[:1].expand(9, -1, -1))


@torch.no_grad()
def test_merging_lays_four_neighbours_side_by_side() -> None:
    merging = PatchMerging(2, norm="layernorm", norm_eps=1e-5).double()
    x = randn(1, 24, 2)
    image, found = x.reshape(4, 6, 2), merging(x, (4, 6)).reshape(2, 3, 4)
    for r in range(2):
        for c in range(3):
            pieces = [image[2 * r + p, 2 * c + q] for q in range(2) for p in range(2)]
            wanted = merging.reduction(merging.norm(torch.cat(pieces)))
            torch.testing.assert_close(found[r, c], wanted)


def test_dropped_probabilities_depend_on_the_image_alone() -> None:
    numbers = {"drop": 0.2, "attn_drop": 0.3, "drop_paths": (0.5,) * 4}
    torch.manual_seed(0)
    model = Swin(spec(**numbers), window=4).double().train()
    images = randn(4, 3, 32, 32)
    rows = torch.arange(4)
    key_noise(model, 3, rows)
    whole = model(images)
    key_noise(model, 3, rows[2:])
    torch.testing.assert_close(model(images[2:]), whole[2:])
    key_noise(model, 4, rows)
    assert not torch.allclose(model(images), whole)


@settings(max_examples=10, derandomize=True)
@given(rate=st.sampled_from([0.0, 1e-9]), shifted=st.booleans())
def test_the_fused_kernel_and_the_explicit_way_agree(rate: float, shifted: bool) -> None:
    module, x = attention(3, shifted=shifted, attn_drop=rate), randn(2, 36, 8)
    wanted = module(x, (6, 6))
    torch.testing.assert_close(module.train()(x, (6, 6)), wanted)
