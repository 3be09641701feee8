"""Relative schemes against attention written out pair by pair."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tessera.nn.attention import Attention
from tessera.nn.pos_embed import make_pos_embed
from tessera.nn.positions.base import PosEmbed, PosSpec
from tessera.nn.positions.relative import Bias2d, RelativeRaster

CPU = torch.device("cpu")
HEADS, E, D, CLIP = 2, 4, 6, 3
SCHEMES = ["shaw", "shaw_values", "shaw_bias", "relative", "bias2d"]
LAYOUTS = [((3, 3), 1, 0), ((2, 4), 2, 2), ((4, 2), 0, 0), ((2, 3), 0, 1)]
"""Grid, class and distillation tokens, registers."""
Layout = tuple[tuple[int, int], int, int]


def make(name: str, layout: Layout) -> PosEmbed:
    """A scheme with parameters of the size of 1."""
    grid, prefix, registers = layout
    spec = PosSpec(
        grid=grid,
        embed_dim=D,
        head_dim=E,
        prefix=prefix,
        registers=registers,
        num_heads=HEADS,
        clip=CLIP,
    )
    scheme = make_pos_embed(name, spec)
    generator = torch.Generator().manual_seed(0)
    for parameter in scheme.parameters():
        nn.init.normal_(parameter, generator=generator)
    return scheme.double()


def attention() -> Attention:
    torch.manual_seed(1)
    return Attention(D, HEADS, E).double().eval()


def tokens(layout: Layout, batch: int = 2) -> Tensor:
    (rows, cols), prefix, registers = layout
    count = prefix + registers + rows * cols
    return torch.randn(batch, count, D, generator=torch.Generator().manual_seed(2)).double()


def number(token: int, layout: Layout) -> int | None:
    """The place of a token in the sequence without registers; None for a register."""
    _, prefix, registers = layout
    if token < prefix:
        return token
    return None if token < prefix + registers else token - registers


def term(
    name: str, scheme: PosEmbed, layout: Layout, head: int, i: int, j: int, q: Tensor
) -> float:
    """What the formula adds to the logit of token i, which looks at token j."""
    (rows, cols), prefix, registers = layout
    tables = {key: value.detach() for key, value in scheme.named_parameters()}
    if name == "bias2d":
        first, table = prefix + registers, tables["table"]
        if i < first or j < first:
            row = -1 if i < first and j < first else -3 if i < first else -2
            return table[row, head].item()
        dy = (i - first) // cols - (j - first) // cols
        dx = (i - first) % cols - (j - first) % cols
        return table[(dy + rows - 1) * (2 * cols - 1) + dx + cols - 1, head].item()
    a, b = number(i, layout), number(j, layout)
    if a is None or b is None:
        return 0.0
    clipped = max(-CLIP, min(CLIP, b - a)) + CLIP
    if name == "shaw_bias":
        return tables["table"][clipped, head].item()
    if name == "relative":
        vector = tables["table"][head, b - a + prefix + rows * cols - 1]
    else:
        vector = tables["keys"][clipped]
    return sum((q[c] * vector[c]).item() for c in range(E)) / math.sqrt(E)


def by_the_formula(
    name: str, scheme: PosEmbed, layout: Layout, module: Attention, image: Tensor
) -> tuple[Tensor, Tensor]:
    """Output and A for one image, pair by pair."""
    count = image.shape[0]
    q, k, v = module.qkv(image).detach().unflatten(-1, (3, HEADS, E)).unbind(1)  # t h e
    heads, matrices = [], []
    for head in range(HEADS):
        logits = torch.zeros(count, count).double()
        for i in range(count):
            for j in range(count):
                product = sum((q[i, head, c] * k[j, head, c]).item() for c in range(E))
                extra = term(name, scheme, layout, head, i, j, q[i, head])
                logits[i, j] = product / math.sqrt(E) + extra
        a = logits.exp() / logits.exp().sum(1, keepdim=True)
        out = torch.zeros(count, E).double()
        for i in range(count):
            for j in range(count):
                value = v[j, head]
                x, y = number(i, layout), number(j, layout)
                if name == "shaw_values" and x is not None and y is not None:
                    values = scheme.get_parameter("values").detach()
                    value = value + values[max(-CLIP, min(CLIP, y - x)) + CLIP]
                out[i] += a[i, j] * value
        heads.append(out)
        matrices.append(a)
    return module.proj(torch.cat(heads, dim=1)).detach(), torch.stack(matrices)


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("name", SCHEMES)
def test_a_relative_scheme_is_its_formula(name: str, layout: Layout) -> None:
    scheme, module, x = make(name, layout), attention(), tokens(layout)
    relative = scheme.relative(layout[0], CPU)
    outs, matrices = module(x, None, relative), module.weights(x, None, relative)
    for image, out, matrix in zip(x, outs, matrices, strict=True):
        wanted, a = by_the_formula(name, scheme, layout, module, image)
        # Measured in float64: 4e-16 for both.
        torch.testing.assert_close(out, wanted, rtol=0, atol=1e-12)
        torch.testing.assert_close(matrix, a, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_term_depends_on_the_offset_of_two_patches_only(name: str) -> None:
    grid = (3, 4)
    relative = make(name, (grid, 1, 2)).relative(grid, CPU)
    assert relative is not None
    q = torch.randn(1, HEADS, 1, E).double().expand(-1, -1, 3 + 12, -1)
    logits = relative.logits(q)[0, :, 3:, 3:].unflatten(1, grid).unflatten(3, grid)
    assert torch.equal(logits[:, :-1, :, :-1, :], logits[:, 1:, :, 1:, :])  # one row further
    assert torch.equal(logits[:, :, :-1, :, :-1], logits[:, :, 1:, :, 1:])  # one column further
    assert not torch.equal(logits[:, :, :-1, :, :-1], logits[:, :, :-1, :, 1:])


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("shaw", (2 * CLIP + 1) * E),
        ("shaw_values", 2 * (2 * CLIP + 1) * E),
        ("shaw_bias", (2 * CLIP + 1) * HEADS),
        ("relative", HEADS * (2 * (1 + 12) - 1) * E),
        ("bias2d", HEADS * (5 * 7 + 3)),
    ],
)
def test_a_scheme_has_the_parameters_of_its_formula(name: str, count: int) -> None:
    scheme = make(name, ((3, 4), 1, 0))
    assert sum(p.numel() for p in scheme.parameters()) == count


def test_without_other_tokens_a_bias_table_is_swins() -> None:
    assert make("bias2d", ((3, 4), 0, 0)).get_parameter("table").shape == (35, HEADS)


@pytest.mark.parametrize("name", ["shaw", "shaw_values", "shaw_bias"])
def test_clipped_schemes_need_nothing_for_another_grid(name: str) -> None:
    first, layout = make(name, ((2, 2), 1, 1)), ((3, 5), 1, 1)
    other = make(name, layout)
    other.load_state_dict(first.resampled(layout[0]))
    found, wanted = (s.relative(layout[0], CPU) for s in (first, other))
    assert found is not None
    assert wanted is not None
    q = torch.randn(1, HEADS, 17, E).double()
    assert torch.equal(found.logits(q), wanted.logits(q))


@pytest.mark.parametrize("specials", [0, 2])
def test_a_bias_table_for_another_grid_is_the_image_of_offsets_resampled(specials: int) -> None:
    first = make("bias2d", ((4, 5), specials, 0))
    assert isinstance(first, Bias2d)
    table, new = first.table.detach(), (6, 3)
    image = table[: 7 * 9].T.reshape(1, HEADS, 7, 9).float()
    wanted = nn.functional.interpolate(image, size=(11, 5), mode="bicubic", antialias=True)
    found = first.resampled(new)["table"]
    # Measured: equal; another machine may sum in another order.
    torch.testing.assert_close(
        found[: 11 * 5], wanted.reshape(HEADS, -1).T.double(), rtol=0, atol=1e-5
    )
    assert torch.equal(found[11 * 5 :], table[7 * 9 :])
    other = make("bias2d", (new, specials, 0))
    other.load_state_dict({"table": found})
    here, there = first.relative(new, CPU), other.relative(new, CPU)
    assert here is not None
    assert there is not None
    q = torch.zeros(1, HEADS, specials + 18, E).double()
    assert torch.equal(here.logits(q), there.logits(q))


@given(value=st.floats(-3, 3, width=32), new=st.tuples(st.integers(1, 6), st.integers(1, 6)))
@settings(max_examples=25, deadline=None, derandomize=True)
def test_a_constant_bias_stays_constant(value: float, new: tuple[int, int]) -> None:
    scheme = make("bias2d", ((3, 4), 1, 0))
    nn.init.constant_(scheme.get_parameter("table"), value)
    found = scheme.resampled(new)["table"]
    # Measured: 8e-7.
    torch.testing.assert_close(found, torch.full_like(found, value), rtol=0, atol=5e-6)


@pytest.mark.parametrize("grid", [(3, 4), (2, 4), (1, 4), (1, 2)])
def test_raster_offsets_serve_a_grid_of_fewer_rows(grid: tuple[int, int]) -> None:
    scheme = make("relative", ((3, 4), 1, 1))
    other = make("relative", (grid, 1, 1))
    other.load_state_dict(scheme.resampled(grid))
    here, there = scheme.relative(grid, CPU), other.relative(grid, CPU)
    assert here is not None
    assert there is not None
    q = torch.randn(1, HEADS, 2 + grid[0] * grid[1], E).double()
    assert torch.equal(here.logits(q), there.logits(q))
    whole = scheme.relative((3, 4), CPU)
    assert whole is not None
    count = 2 + grid[1]  # the first row of patches lies to itself as in the whole grid
    q = q[:, :, :1].expand(-1, -1, 14, -1)
    first = here.logits(q[:, :, : 2 + grid[0] * grid[1]])[:, :, :count, :count]
    assert torch.equal(whole.logits(q)[:, :, :count, :count], first)


@pytest.mark.parametrize("grid", [(4, 4), (3, 3), (2, 5), (12, 1)])
def test_raster_offsets_of_another_width_are_refused(grid: tuple[int, int]) -> None:
    scheme = make("relative", ((3, 4), 1, 0))
    assert isinstance(scheme, RelativeRaster)
    message = rf"3x4 patches, and a grid of {grid[0]}x{grid[1]} has others\nhint: .*bias2d"
    with pytest.raises(ValueError, match=message):
        scheme.relative(grid, CPU)
    with pytest.raises(ValueError, match=message):
        scheme.resampled(grid)


@pytest.mark.parametrize("name", SCHEMES)
def test_every_number_of_a_scheme_gets_a_gradient(name: str) -> None:
    layout = ((3, 3), 1, 1)
    scheme, module, x = make(name, layout), attention(), tokens(layout)
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(3)).double()
    (module(x, None, scheme.relative((3, 3), CPU)) * weights).sum().backward()
    for parameter in scheme.parameters():
        assert parameter.grad is not None
        assert (parameter.grad != 0).all()


def test_value_vectors_drop_out_with_their_probability() -> None:
    layout = ((2, 2), 0, 0)
    module, relative = attention(), make("shaw_values", layout).relative((2, 2), CPU)
    x = tokens(layout, batch=1)
    whole = module(x, None, relative)
    module.attn_drop.rate = 0.5
    assert torch.equal(module(x, None, relative), whole)
    torch.manual_seed(0)
    drawn = module.train()(x.expand(4000, -1, -1), None, relative)
    # 4,000 draws: the standard error of a mean is 0.011 at most; measured 0.013 off at most.
    assert (drawn.mean(0) - whole).abs().max() < 0.05


def test_an_index_made_in_inference_mode_serves_training() -> None:
    layout = ((2, 5), 1, 0)
    scheme, module, x = make("shaw", layout), attention(), tokens(layout)
    with torch.inference_mode():
        module(x, None, scheme.relative((2, 5), CPU))
    module(x, None, scheme.relative((2, 5), CPU)).sum().backward()
    assert scheme.get_parameter("keys").grad is not None
