import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from torch import Tensor

from tessera.nn.pos_embed import POS_EMBEDS, make_pos_embed
from tessera.nn.positions.absolute import Learned, Learned2d
from tessera.nn.positions.base import PosEmbed, PosSpec, Rotation
from tessera.nn.positions.grids import resample
from tessera.nn.positions.rotary import Rope2d, Rope2dMixed

PROPERTY = settings(max_examples=25, deadline=None, derandomize=True)
SIDES = st.integers(1, 6)
CPU = torch.device("cpu")
RELATIVE = ["shaw", "shaw_values", "shaw_bias", "relative", "bias2d"]
LEARNT = {
    "learned": ["table"],
    "learned2d": ["table_x", "table_y", "table_prefix"],
    "rope2d_mixed": ["freqs"],
    "shaw": ["keys"],
    "shaw_values": ["keys", "values"],
    "shaw_bias": ["table"],
    "relative": ["table"],
    "bias2d": ["table"],
}
GRIDS = [((4, 4), (7, 7)), ((7, 7), (4, 4)), ((2, 5), (6, 3)), ((3, 4), (3, 9))]


def spec(grid: tuple[int, int], dim: int, *, prefix: int) -> PosSpec:
    return PosSpec(grid=grid, embed_dim=dim, head_dim=8, prefix=prefix)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def positions(scheme: PosEmbed, rows: int, grid: tuple[int, int]) -> Tensor:
    """What the scheme adds to tokens, t d."""
    return scheme(torch.zeros(1, rows, scheme.spec.embed_dim), grid)[0].detach()


def as_images(table: Tensor, grid: tuple[int, int]) -> list[np.ndarray]:
    """One height x width array per channel of a table of patches only."""
    return [channel.reshape(grid).numpy() for channel in table[0].T]


# What every scheme must do


def moved(scheme: PosEmbed) -> PosEmbed:
    """The scheme with parameters away from zero."""
    torch.manual_seed(0)
    for parameter in scheme.parameters():
        torch.nn.init.normal_(parameter)
    return scheme


@pytest.mark.parametrize("cls_token", [True, False])
@pytest.mark.parametrize("name", POS_EMBEDS)
def test_a_scheme_adds_the_same_to_every_image(name: str, cls_token: bool) -> None:
    scheme = moved(make_pos_embed(name, spec((2, 3), 8, prefix=int(cls_token))))
    for grid in ((2, 3), (4, 1)):
        rows = grid[0] * grid[1] + cls_token
        x = random(3, rows, 8)
        # Measured: 2e-7, from adding to numbers of the size of 4.
        torch.testing.assert_close(
            scheme(x, grid) - x, positions(scheme, rows, grid).expand(3, -1, -1), rtol=0, atol=1e-6
        )


@pytest.mark.parametrize("name", sorted(set(POS_EMBEDS) - {"none", *RELATIVE}))
def test_a_scheme_tells_all_patches_apart(name: str) -> None:
    scheme = moved(make_pos_embed(name, spec((3, 4), 8, prefix=1)))
    patches = positions(scheme, 13, (3, 4))[1:]
    rotation = scheme.rotation((3, 4), CPU)
    if rotation is not None:
        patches = torch.cat([*rotation], dim=-1).detach().reshape(-1, 12, 16)[0]
    distance = (patches[:, None] - patches).norm(dim=-1)
    assert distance[~torch.eye(12, dtype=torch.bool)].min() > 0.01


@pytest.mark.parametrize("name", POS_EMBEDS)
def test_a_scheme_keeps_the_type_of_the_tokens(name: str) -> None:
    scheme = make_pos_embed(name, spec((2, 2), 8, prefix=1)).bfloat16()
    assert scheme(torch.zeros(1, 7, 8, dtype=torch.bfloat16), (2, 3)).dtype == torch.bfloat16


@pytest.mark.parametrize("name", POS_EMBEDS)
def test_only_rotary_schemes_turn_only_relative_ones_relate_and_neither_adds(name: str) -> None:
    scheme = make_pos_embed(name, spec((2, 2), 8, prefix=1))
    assert (scheme.rotation((2, 3), CPU) is not None) == name.startswith("rope")
    assert (scheme.relative((1, 2), CPU) is not None) == (name in RELATIVE)
    if name.startswith("rope") or name in RELATIVE:
        x = random(2, 7, 8)
        assert torch.equal(scheme(x, (2, 3)), x)


@pytest.mark.parametrize("name", POS_EMBEDS)
def test_a_scheme_keeps_no_state_but_what_it_learns(name: str) -> None:
    scheme = make_pos_embed(name, spec((2, 2), 8, prefix=1))
    assert list(scheme.state_dict()) == LEARNT.get(name, [])
    assert not list(scheme.buffers())


def test_no_scheme_adds_nothing() -> None:
    scheme = make_pos_embed("none", spec((2, 2), 8, prefix=1))
    x = random(2, 5, 8)
    assert torch.equal(scheme(x, (2, 2)), x)
    assert not list(scheme.parameters())


@pytest.mark.parametrize(
    ("name", "hint"),
    [("lerned", "did you mean 'learned'? known are "), ("xyz", "known are ")],
)
def test_an_unknown_scheme_is_answered_with_the_known_ones(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=r"^unknown position scheme pos_embed=") as error:
        make_pos_embed(name, spec((2, 2), 8, prefix=1))
    assert str(error.value).endswith(f"{name!r}\nhint: {hint}{', '.join(POS_EMBEDS)}")


@pytest.mark.parametrize(
    ("name", "dim"),
    [("learned2d", 7), ("sincos1d", 7), ("sincos2d", 6), ("sincos2d", 10), ("sincos2d", 4)],
)
def test_a_width_without_room_for_sine_and_cosine_is_refused(name: str, dim: int) -> None:
    with pytest.raises(ValueError, match=f"pos_embed='{name}' needs .*embed_dim.* not {dim}$"):
        make_pos_embed(name, spec((2, 2), dim, prefix=1))


# Learned


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_a_learned_table_has_a_row_for_every_patch_and_every_token_of_the_prefix(
    prefix: int,
) -> None:
    scheme = make_pos_embed("learned", spec((2, 3), 8, prefix=prefix))
    assert isinstance(scheme, Learned)
    assert scheme.table.shape == (1, prefix + 6, 8)


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_learned_positions_follow_the_grid_of_the_image(prefix: int) -> None:
    scheme = Learned(spec((2, 3), 8, prefix=prefix))
    torch.nn.init.normal_(scheme.table, generator=torch.Generator().manual_seed(0))
    wanted = resample(scheme.table, (2, 3), (4, 5), prefix=prefix)[0]
    assert torch.equal(positions(scheme, prefix + 20, (4, 5)), wanted.detach())
    assert torch.equal(positions(scheme, prefix + 6, (2, 3)), scheme.table[0].detach())


# Learned, by axis


@pytest.mark.parametrize("prefix", [0, 1, 2])
@pytest.mark.parametrize("grid", [(3, 3), (2, 5), (4, 1)])
def test_learned2d_is_the_column_half_beside_the_row_half(
    grid: tuple[int, int], prefix: int
) -> None:
    scheme = moved(Learned2d(spec(grid, 6, prefix=prefix)))
    assert isinstance(scheme, Learned2d)
    wanted = [] if scheme.table_prefix is None else [*scheme.table_prefix.detach()]
    assert len(wanted) == prefix
    for y in range(grid[0]):
        wanted += [torch.cat([scheme.table_x[x], scheme.table_y[y]]) for x in range(grid[1])]
    assert torch.equal(positions(scheme, prefix + grid[0] * grid[1], grid), torch.stack(wanted))
    assert sum(p.numel() for p in scheme.parameters()) == 6 * prefix + 3 * sum(grid)


def test_each_axis_of_learned2d_is_resampled_by_itself_as_pillow_does() -> None:
    scheme = moved(Learned2d(spec((4, 6), 6, prefix=1)))
    assert isinstance(scheme, Learned2d)
    new = scheme.resampled((4, 9))
    assert torch.equal(new["table_y"], scheme.table_y.detach())
    columns = scheme.table_x.detach().numpy()
    for channel, found in zip(columns.T, new["table_x"].T, strict=True):
        image = Image.fromarray(np.ascontiguousarray(channel[None]))
        wanted = np.asarray(image.resize((9, 1), Image.Resampling.BICUBIC))[0]
        # Measured: 2e-7.
        np.testing.assert_allclose(found.numpy(), wanted, rtol=0, atol=5e-6)
    other = Learned2d(spec((4, 9), 6, prefix=1))
    other.load_state_dict(new)
    assert torch.equal(positions(other, 37, (4, 9)), positions(scheme, 37, (4, 9)))


# Sines and cosines


@pytest.mark.parametrize(("dim", "grid"), [(2, (2, 3)), (8, (4, 4)), (32, (14, 14))])
@pytest.mark.parametrize("cls_token", [True, False])
def test_sincos1d_is_the_formula_of_vaswani(
    dim: int, grid: tuple[int, int], cls_token: bool
) -> None:
    rows = grid[0] * grid[1] + cls_token
    found = positions(
        make_pos_embed("sincos1d", spec(grid, dim, prefix=int(cls_token))), rows, grid
    )
    wanted = torch.zeros(rows, dim)
    for p in range(rows):
        for i in range(dim // 2):
            angle = p / 10_000 ** (2 * i / dim)
            wanted[p, 2 * i] = math.sin(angle)
            wanted[p, 2 * i + 1] = math.cos(angle)
    # Measured: 5e-6, as a float32 angle of the size of 100 is known to that much.
    torch.testing.assert_close(found, wanted, rtol=0, atol=3e-5)


@pytest.mark.parametrize(("dim", "grid"), [(8, (2, 3)), (12, (5, 4)), (32, (14, 14))])
@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_sincos2d_is_the_formula_of_moco_v3(dim: int, grid: tuple[int, int], prefix: int) -> None:
    rows, quarter = prefix + grid[0] * grid[1], dim // 4
    found = positions(make_pos_embed("sincos2d", spec(grid, dim, prefix=prefix)), rows, grid)
    wanted = torch.zeros(rows, dim)  # the rows of class and distillation token stay zero
    for y in range(grid[0]):
        for x in range(grid[1]):
            for i in range(quarter):
                omega = 1 / 10_000 ** (i / (quarter - 1))
                row = wanted[prefix + y * grid[1] + x]
                row[i], row[quarter + i] = math.sin(x * omega), math.cos(x * omega)
                row[2 * quarter + i] = math.sin(y * omega)
                row[3 * quarter + i] = math.cos(y * omega)
    # Measured: 2e-7.
    torch.testing.assert_close(found, wanted, rtol=0, atol=5e-6)


# Rotary


def rope(grid: tuple[int, int], head_dim: int, theta: float = 100.0) -> Rotation:
    """The rotation for a grid, from a scheme made for another one."""
    made_for = PosSpec(grid=(2, 2), embed_dim=8, head_dim=head_dim, prefix=1, theta=theta)
    rotation = make_pos_embed("rope2d", made_for).rotation(grid, CPU)
    assert rotation is not None
    return rotation


@pytest.mark.parametrize(
    ("grid", "head_dim", "theta"),
    [((2, 3), 4, 100.0), ((5, 4), 8, 100.0), ((1, 7), 12, 10.0), ((14, 14), 64, 100.0)],
)
def test_rope2d_turns_by_the_angles_of_dinov3(
    grid: tuple[int, int], head_dim: int, theta: float
) -> None:
    quarter, rotation = head_dim // 4, rope(grid, head_dim, theta)
    angles = torch.zeros(grid[0] * grid[1], head_dim)
    for y in range(grid[0]):
        for x in range(grid[1]):
            centre = ((y + 0.5) / grid[0], (x + 0.5) / grid[1])
            for axis in range(2):
                for i in range(quarter):
                    period = theta ** (i / quarter)
                    angle = 2 * math.pi * (2 * centre[axis] - 1) / period
                    for half in (0, head_dim // 2):
                        angles[y * grid[1] + x, half + axis * quarter + i] = angle
    # Measured: 5e-7, as a float32 angle of the size of 6 is known to that much.
    torch.testing.assert_close(rotation.sin, angles.sin(), rtol=0, atol=5e-6)
    torch.testing.assert_close(rotation.cos, angles.cos(), rtol=0, atol=5e-6)


def test_the_longest_period_is_100_unless_told_otherwise() -> None:
    plain = Rope2d(PosSpec(grid=(2, 2), embed_dim=8, head_dim=8, prefix=1))
    for found, wanted in zip(plain.rotation((3, 2), CPU), rope((3, 2), 8, 100.0), strict=True):
        assert torch.equal(found, wanted)


@pytest.mark.parametrize("prefix", [0, 1, 4])
@pytest.mark.parametrize("grid", [(3, 2), (1, 5)])
def test_a_rotation_turns_pairs_of_channels_of_the_patches_and_leaves_the_prefix(
    prefix: int, grid: tuple[int, int]
) -> None:
    rotation, count = rope(grid, 8), grid[0] * grid[1]
    x = random(2, 3, prefix + count, 8)
    found = rotation.turn(x)
    assert torch.equal(found[:, :, :prefix], x[:, :, :prefix])
    pairs = torch.complex(x[..., :4], x[..., 4:])[:, :, prefix:]
    turned = pairs * torch.complex(rotation.cos, rotation.sin)[:, :4]
    wanted = torch.cat([turned.real, turned.imag], dim=-1)
    # Measured: 1e-7.
    torch.testing.assert_close(found[:, :, prefix:], wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (6, 1)])
def test_products_of_turned_queries_and_keys_depend_on_the_offset_only(
    grid: tuple[int, int],
) -> None:
    rotation, count = rope(grid, 16), grid[0] * grid[1]
    q, k = (random(16, seed=seed).expand(1, 1, count, 16) for seed in (1, 2))
    products = (rotation.turn(q) @ rotation.turn(k).mT)[0, 0]
    by_offset: dict[tuple[int, int], list[float]] = {}
    for i in range(count):
        for j in range(count):
            offset = (j // grid[1] - i // grid[1], j % grid[1] - i % grid[1])
            by_offset.setdefault(offset, []).append(products[i, j].item())
    # Measured: 2e-6 within an offset, 0.003 between the two nearest.
    assert max(max(same) - min(same) for same in by_offset.values()) < 5e-5
    means = sorted(sum(same) / len(same) for same in by_offset.values())
    assert min(b - a for a, b in pairwise(means)) > 5e-4


def test_a_rotation_is_computed_in_single_precision_and_keeps_the_type_of_the_tokens() -> None:
    rotation, x = rope((3, 5), 8), random(2, 3, 17, 8).bfloat16()
    found = rotation.turn(x)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, rotation.turn(x.float()).bfloat16())


@pytest.mark.parametrize("head_dim", [2, 6])
def test_a_head_without_room_for_mixed_pairs_is_refused(head_dim: int) -> None:
    with pytest.raises(ValueError, match=r"^pos_embed='rope2d_mixed' needs .* 4 .* not "):
        mixed(2, head_dim)


@pytest.mark.parametrize("head_dim", [1, 2, 6, 15])
def test_a_head_without_room_for_two_axes_of_pairs_is_refused(head_dim: int) -> None:
    with pytest.raises(ValueError, match=f"^pos_embed='rope2d' needs .* 4 .* not {head_dim}$"):
        rope((2, 2), head_dim)


def mixed(heads: int, head_dim: int, theta: float | None = None) -> Rope2dMixed:
    torch.manual_seed(0)
    made_for = PosSpec(
        grid=(2, 2), embed_dim=8, head_dim=head_dim, prefix=1, num_heads=heads, theta=theta
    )
    return Rope2dMixed(made_for)


@pytest.mark.parametrize("grid", [(3, 3), (2, 5)])
def test_rope2d_mixed_turns_each_head_by_its_own_frequencies(grid: tuple[int, int]) -> None:
    scheme = mixed(3, 8)
    rotation = scheme.rotation(grid, CPU)
    found = torch.complex(rotation.cos, rotation.sin)
    for head in range(3):
        for y in range(grid[0]):
            for x in range(grid[1]):
                for i in range(8):
                    fx, fy = scheme.freqs[:, head, i % 4].tolist()
                    wanted = complex(math.cos(fx * x + fy * y), math.sin(fx * x + fy * y))
                    # Measured: 3e-7.
                    assert abs(found[head, y * grid[1] + x, i].item() - wanted) < 5e-6


@pytest.mark.parametrize(("theta", "base"), [(None, 10.0), (100.0, 100.0)])
def test_the_mixed_frequencies_start_in_two_directions_at_right_angles(
    theta: float | None, base: float
) -> None:
    scheme = mixed(2, 12, theta)
    first, second = scheme.freqs.detach().unflatten(-1, (2, 3)).unbind(-2)  # 2 h e/4
    lengths = base ** -(torch.arange(3) / 3)
    # Measured: 6e-8 for each.
    torch.testing.assert_close(first.norm(dim=0), lengths.expand(2, 3), rtol=0, atol=1e-6)
    torch.testing.assert_close(second.norm(dim=0), lengths.expand(2, 3), rtol=0, atol=1e-6)
    assert (first * second).sum(0).abs().max() < 1e-6
    direction = first / first.norm(dim=0)
    torch.testing.assert_close(direction, direction[..., :1].expand_as(direction))
    assert (direction[:, 0] - direction[:, 1]).abs().max() > 0.01  # heads differ


def test_mixed_products_depend_on_the_offset_only() -> None:
    rotation, (rows, cols) = mixed(2, 8).rotation((4, 5), CPU), (4, 5)
    q, k = (random(2, 8, seed=seed)[None, :, None].expand(1, 2, 20, 8) for seed in (1, 2))
    products = (rotation.turn(q) @ rotation.turn(k).mT)[0].detach()
    for i in range(rows * cols):
        for j in range(rows * cols):
            if i // cols and i % cols and j // cols and j % cols:
                # Measured: 2e-6.
                moved_back = products[:, i - cols - 1, j - cols - 1]
                assert (products[:, i, j] - moved_back).abs().max() < 5e-5


# Resampling


@pytest.mark.parametrize("prefix", [0, 1])
def test_the_same_grid_gives_the_very_table(prefix: int) -> None:
    table = random(1, prefix + 6, 4)
    assert resample(table, (2, 3), (2, 3), prefix=prefix) is table


@given(old=st.tuples(SIDES, SIDES), new=st.tuples(SIDES, SIDES), prefix=st.integers(0, 2))
@PROPERTY
def test_the_class_row_is_kept_and_plays_no_part_in_the_patches(
    old: tuple[int, int], new: tuple[int, int], prefix: int
) -> None:
    table = random(1, prefix + old[0] * old[1], 4)
    found = resample(table, old, new, prefix=prefix)
    assert found.shape == (1, prefix + new[0] * new[1], 4)
    assert torch.equal(found[:, :prefix], table[:, :prefix])
    assert torch.equal(found[:, prefix:], resample(table[:, prefix:], old, new, prefix=0))


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_bilinear_is_scipys_zoom_as_in_the_papers_code(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    table = random(1, old[0] * old[1], 4)
    found = resample(table, old, new, prefix=0, mode="bilinear")
    factors = (new[0] / old[0], new[1] / old[1])
    for before, after in zip(as_images(table, old), as_images(found, new), strict=True):
        wanted = ndimage.zoom(before, factors, order=1)
        # Measured: 1e-7.
        np.testing.assert_allclose(after, wanted, rtol=0, atol=5e-6)


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_bicubic_is_pillows(old: tuple[int, int], new: tuple[int, int]) -> None:
    table = random(1, old[0] * old[1], 4)
    found = resample(table, old, new, prefix=0)
    for before, after in zip(as_images(table, old), as_images(found, new), strict=True):
        image = Image.fromarray(np.ascontiguousarray(before))
        wanted = np.asarray(image.resize(new[::-1], Image.Resampling.BICUBIC))
        # Measured: 9e-7.
        np.testing.assert_allclose(after, wanted, rtol=0, atol=5e-6)


@given(old=st.tuples(SIDES, SIDES), new=st.tuples(SIDES, SIDES), value=st.floats(-3, 3, width=32))
@PROPERTY
def test_a_constant_stays_constant(
    old: tuple[int, int], new: tuple[int, int], value: float
) -> None:
    table = torch.full((1, old[0] * old[1], 2), value)
    for found in (
        resample(table, old, new, prefix=0),
        resample(table, old, new, prefix=0, mode="bilinear"),
    ):
        # Measured: 2e-7, from weights that sum to 1 within a rounding error.
        torch.testing.assert_close(found, torch.full_like(found, value), rtol=0, atol=5e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_table_keeps_its_type(dtype: torch.dtype) -> None:
    assert resample(random(1, 7, 4).to(dtype), (2, 3), (3, 3), prefix=1).dtype == dtype
