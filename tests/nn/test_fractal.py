"""FractalNet's drop-path has the properties that its authors give it."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tessera.nn import fractal
from tessera.nn.fractal import (
    FractalBlock,
    FractalNet,
    PathDraw,
    ResidualDrop,
    ResidualPaths,
    draw_paths,
    fractal_channels,
    join,
    survivors,
)
from tessera.nn.noise import Noisy, key_noise


class Source(Noisy):
    """Where random numbers come from."""


SEEDS = st.integers(0, 2**32 - 1)
COUNTS = st.integers(1, 5)


@given(seed=SEEDS, count=COUNTS, rate=st.floats(0, 1))
def test_at_least_one_input_of_a_join_survives(seed: int, count: int, rate: float) -> None:
    torch.manual_seed(seed)
    alive = survivors(torch.rand(count), torch.rand(()), rate)
    assert alive.shape == (count,)
    assert alive.any()
    if rate == 0:
        assert alive.all()
    if rate == 1:
        assert alive.sum() == 1


def drawn(count: int, rate: float) -> Tensor:
    """What one join of the local half keeps."""
    draw = draw_paths(Source(), torch.zeros(2, 1), count, rate)
    return draw.alive(range(count))[:, ~draw.is_global][:, 0]


def test_an_input_is_dropped_as_often_as_its_rate_says() -> None:
    torch.manual_seed(0)
    draws = torch.stack([drawn(3, 0.15) for _ in range(400)])
    # 0.15 of each, less the third of 0.15^3 that is restored; the standard error is 0.0179.
    wanted = 0.85 + 0.15**3 / 3
    assert (draws.float().mean(dim=0) - wanted).abs().max() < 4 * 0.0179
    restored = torch.stack([drawn(3, 1.0) for _ in range(400)]).float().mean(dim=0)
    assert (restored - 1 / 3).abs().max() < 4 * 0.0236


def random_alive(seed: int, count: int, batch: int) -> Tensor:
    torch.manual_seed(seed)
    rows = [survivors(torch.rand(count), torch.rand(()), 0.5) for _ in range(batch)]
    return torch.stack(rows, dim=1)


@given(seed=SEEDS, count=COUNTS, batch=st.integers(1, 4))
def test_a_join_is_the_mean_of_the_survivors(seed: int, count: int, batch: int) -> None:
    alive = random_alive(seed, count, batch)
    paths = [torch.randn(batch, 2, 3, 3) for _ in range(count)]
    found = join(paths, alive)
    for image in range(batch):
        living = [path[image] for path, lives in zip(paths, alive[:, image], strict=True) if lives]
        wanted = sum(living[1:], living[0]) / len(living)
        # Measured: 2.4e-7.
        torch.testing.assert_close(found[image], wanted, rtol=0, atol=1e-6)


@given(seed=SEEDS, count=COUNTS)
def test_equal_inputs_pass_a_join_unchanged(seed: int, count: int) -> None:
    alive = random_alive(seed, count, 3)
    path = torch.randn(3, 2, 4, 4)
    # Measured: 2.4e-7, where values reach 4.
    torch.testing.assert_close(join([path] * count, alive), path, rtol=0, atol=1e-6)


@given(seed=SEEDS, batch=st.integers(1, 9), columns=COUNTS)
def test_half_of_the_batch_drops_globally(seed: int, batch: int, columns: int) -> None:
    torch.manual_seed(seed)
    draw = draw_paths(Source(), torch.zeros(batch, 1), columns, 0.15)
    assert int(draw.is_global.sum()) in {batch // 2, (batch + 1) // 2}
    assert 0 <= draw.column < columns


@given(seed=SEEDS, chosen=st.integers(0, 3), inputs=st.sets(st.integers(0, 3), min_size=1))
def test_one_column_passes_every_join_that_it_enters(
    seed: int, chosen: int, inputs: set[int]
) -> None:
    torch.manual_seed(seed)
    columns = sorted(inputs)
    draw = PathDraw(
        rate=0.5,
        column=torch.tensor(chosen),
        is_global=torch.tensor([False, True, True]),
        key=torch.randint(9, (2,), dtype=torch.int32),
    )
    alive = draw.alive(columns)
    assert alive.any(dim=0).all()
    for image in (1, 2):
        passed = [c for c, lives in zip(columns, alive[:, image], strict=True) if lives]
        assert passed == ([chosen] if chosen in columns else columns)


def everywhere(column: int, batch: int) -> PathDraw:
    return PathDraw(
        rate=0.0,
        column=torch.tensor(column),
        is_global=torch.ones(batch, dtype=torch.bool),
        key=torch.zeros(2, dtype=torch.int32),
    )


def recursive(block: FractalBlock, x: Tensor) -> Tensor:
    """The rule as written: f_1 is a convolution, f_{c+1} is f_c after f_c joined with one."""
    used = [0] * len(block.columns)

    def unit(column: int, z: Tensor) -> Tensor:
        used[column] += 1
        return block.columns[column][used[column] - 1](z)  # type: ignore[index]

    def paths(level: int, z: Tensor) -> list[Tensor]:
        """What f_level joins, shallowest first; the deepest column is the last."""
        column = len(block.columns) - level
        if level == 1:
            return [unit(column, z)]
        # The convolution is called first only so that units are used in their order.
        beside = unit(column, z)
        inner = paths(level - 1, z)
        middle = torch.stack(inner).mean(dim=0)
        return [beside, *paths(level - 1, middle)]

    return torch.stack(paths(len(block.columns), x)).mean(dim=0)


@pytest.mark.parametrize("columns", [1, 2, 3, 4])
def test_a_block_is_the_recursive_rule(columns: int) -> None:
    torch.manual_seed(0)
    block = FractalBlock(2, 3, columns).eval()
    x = torch.randn(2, 2, 5, 5)
    # Measured: 3.0e-8, where values are of order 0.1.
    torch.testing.assert_close(block(x), recursive(block, x), rtol=0, atol=1e-5)
    assert [len(units) for units in block.columns] == [2**c for c in range(columns)]  # type: ignore[arg-type]


@pytest.mark.parametrize("column", [0, 1, 2])
def test_in_global_mode_the_network_is_one_plain_chain(column: int) -> None:
    torch.manual_seed(0)
    net = FractalNet(3, blocks=2, width=4, columns=3, path_rate=0.5, drop_rate=0.0).eval()
    images = torch.randn(2, 3, 8, 8)
    x = wanted = images
    for block in net.stages:
        x = nn.functional.max_pool2d(block(x, everywhere(column, 2)), 2)
        for unit in block.columns[column]:  # type: ignore[index]
            wanted = unit(wanted)
        wanted = nn.functional.max_pool2d(wanted, 2)
    net.only_column = column
    # Measured: 0.
    torch.testing.assert_close(x, wanted, rtol=0, atol=1e-6)
    torch.testing.assert_close(net(images), wanted.flatten(2).mT, rtol=0, atol=1e-6)


def test_one_column_is_drawn_for_the_whole_network(monkeypatch: pytest.MonkeyPatch) -> None:
    draws: list[PathDraw] = []
    original = fractal.draw_paths

    def draw(*arguments: Any) -> PathDraw:
        draws.append(original(*arguments))
        return draws[-1]

    monkeypatch.setattr(fractal, "draw_paths", draw)
    torch.manual_seed(0)
    net = FractalNet(3, blocks=3, width=2, columns=3, path_rate=0.15, drop_rate=0.0)
    images = torch.randn(4, 3, 8, 8)
    for _ in range(30):
        net(images)
    assert len(draws) == 30  # one for all blocks, and a new one for every mini-batch
    assert {int(d.column) for d in draws} == {0, 1, 2}


def test_the_global_half_teaches_its_column_alone() -> None:
    torch.manual_seed(0)
    block = FractalBlock(2, 3, 3)
    block(torch.randn(2, 2, 4, 4), everywhere(1, 2)).sum().backward()
    taught = {
        c
        for c, units in enumerate(block.columns)
        if any(bool(p.grad is not None and p.grad.any()) for p in units.parameters())
    }
    assert taught == {1}


def test_nothing_is_dropped_at_test() -> None:
    torch.manual_seed(0)
    net = FractalNet(3, blocks=2, width=4, columns=3, path_rate=0.9, drop_rate=0.5).eval()
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(net(images), net(images))
    x = images
    for block in net.stages:
        x = nn.functional.max_pool2d(recursive(block, x), 2)  # type: ignore[arg-type]
    # Measured: 1.9e-8.
    torch.testing.assert_close(net(images), x.flatten(2).mT, rtol=0, atol=1e-5)


def test_channels_and_dropout_are_the_published_ones() -> None:
    assert fractal_channels(5, 64) == [64, 128, 256, 512, 512]
    net = FractalNet(3, blocks=5, width=2, columns=1, path_rate=0.0, drop_rate=0.4)
    assert [drop.rate for drop in net.drops] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


@given(seed=SEEDS, depth=st.integers(1, 12))
def test_ours_keeps_every_2_to_the_jth_block_of_the_global_half(seed: int, depth: int) -> None:
    torch.manual_seed(seed)
    paths = ResidualPaths(depth)
    drops = [ResidualDrop(0.0, i, paths).train() for i in range(depth)]
    paths.draw(torch.zeros(4, 1, 1))
    assert paths.drawn is not None
    is_global = paths.drawn.is_global
    branch = torch.ones(4, 1, 1)
    kept = torch.cat([drop(branch) for drop in drops], dim=1)[..., 0]  # b depth
    assert kept[~is_global].all()  # rate 0, and nothing is rescaled
    step = 2 ** int(paths.drawn.column)
    wanted = [float((i + 1) % step == 0) for i in range(depth)]
    assert all(row.tolist() == wanted for row in kept[is_global])
    assert sum(wanted) >= 1


def test_ours_drops_the_local_half_by_rate_and_nothing_at_test() -> None:
    torch.manual_seed(0)
    paths = ResidualPaths(1)
    drop = ResidualDrop(0.3, 0, paths).train()
    paths.draw(torch.zeros(8000, 1, 1))
    assert paths.drawn is not None
    kept = drop(torch.ones(8000, 1, 1))[~paths.drawn.is_global].mean().item()
    assert kept == pytest.approx(0.7, abs=4 * 0.0073)  # the standard error of 4000 draws
    assert torch.equal(drop.eval()(torch.ones(3, 1, 1)), torch.ones(3, 1, 1))


@given(seed=SEEDS, batch=st.integers(2, 9))
def test_with_a_key_parts_of_a_batch_drop_what_the_whole_would(seed: int, batch: int) -> None:
    whole, part = Source(), Source()
    rows = torch.arange(batch)
    key_noise(whole, seed, rows)
    one = draw_paths(whole, torch.zeros(batch, 1), 3, 0.5)
    key_noise(part, seed, rows[1:])
    two = draw_paths(part, torch.zeros(batch - 1, 1), 3, 0.5)
    assert one.column == two.column
    assert torch.equal(one.is_global[1:], two.is_global)
    for columns in ([0, 1], [2], [0, 1, 2]):
        assert torch.equal(one.alive(columns)[:, 1:], two.alive(columns))
