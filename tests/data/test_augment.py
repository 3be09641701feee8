"""What is done to a training image: random, but of known size, direction and distribution."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tessera.data.augment import TrainTransform, crop_box
from tessera.data.preprocessing import Preprocessing
from tessera.recipe import Augment

GREY = Preprocessing(size=(32, 32), channels=1, mean=(0.5,), std=(0.5,))
EVERYTHING = Augment(crop_scale=(0.3, 1.0), flip=0.5, shift=0.1, rotate=15.0, zoom=0.2)


class Extreme(np.random.Generator):
    """Always draws the upper, or the lower, end of a range."""

    def __init__(self, *, high: bool) -> None:
        super().__init__(np.random.PCG64(0))
        self.high = high

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        return high if self.high else low


def noise(width: int, height: int) -> Image.Image:
    rng = np.random.default_rng((width, height))
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def square(side: int, size: int = 32) -> Image.Image:
    """White, in the middle of black."""
    pixels = np.zeros((size, size), np.uint8)
    start = (size - side) // 2
    pixels[start : start + side, start : start + side] = 255
    return Image.fromarray(pixels)


def centre(pixels: torch.Tensor) -> tuple[float, float]:
    """Row and column of the centre of mass."""
    weights = pixels[0].double()
    rows, cols = (torch.arange(n, dtype=torch.float64) for n in weights.shape)
    total = weights.sum()
    return float((weights.sum(1) * rows).sum() / total), float(
        (weights.sum(0) * cols).sum() / total
    )


def test_the_same_generator_gives_the_same_image_and_another_another() -> None:
    transform, image = TrainTransform(Preprocessing(size=(32, 32)), EVERYTHING), noise(50, 40)
    one, again, other = (transform(image, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_nothing_is_drawn_from_the_global_generators() -> None:
    before = torch.get_rng_state()
    TrainTransform(GREY, EVERYTHING)(noise(50, 40), np.random.default_rng(0))
    assert torch.equal(torch.get_rng_state(), before)


@settings(deadline=None)
@given(
    image=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    size=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    interpolation=st.sampled_from(["nearest", "bilinear", "bicubic"]),
    seed=st.integers(0, 999),
)
def test_any_image_comes_out_in_the_size_that_evaluation_has(
    image: tuple[int, int], size: tuple[int, int], interpolation: Any, seed: int
) -> None:
    preprocessing = Preprocessing(size=size, interpolation=interpolation)
    found = TrainTransform(preprocessing, EVERYTHING)(noise(*image), np.random.default_rng(seed))
    assert found.shape == (3, *size)
    assert found.dtype == torch.uint8
    assert found.is_contiguous()


@pytest.mark.parametrize("size", [(32, 32), (50, 40), (17, 90)])
def test_an_image_that_nothing_is_asked_for_is_the_one_of_evaluation(size: tuple[int, int]) -> None:
    preprocessing = Preprocessing(size=(32, 24), crop_pct=0.9)
    rng = np.random.default_rng(0)
    before = rng.bit_generator.state
    found = TrainTransform(preprocessing, Augment())(noise(*size), rng)
    assert torch.equal(found, preprocessing.pixels(noise(*size)))
    assert rng.bit_generator.state == before, "and no random number is spent on it"


def test_a_flip_swaps_left_and_right() -> None:
    preprocessing = Preprocessing(size=(32, 32))
    image, rng = noise(32, 32), np.random.default_rng(0)
    flipped = TrainTransform(preprocessing, Augment(flip=1.0))(image, rng)
    expected = np.asarray(image)[:, ::-1]
    np.testing.assert_array_equal(flipped.permute(1, 2, 0).numpy(), expected)


def test_a_flip_comes_as_often_as_its_probability() -> None:
    transform, image = TrainTransform(GREY, Augment(flip=0.25)), noise(32, 32)
    plain = GREY.pixels(image)
    flips = sum(
        not torch.equal(transform(image, np.random.default_rng(seed)), plain) for seed in range(400)
    )
    # 100 expected, with a standard deviation of 8.7; 80 measured with these seeds.
    assert 70 < flips < 130


@pytest.mark.parametrize(("high", "quarters"), [(True, -1), (False, 1)])
@pytest.mark.parametrize("side", [32, 33])
def test_a_quarter_turn_is_about_the_centre_and_clockwise_where_positive(
    high: bool, quarters: int, side: int
) -> None:
    preprocessing = Preprocessing(size=(side, side))
    image = noise(side, side)
    transform = TrainTransform(preprocessing, Augment(rotate=90.0))
    turned = transform(image, Extreme(high=high)).permute(1, 2, 0).numpy()
    expected = np.rot90(np.asarray(image), quarters)
    # Pillow truncates weights that are 1 but for rounding: 1 grey level at most was measured.
    assert np.abs(turned.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize(("high", "sign"), [(True, 1), (False, -1)])
def test_a_shift_moves_the_image_by_a_share_of_its_sides_and_black_comes_in(
    high: bool, sign: int
) -> None:
    preprocessing = Preprocessing(size=(16, 32))
    image = noise(32, 16)
    moved = TrainTransform(preprocessing, Augment(shift=0.25))(image, Extreme(high=high))
    expected = np.zeros((16, 32, 3), np.uint8)
    source = np.asarray(image)
    if sign > 0:
        expected[4:, 8:] = source[:-4, :-8]
    else:
        expected[:-4, :-8] = source[4:, 8:]
    np.testing.assert_array_equal(moved.permute(1, 2, 0).numpy(), expected)


def test_shifts_go_both_ways_and_no_farther_than_asked() -> None:
    transform, image = TrainTransform(GREY, Augment(shift=0.2)), square(8)
    start = np.array(centre(GREY.pixels(image)))
    moves = np.array([centre(transform(image, np.random.default_rng(seed))) for seed in range(300)])
    offsets = (moves - start) / 32
    # Bilinear weights of bytes round: the centre of mass is off by 7e-5 of the side at most.
    assert np.abs(offsets).max() < 0.2 + 3e-4
    assert np.abs(offsets).max() > 0.19
    # Mean of 300 uniform draws from +-0.2: standard deviation 0.0067; measured 0.0062.
    assert np.abs(offsets.mean(axis=0)).max() < 0.025


@pytest.mark.parametrize(("high", "factor"), [(True, 4.0), (False, 0.25)])
def test_a_zoom_scales_both_sides_about_the_centre(high: bool, factor: float) -> None:
    image = square(8)
    zoomed = TrainTransform(GREY, Augment(zoom=1.0))(image, Extreme(high=high))
    area = float(zoomed.double().sum() / GREY.pixels(image).double().sum())
    # Bilinear edges keep the area, but for rounding to bytes: 0.1 % measured.
    assert area == pytest.approx(factor, rel=0.005)
    # The square lies at rows 12 to 19, about 15.5; measured exact.
    assert centre(zoomed) == pytest.approx((15.5, 15.5), abs=0.01)


def test_rotations_stay_in_their_range() -> None:
    bar = np.zeros((32, 32), np.uint8)
    bar[15:17, 2:30] = 255
    transform, image = TrainTransform(GREY, Augment(rotate=20.0)), Image.fromarray(bar)
    angles = []
    for seed in range(200):
        weights = transform(image, np.random.default_rng(seed))[0].double().numpy()
        rows, cols = np.mgrid[0:32, 0:32] - 15.5
        covariance = [
            (weights * a * b).sum() for a, b in ((cols, cols), (rows, rows), (cols, rows))
        ]
        angles.append(
            0.5 * math.degrees(math.atan2(2 * covariance[2], covariance[0] - covariance[1]))
        )
    # The principal axis of a 2-pixel bar is found to within 0.06 degrees, measured.
    assert 19.5 < max(angles) < 20.2
    assert -20.2 < min(angles) < -19.5


def test_a_crop_of_everything_is_the_image_resized() -> None:
    preprocessing, image = Preprocessing(size=(16, 16)), noise(40, 40).resize((64, 64))
    augment = Augment(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    found = TrainTransform(preprocessing, augment)(image, np.random.default_rng(0))
    difference = (found.int() - preprocessing.pixels(image).int()).abs().max()
    # torch's antialiased resize of bytes was measured equal to Pillow's here, and within 1
    # grey level elsewhere.
    assert int(difference) <= 1


ratios = st.floats(0.2, 5.0)


@given(
    size=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    scale=st.tuples(st.floats(0.001, 1.0), st.floats(0.001, 1.0)),
    ratio=st.tuples(ratios, ratios),
    seed=st.integers(0, 999),
)
def test_a_crop_lies_inside_the_image_and_is_not_empty(
    size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float], seed: int
) -> None:
    scale, ratio = (min(scale), max(scale)), (min(ratio), max(ratio))
    left, top, right, bottom = crop_box(size, scale, ratio, np.random.default_rng(seed))
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]


@given(
    side=st.integers(8, 400),
    scale=st.tuples(st.floats(0.05, 0.7), st.floats(0.05, 0.7)),
    ratio=st.tuples(st.floats(0.75, 4 / 3), st.floats(0.75, 4 / 3)),
    seed=st.integers(0, 999),
)
def test_a_crop_that_fits_has_the_area_and_the_shape_that_are_asked_for(
    side: int, scale: tuple[float, float], ratio: tuple[float, float], seed: int
) -> None:
    scale, ratio = (min(scale), max(scale)), (min(ratio), max(ratio))
    rng = np.random.default_rng(seed)
    left, top, right, bottom = crop_box((side, side), scale, ratio, rng)
    w, h = right - left, bottom - top
    whole = side * side * (1 + 1e-9)  # for the last bit of a float
    # Sides are rounded to pixels, so by half a pixel each may be off.
    assert (w - 0.5) * (h - 0.5) <= scale[1] * whole
    assert (w + 0.5) * (h + 0.5) * (1 + 1e-9) >= scale[0] * side * side
    assert (w - 0.5) / (h + 0.5) <= ratio[1] * (1 + 1e-9)
    assert (w + 0.5) / (h - 0.5) * (1 + 1e-9) >= ratio[0]


def test_crops_reach_every_corner_and_the_mean_area() -> None:
    rng = np.random.default_rng(0)
    boxes = np.array([crop_box((100, 80), (0.2, 0.6), (0.75, 4 / 3), rng) for _ in range(500)])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 8000
    # Uniform on 0.2 to 0.6: mean 0.4 with a standard error of 0.005; measured 0.407.
    assert areas.mean() == pytest.approx(0.4, abs=0.02)
    assert boxes.min(axis=0)[:2].tolist() == [0, 0]
    assert boxes.max(axis=0)[2:].tolist() == [100, 80]


@pytest.mark.parametrize(
    ("size", "box"),
    [((100, 10), (43, 0, 56, 10)), ((10, 100), (0, 43, 10, 56)), ((30, 30), (0, 0, 30, 30))],
)
def test_a_crop_that_cannot_fit_is_the_largest_in_the_middle(
    size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    rng = np.random.default_rng(0)
    assert crop_box(size, (3.0, 4.0), (0.75, 4 / 3), rng) == box  # as torchvision falls back
