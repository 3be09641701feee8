"""PatchDrop to the letter: how many cells, which, how black, and for whom."""

import numpy as np
import pytest
import torch

from tessera.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from tessera.robustness.cells import cell_numbers
from tessera.robustness.normalised import Normalised
from tessera.robustness.occlusion import (
    GRID,
    MASSES,
    RATIOS,
    RUNS,
    cells_by_mass,
    draw_cells,
    drop_cells,
    dropped_count,
)


def test_ratios_runs_and_grid_are_the_papers() -> None:
    assert GRID == (14, 14)
    assert RUNS == 5
    assert RATIOS == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    assert MASSES == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_ratio_drops_that_share_of_the_cells(ratio: float) -> None:
    count = dropped_count(ratio, 196)
    assert abs(count / 196 - ratio) <= 0.5 / 196
    drawn = draw_cells(196, count, np.random.default_rng(3))
    assert int(drawn.sum()) == count
    pixels = torch.rand(2, 3, 224, 224) * 0.9 + 0.1
    black = (drop_cells(pixels, drawn[None], GRID) == 0).all(dim=1)
    assert black.sum(dim=(1, 2)).tolist() == [count * 16 * 16] * 2
    assert torch.equal(black[0], black[1])  # the same cells in every image of the draw


def test_dropped_cells_are_the_16_pixel_squares_and_the_rest_is_untouched() -> None:
    pixels = torch.rand(1, 3, 224, 224)
    dropped = torch.zeros(1, 196, dtype=torch.bool)
    dropped[0, 15] = True  # row 1, column 1
    changed = drop_cells(pixels, dropped, GRID)
    assert not changed[:, :, 16:32, 16:32].any()
    changed[:, :, 16:32, 16:32] = pixels[:, :, 16:32, 16:32]
    assert torch.equal(changed, pixels)


def test_cells_are_black_before_the_normalisation() -> None:
    net = Normalised(torch.nn.Flatten(), IMAGENET_MEAN, IMAGENET_STD)
    gone = drop_cells(torch.rand(1, 3, 14, 14), torch.ones(1, 196, dtype=torch.bool), GRID)
    seen = net(gone).view(3, -1)
    black = -torch.tensor(IMAGENET_MEAN) / torch.tensor(IMAGENET_STD)
    assert torch.allclose(seen, black[:, None].expand_as(seen))
    assert (seen != 0).all()  # black is not the mean


@pytest.mark.parametrize("grid", [(4, 4), (4, 8), (7, 7), (8, 8), (16, 16), (224, 224)])
def test_other_grids_of_the_paper_cut_equal_cells(grid: tuple[int, int]) -> None:
    counts = torch.bincount(cell_numbers((224, 224), grid).flatten())
    assert counts.tolist() == [224 * 224 // (grid[0] * grid[1])] * (grid[0] * grid[1])


def test_cells_that_do_not_divide_the_image_differ_by_one_pixel_and_cover_it() -> None:
    numbers = cell_numbers((32, 28), (14, 14))
    assert numbers.unique().tolist() == list(range(196))
    heights = {int((numbers[:, 0] == row * 14).sum()) for row in range(14)}
    assert heights == {2, 3}
    with pytest.raises(ValueError, match="hint: at most 8x8"):
        cell_numbers((8, 8), (14, 14))


def test_salient_cells_are_the_fewest_that_hold_the_share() -> None:
    mass = torch.tensor([[0.1, 0.5, 0.1, 0.3]])
    cells = {s: cells_by_mass(mass, s, salient=True)[0].tolist() for s in (0.4, 0.5, 0.6, 0.8, 1.0)}
    assert cells[0.4] == cells[0.5] == [False, True, False, False]
    assert cells[0.6] == cells[0.8] == [False, True, False, True]
    assert cells[1.0] == [True] * 4
    least = cells_by_mass(mass, 0.2, salient=False)[0].tolist()
    assert least == [True, False, True, False]


@pytest.mark.parametrize("share", MASSES)
def test_salient_and_non_salient_cells_against_a_loop(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    mass = torch.rand(5, 49, generator=generator).double() ** 3
    top = cells_by_mass(mass.float(), share, salient=True)
    low = cells_by_mass(mass.float(), share, salient=False)
    for row, values in enumerate(mass.float().double().tolist()):
        total, held, taken = sum(values), 0.0, set()
        for cell in sorted(range(49), key=lambda c: -values[c]):
            if held / total < share - 1e-6 or share == 1:
                taken.add(cell)
                held += values[cell]
        assert {c for c in range(49) if top[row, c]} == taken
        assert sum(values[c] for c in range(49) if low[row, c]) / total <= share + 2e-6
    assert torch.equal(low, ~cells_by_mass(mass.float(), 1 - share, salient=True))
