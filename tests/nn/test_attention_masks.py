"""Each attention pattern against a loop over pairs, dense and in blocks."""

import warnings
from collections.abc import Iterator
from typing import get_args

import jaxtyping
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention

from tessera.config import ViTConfig
from tessera.nn import block_sparse
from tessera.nn.attention_masks import (
    PATTERNS,
    TokenGrid,
    dense_mask,
)
from tessera.nn.block_sparse import block_mask, block_sparse_attention

CPU = torch.device("cpu")
SPARSE = sorted(set(PATTERNS) - {"global"})
SIDES = st.integers(1, 9)


def tile(row: int, col: int, height: int, width: int, w: int, shifted: bool) -> tuple[int, int]:
    """The tile of a patch, as Swin numbers them: rolled back, cut, and what wrapped kept apart."""
    numbers = []
    for at, side in ((row, height), (col, width)):
        shift = w // 2 if shifted and side > w else 0
        numbers.append(-1 if at < shift else (at - shift) // w)
    return numbers[0], numbers[1]


def may_look(name: str, block: int, head: int, tokens: TokenGrid, i: int, j: int) -> bool:
    """The table of patterns, for two tokens."""
    (height, width), specials, heads, w = tokens
    if i < specials or j < specials or name == "global":
        return True
    q, k, half = i - specials, j - specials, w // 2
    rq, cq, rk, ck = q // width, q % width, k // width, k % width
    first = head < heads - heads // 2
    match name:
        case "local":
            return abs(rq - rk) <= half and abs(cq - ck) <= half
        case "neighborhood":  # the w nearest of each axis, or all there are
            rows = range(max(0, min(rq - half, height - w)), height)[:w]
            cols = range(max(0, min(cq - half, width - w)), width)[:w]
            return rk in rows and ck in cols
        case "window":
            return tile(rq, cq, *tokens.grid, w, False) == tile(rk, ck, *tokens.grid, w, False)
        case "shifted_window":
            shifted = block % 2 == 1
            return tile(rq, cq, *tokens.grid, w, shifted) == tile(rk, ck, *tokens.grid, w, shifted)
        case "axial":
            return rq == rk if block % 2 == 0 else cq == ck
        case "strided":
            return abs(q - k) < width if first else (q - k) % width == 0
        case "fixed":
            return q // width == k // width if first else k % width >= width - max(1, width // 8)
    raise AssertionError(name)


def by_the_loop(name: str, block: int, tokens: TokenGrid) -> Tensor:
    count = tokens.specials + tokens.grid[0] * tokens.grid[1]
    return torch.tensor(
        [
            [
                [may_look(name, block, head, tokens, i, j) for j in range(count)]
                for i in range(count)
            ]
            for head in range(tokens.num_heads)
        ]
    )


def test_the_config_knows_every_pattern() -> None:
    field = ViTConfig.__dataclass_fields__["attention"]
    assert list(get_args(field.type)) == list(PATTERNS)


@given(
    name=st.sampled_from(SPARSE),
    block=st.integers(0, 3),
    grid=st.tuples(SIDES, SIDES),
    specials=st.integers(0, 3),
    heads=st.integers(2, 4),
    half=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_a_mask_is_its_rule_for_every_pair(
    name: str, block: int, grid: tuple[int, int], specials: int, heads: int, half: int
) -> None:
    tokens = TokenGrid(grid, specials, heads, 2 * half + 1)
    found = dense_mask(name, block, tokens, CPU)
    assert found is not None
    assert torch.equal(found.expand(heads, -1, -1), by_the_loop(name, block, tokens))


@pytest.mark.parametrize("window", [2, 4])
@pytest.mark.parametrize("name", ["window", "shifted_window"])
def test_tiles_may_have_an_even_side(name: str, window: int) -> None:
    tokens = TokenGrid((7, 5), 1, 2, window)
    for block in (0, 1):
        found = dense_mask(name, block, tokens, CPU)
        assert found is not None
        assert torch.equal(found.expand(2, -1, -1), by_the_loop(name, block, tokens))


def test_global_attention_has_no_mask() -> None:
    tokens = TokenGrid((3, 4), 1, 2, 3)
    assert dense_mask("global", 0, tokens, CPU) is None
    assert block_mask("global", 0, tokens, CPU) is None


@pytest.mark.parametrize("grid", [(9, 9), (7, 12)])
def test_a_neighborhood_is_of_one_size_and_a_local_window_shrinks(grid: tuple[int, int]) -> None:
    tokens = TokenGrid(grid, 0, 2, 5)
    sizes = {name: dense_mask(name, 0, tokens, CPU) for name in ("neighborhood", "local")}
    assert sizes["neighborhood"] is not None
    assert sizes["local"] is not None
    assert set(sizes["neighborhood"].sum(-1).flatten().tolist()) == {25}
    assert sizes["local"].sum(-1).min() == 9  # in a corner


@pytest.mark.parametrize("specials", [0, 2])
@pytest.mark.parametrize("name", SPARSE)
def test_everybody_sees_somebody_and_two_blocks_connect_the_sparse_ones(
    name: str, specials: int
) -> None:
    tokens = TokenGrid((4, 6), specials, 2, 3)
    masks = [dense_mask(name, block, tokens, CPU) for block in (0, 1)]
    reach = torch.eye(24 + specials, dtype=torch.bool)
    for mask in masks:
        assert mask is not None
        assert mask.any(-1).all()
        reach = (reach.float() @ mask.any(0).float()) > 0
    if name in ("axial", "strided", "fixed") or specials:
        assert reach.all()


def test_a_mask_is_made_once_a_grid() -> None:
    tokens = TokenGrid((4, 5), 1, 2, 3)
    assert dense_mask("local", 0, tokens, CPU) is dense_mask("local", 3, tokens, CPU)
    assert dense_mask("axial", 0, tokens, CPU) is dense_mask("axial", 2, tokens, CPU)
    assert dense_mask("axial", 0, tokens, CPU) is not dense_mask("axial", 1, tokens, CPU)
    other = tokens._replace(grid=(5, 4))
    assert dense_mask("local", 0, tokens, CPU) is not dense_mask("local", 0, other, CPU)


def qkv(count: int, heads: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, heads, count, 8, generator=generator) for _ in range(3)]


@pytest.fixture
def untyped() -> Iterator[None]:
    """Without the type checker of the test run, whose notes the tracer cannot follow."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def eager(untyped: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run flex_attention without compiling it, which takes half a minute."""
    monkeypatch.setattr(block_sparse, "fused", lambda: flex_attention)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        yield


@pytest.mark.parametrize(
    ("name", "grid", "with_bias"),
    [
        ("local", (12, 12), False),
        ("shifted_window", (5, 30), True),
        ("fixed", (5, 30), True),
        *(
            pytest.param(name, grid, with_bias, marks=pytest.mark.slow)
            for name in SPARSE
            for grid, with_bias in (((12, 12), True), ((5, 30), False))
        ),
    ],
)
def test_blocks_agree_with_the_dense_mask(
    name: str, grid: tuple[int, int], with_bias: bool, eager: None
) -> None:
    tokens = TokenGrid(grid, 2, 3, 5)
    q, k, v = qkv(2 + grid[0] * grid[1])
    for block in (0, 1):
        sparse, dense = (make(name, block, tokens, CPU) for make in (block_mask, dense_mask))
        assert isinstance(dense, Tensor)
        assert not isinstance(sparse, Tensor)
        assert sparse is not None
        bias = torch.randn(1, 3, q.shape[2], q.shape[2]) if with_bias else None
        terms = dense[None] if bias is None else bias.masked_fill(~dense, -torch.inf)
        wanted = F.scaled_dot_product_attention(q, k, v, terms)
        # Measured: 1e-6.
        torch.testing.assert_close(
            block_sparse_attention(q, k, v, sparse, bias), wanted, rtol=0, atol=1e-5
        )


def test_blocks_without_a_pair_are_skipped() -> None:
    # 1,024 patches are 8 x 8 blocks of 128. Tile by tile, and column by column, a block of queries
    # needs its own block of keys alone; the window around a patch needs 3 rows more on each side.
    skipped = {"window": 56 / 64, "axial": 56 / 64, "local": 1 - (8 + 2 * 7) / 64}
    for name, share in skipped.items():
        for block in (0, 1):
            blocks = block_mask(name, block, TokenGrid((32, 32), 0, 2, 8), CPU)
            assert blocks is not None
            assert blocks.mask.sparsity() == pytest.approx(100 * share)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local", "strided"])
def test_the_compiled_kernel_agrees_too(name: str, untyped: None) -> None:
    tokens = TokenGrid((12, 12), 2, 3, 5)
    sparse, dense = (make(name, 0, tokens, CPU) for make in (block_mask, dense_mask))
    assert isinstance(dense, Tensor)
    assert not isinstance(sparse, Tensor)
    assert sparse is not None
    q, k, v = qkv(146)
    bias = torch.randn(2, 3, 146, 146, generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the compiler's own imports
        found = block_sparse_attention(q, k, v, sparse, bias)
    wanted = F.scaled_dot_product_attention(q, k, v, bias.masked_fill(~dense, -torch.inf))
    # Measured: 6e-7.
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_more_masks_are_compiled_than_torch_does_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = []

    def compiled(*args: object) -> None:
        limits.append(torch._dynamo.config.recompile_limit)

    monkeypatch.setattr(torch, "compile", lambda function: compiled)
    block_sparse.fused.__wrapped__()()
    assert limits == [block_sparse.KERNELS]
    assert torch._dynamo.config.recompile_limit < block_sparse.KERNELS
