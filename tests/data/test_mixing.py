"""Mixup and cutmix: pixels and targets get the same shares."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from tessera.data.mixing import cutmix, mix, mixup
from tessera.recipe import Augment

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 2, 1])
TARGETS = torch.nn.functional.one_hot(LABELS, 3).float()


def images(side: int = 4) -> Tensor:
    """Channel k of an image is 1 where it is of class k: pixels are then targets."""
    return TARGETS[:, :, None, None].expand(-1, -1, side, side).contiguous()


@pytest.mark.parametrize("blend", [mixup, cutmix])
@pytest.mark.parametrize("seed", range(20))
def test_image_and_target_get_the_same_share(blend: object, seed: int) -> None:
    assert callable(blend)
    mixed, targets = blend(images(16), TARGETS, 0.6, np.random.default_rng(seed))
    assert mixed.shape == (8, 3, 16, 16)
    # Two float32 products and a sum: 1.2e-7 measured.
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(8), rtol=0, atol=1e-6)
    torch.testing.assert_close(mixed.mean(dim=(2, 3)), targets, rtol=0, atol=1e-6)
    assert targets.min() >= 0


@pytest.mark.parametrize("blend", [mixup, cutmix])
def test_every_image_is_blended_with_one_other_by_one_share_a_batch(blend: object) -> None:
    assert callable(blend)
    _, targets = blend(torch.zeros(6, 1, 8, 8), torch.eye(6), 1.0, np.random.default_rng(3))
    own = targets.diagonal()
    mixed = own[own < 1]
    assert len(mixed) >= 2
    assert torch.allclose(mixed, mixed[0].expand_as(mixed), rtol=0, atol=1e-6)
    # Everybody is somebody's partner exactly once, so classes keep their total weight.
    torch.testing.assert_close(targets.sum(dim=0), torch.ones(6), rtol=0, atol=1e-6)


@pytest.mark.parametrize("blend", [mixup, cutmix])
def test_the_input_is_left_alone_and_the_same_seed_repeats(blend: object) -> None:
    assert callable(blend)
    pixels = torch.randn(8, 3, 6, 6, generator=torch.manual_seed(0))
    before = pixels.clone()
    first = blend(pixels, TARGETS, 0.5, np.random.default_rng(5))
    again = blend(pixels, TARGETS, 0.5, np.random.default_rng(5))
    assert torch.equal(pixels, before)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], pixels)


def test_cutmix_pastes_one_rectangle() -> None:
    pixels = torch.arange(8.0)[:, None, None, None].expand(-1, 1, 20, 30).contiguous()
    for seed in range(10):
        mixed, _ = cutmix(pixels, TARGETS, 1.0, np.random.default_rng(seed))
        changed = (mixed != pixels)[:, 0].any(dim=0)
        rows, columns = changed.any(dim=1), changed.any(dim=0)
        assert int(changed.sum()) == int(rows.sum()) * int(columns.sum())


def test_the_mean_area_of_the_box_is_that_of_a_uniform_share_cut_at_the_edges() -> None:
    # With u = 1 - lambda uniform and the centre anywhere, a side of sqrt(u) keeps sqrt(u) - u / 4
    # of itself inside, so the mean area is E[(sqrt(u) - u / 4)^2] = 1/2 - 1/5 + 1/48 = 0.3208.
    rng = np.random.default_rng(0)
    pixels = torch.arange(16.0)[:, None, None, None].expand(-1, 1, 64, 64).contiguous()
    targets = torch.eye(16)
    areas = []
    for _ in range(1500):
        mixed, _ = cutmix(pixels, targets, 1.0, rng)
        areas.append(float((mixed != pixels)[:, 0].any(dim=0).float().mean()))
    # Measured 0.311: sides are rounded down to even pixels. The spread of the mean is 0.006.
    assert np.mean(areas) == pytest.approx(0.3208, abs=0.02)


def test_both_are_switched_between_and_may_be_left_out() -> None:
    augment = Augment(mixup=1.0, cutmix=1.0, mix_prob=0.8, mix_switch=0.25)
    kinds = {"none": 0, "cutmix": 0, "mixup": 0}
    total = 2000
    for seed in range(total):
        mixed, _ = mix(images(), TARGETS, augment, np.random.default_rng(seed))
        if torch.equal(mixed, images()):
            kinds["none"] += 1
        else:
            kinds["cutmix" if set(mixed.unique().tolist()) <= {0.0, 1.0} else "mixup"] += 1
    # A box that is empty, and a permutation that moves only within classes, count as none.
    spread = 4 * math.sqrt(total * 0.2 * 0.8)
    assert kinds["mixup"] == pytest.approx(0.6 * total, abs=spread)
    assert kinds["none"] >= 0.2 * total - spread
    assert kinds["cutmix"] > 0.1 * total


def test_mixing_is_off_by_default() -> None:
    mixed, targets = mix(images(), TARGETS, Augment(), np.random.default_rng(0))
    assert torch.equal(mixed, images())
    assert torch.equal(targets, TARGETS)
