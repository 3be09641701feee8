"""Who shares a draw of cells, and which images are attacked: both asked of the plans themselves."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tessera.checkpoint.artifact import Header, LoadedModel
from tessera.data.preprocessing import Preprocessing
from tessera.data.sources import find_data
from tessera.models.variants import parse
from tessera.models.vit import ViT
from tessera.robustness.attacks import fgsm
from tessera.robustness.occlusion import TOGETHER, drop_cells
from tessera.stress import attacking, occluding
from tessera.stress.levels import Planned
from tessera.stress.settings import StressSettings
from tessera.stress.subject import Subject, as_floats

IMAGES = 600
"""Two groups that share a draw, and a part of a third."""

Plan = Callable[[Subject, StressSettings], Planned]


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    torch.manual_seed(0)
    data = find_data("digits")["train"]
    config = parse("vit_mu_patch4", img_size=8, in_chans=1, num_classes=10)
    prepare = Preprocessing(size=(8, 8), channels=1, mean=(0.5,), std=(0.5,))
    header = Header(config=config, preprocessing=prepare, class_names=data.class_names)
    model = ViT(config, init="timm")
    return LoadedModel(model=model, header=header, path=Path("mu.safetensors"))


def make_subject(
    loaded: LoadedModel, batch_size: int, images: int = IMAGES, seed: int = 0
) -> Subject:
    data = find_data("digits")["train"]
    assert len(data) >= IMAGES + 40
    return Subject(
        name="mu",
        loaded=loaded,
        data=data.subset(np.arange(images)),
        fitting=data.subset(np.arange(IMAGES, IMAGES + 40)),
        device=torch.device("cpu"),
        batch_size=batch_size,
        seed=seed,
    )


def cells_of(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, batch_size: int, seed: int = 0
) -> Tensor:
    """Which cells were dropped: two runs, images, cells."""
    seen: list[Tensor] = []

    def spy(pixels: Tensor, dropped: Tensor, grid: tuple[int, int]) -> Tensor:
        assert len(dropped) == len(pixels)
        seen.append(dropped)
        return drop_cells(pixels, dropped, grid)

    monkeypatch.setattr(occluding, "drop_cells", spy)
    settings = StressSettings(ratios=(0.5,), runs=2, grids=((8, 8),))
    (level,) = occluding.plan_occlusion(
        make_subject(loaded, batch_size, seed=seed), settings
    ).levels
    assert level.measure().images == IMAGES
    return torch.cat(seen).reshape(2, IMAGES, 64)


def test_256_images_share_a_draw_whatever_the_batch(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert TOGETHER == 256
    cells = cells_of(loaded, monkeypatch, 64)
    draws = []
    for run in cells:
        for group in run.split(256):  # 256, 256 and 88 images
            assert (group == group[0]).all()
            draws.append(group[0])
    assert len(draws) == 6
    assert all(int(draw.sum()) == 32 for draw in draws)
    # Of 32 cells, two draws that know nothing of each other share 16, with a deviation of 2.
    for i, one in enumerate(draws):
        for other in draws[:i]:
            assert 6 <= int((one & other).sum()) <= 26
    for batch_size in (100, 1000):  # over the edges of groups, and all at once
        assert torch.equal(cells_of(loaded, monkeypatch, batch_size), cells)
    assert not torch.equal(cells_of(loaded, monkeypatch, 100, seed=1), cells)


PLANS: dict[str, Plan] = {
    "fgsm": attacking.plan_fgsm,
    "pgd": attacking.plan_pgd,
    "image-patch": attacking.plan_image_patch,
}
FEW: dict[str, Any] = {"eps": (8.0,), "steps": 2, "areas": (0.25,)}


@pytest.mark.parametrize("test", PLANS)
@pytest.mark.parametrize("attacked", [7, 100, None])
def test_attacked_is_how_many_images_gradients_are_spent_on(
    loaded: LoadedModel, test: str, attacked: int | None
) -> None:
    subject = make_subject(loaded, 5, images=12)
    counted: list[int] = []
    subject.advance = counted.append
    planned = PLANS[test](subject, StressSettings(attacked=attacked, **FEW))
    count = min(attacked or 12, 12)
    said = [note for note in planned.notes if "of the 12 images" in note]
    assert said == ([f"on {count} of the 12 images"] if count < 12 else [])
    for level in planned.levels:
        counted.clear()
        found = level.measure()
        assert found.images == count
        assert all(0 <= hits <= count for hits in found.hits)
        assert sum(counted) == level.passes
        assert level.passes % count == 0
        # Accuracy without stress is that of the same images.
        right = subject.clean[:count].argmax(axis=1) == subject.data.labels[:count]
        assert found.clean == pytest.approx(right.mean())


def test_the_first_images_are_attacked_with_their_own_labels(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    def spy(net: Any, pixels: Tensor, labels: Tensor, **given: Any) -> Tensor:
        seen.append((pixels, labels))
        return fgsm(net, pixels, labels, **given)

    monkeypatch.setattr(attacking, "fgsm", spy)
    subject = make_subject(loaded, 3, images=12)
    (level,) = attacking.plan_fgsm(subject, StressSettings(attacked=7, eps=(8.0,))).levels
    found = level.measure()
    assert [len(pixels) for pixels, _ in seen] == [3, 3, 1]
    pixels, labels = (torch.cat(parts) for parts in zip(*seen, strict=True))
    assert torch.equal(pixels, as_floats(subject.pixels[:7], subject.device))
    assert labels.tolist() == subject.data.labels[:7].tolist()
    with torch.no_grad():
        misled = fgsm(subject.net, pixels, labels, eps=8 / 255)
        hits = int((subject.net(misled).argmax(dim=1) == labels).sum())
    assert found.hits == [hits]


def test_a_universal_patch_is_measured_on_all_images(loaded: LoadedModel) -> None:
    settings = StressSettings(attacked=7, areas=(0.25,), patch_runs=1, patch_steps=1)
    planned = attacking.plan_patch(make_subject(loaded, 12, images=12), settings)
    assert [level.measure().images for level in planned.levels] == [12, 12, 12]
    assert not any("of the 12 images" in note for note in planned.notes)


def test_autoattack_is_limited_as_well(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []

    def stand_in(net: Any, pixels: Tensor, labels: Tensor, **given: Any) -> Tensor:
        assert len(pixels) == len(labels)
        assert math.isclose(given["eps"], 8 / 255)
        seen.append(pixels)
        return 1 - pixels

    monkeypatch.setattr(attacking, "require_autoattack", lambda: None)
    monkeypatch.setattr(attacking, "autoattack", stand_in)
    subject = make_subject(loaded, 3, images=12)
    planned = attacking.plan_autoattack(subject, StressSettings(attacked=7, eps=(8.0,)))
    assert "on 7 of the 12 images" in planned.notes
    (level,) = planned.levels
    found = level.measure()
    (pixels,) = seen
    assert torch.equal(pixels, as_floats(subject.pixels[:7], subject.device))
    with torch.no_grad():
        right = subject.net(1 - pixels).argmax(dim=1).numpy() == subject.data.labels[:7]
    assert (found.images, found.hits) == (7, [int(right.sum())])
