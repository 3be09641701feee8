"""Tests that hide pixels or move them: PatchDrop, at random and by salience, and permutation."""

import torch
from torch import Tensor

from tessera.robustness.cells import Grid
from tessera.robustness.normalised import Normalised
from tessera.robustness.occlusion import (
    TOGETHER,
    cells_by_mass,
    draw_cells,
    drop_cells,
    dropped_count,
)
from tessera.robustness.permutation import divides, permute_cells, without_positions
from tessera.stress.levels import Level, Planned, percent
from tessera.stress.settings import StressSettings
from tessera.stress.subject import Found, Subject


def plan_occlusion(subject: Subject, settings: StressSettings) -> Planned:
    """Random PatchDrop over ratios and grids."""
    planned = Planned()
    for grid in settings.grids:
        fitting = (min(grid[0], subject.size[0]), min(grid[1], subject.size[1]))
        if fitting != grid:
            planned.notes.append(
                f"a grid of {_grid(grid)} is finer than the pixels of {_grid(subject.size)} "
                f"images: {_grid(fitting)} in its place"
            )
        for ratio in settings.ratios:
            planned.levels.append(_random_level(subject, settings, ratio, fitting))
    return planned


def _random_level(subject: Subject, settings: StressSettings, ratio: float, grid: Grid) -> Level:
    cells = grid[0] * grid[1]
    count = dropped_count(ratio, cells)
    runs = settings.runs if count else 1  # nothing is drawn where nothing is dropped

    def measure() -> Found:
        logits = []
        for run in range(runs):
            groups = -(-len(subject.data) // TOGETHER)
            draws = [
                draw_cells(cells, count, subject.rng("occlusion", *grid, count, run, group))
                for group in range(groups)
            ]
            masks = torch.stack(draws)

            def change(pixels: Tensor, rows: slice, masks: Tensor = masks) -> Tensor:
                places = torch.arange(rows.start, rows.stop) // TOGETHER
                return drop_cells(pixels, masks[places], grid)

            logits.append(subject.answers(change))
        return subject.found(logits, dropped=count / cells)

    return Level(
        series=f"random, {_grid(grid)} cells",
        value=ratio,
        text=percent(ratio),
        passes=runs * len(subject.data),
        measure=measure,
    )


def plan_salience(subject: Subject, settings: StressSettings) -> Planned:
    """PatchDrop of the most and of the least salient cells, by shares of the salience."""
    source = subject.salience_of
    if source is None:
        return Planned(
            notes=[
                "salient and non-salient cells are not known: the model answers from neither a "
                "class token nor a weighted pooling; --salience MODEL takes another's attention"
            ]
        )
    heads = subject.salience_heads
    if settings.head is not None and not 0 <= settings.head < heads:
        raise ValueError(
            f"--head {settings.head} is not in a model of {heads} heads\n"
            f"hint: 0 to {heads - 1}, or leave it out for their mean"
        )
    planned = Planned(notes=[f"salience: {source}, {_head(settings.head)}"])
    known: list[tuple[Tensor, Grid]] = []  # computed when the first level is measured

    def level(share: float, *, salient: bool) -> Level:
        def measure() -> Found:
            if not known:
                known.append(subject.salience(settings.head))
            mass, grid = known[0]
            dropped = cells_by_mass(mass, share, salient=salient)

            def change(pixels: Tensor, rows: slice) -> Tensor:
                return drop_cells(pixels, dropped[rows], grid)

            logits = subject.answers(change)
            return subject.found([logits], dropped=float(dropped.float().mean()))

        return Level(
            series="salient" if salient else "non-salient",
            value=share,
            text=percent(share),
            passes=len(subject.data),
            measure=measure,
        )

    for salient in (True, False):
        planned.levels += [level(share, salient=salient) for share in settings.masses]
    return planned


def _head(head: int | None) -> str:
    return "mean of the heads" if head is None else f"head {head}"


def plan_permutation(subject: Subject, settings: StressSettings) -> Planned:
    """Cells in random order, for the model as it is and without its positions."""
    planned = Planned()
    whole: list[Grid] = [g for g in settings.permutations if divides(subject.size, g)]
    left = [_grid(grid) for grid in settings.permutations if grid not in whole]
    if left:
        planned.notes.append(
            f"{_grid(subject.size)} pixels do not fall into {', '.join(left)} equal cells, which "
            "could change places: not measured"
        )
    planned.levels += [_permuted(subject, grid, "as it is", None) for grid in whole]
    try:
        bare = subject.wrap(without_positions(subject.loaded.model))
    except ValueError as error:
        planned.notes.append(f"without positions: {error}")
        return planned
    if subject.loaded.model.config.attention != "global":
        planned.notes.append("without positions: the pattern of the attention still knows places")
    for grid in [(1, 1), *whole]:
        planned.levels.append(_permuted(subject, grid, "without positions", bare))
    return planned


def _permuted(subject: Subject, grid: Grid, series: str, net: Normalised | None) -> Level:
    cells = grid[0] * grid[1]

    def change(pixels: Tensor, rows: slice) -> Tensor:
        if cells == 1:
            return pixels
        orders = [rng.permutation(cells) for rng in subject.rngs(f"order {_grid(grid)}", rows)]
        return permute_cells(pixels, torch.stack([torch.from_numpy(o) for o in orders]), grid)

    def measure() -> Found:
        return subject.found([subject.answers(change, net=net)])

    return Level(
        series=series,
        value=float(cells),
        text=_grid(grid),
        passes=len(subject.data),
        measure=measure,
    )


def _grid(grid: tuple[int, int]) -> str:
    return f"{grid[0]}x{grid[1]}"
