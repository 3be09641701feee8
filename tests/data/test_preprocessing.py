"""One object prepares every image, in the geometry that published checkpoints were measured in."""

import json
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tessera.data.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing, to_tensor


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    rng = np.random.default_rng((width, height))
    shape = (height, width) if channels == 1 else (height, width, channels)
    return Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))


def array(pixels: torch.Tensor) -> np.ndarray:
    """Channels last, as Pillow has them."""
    return np.asarray(pixels.permute(1, 2, 0))


# Width and height of an image, side of the model, crop_pct; then by torchvision's rule, worked out
# by hand: the resized width and height (short side int(side / crop_pct), long side
# int(short * long / short of the image)), and left and top of the crop, int(round(gap / 2)), where
# Python rounds halves to even.
GEOMETRY = [
    ((500, 375), 224, 0.9, (330, 248), (53, 12)),  # 248.89 -> 248; 330.67 -> 330
    ((375, 500), 224, 0.9, (248, 330), (12, 53)),
    ((640, 480), 224, 0.875, (341, 256), (58, 16)),  # 341.33; gap 117 / 2 = 58.5 -> 58
    ((500, 333), 224, 0.875, (384, 256), (80, 16)),  # 384.38
    ((33, 47), 16, 0.875, (18, 25), (1, 4)),  # 18.29, 25.64; gap 9 / 2 = 4.5 -> 4
    ((47, 33), 16, 0.8, (28, 20), (6, 2)),  # 28.48
    ((30, 30), 16, 1.0, (16, 16), (0, 0)),
    ((101, 30), 16, 1.0, (53, 16), (18, 0)),  # 53.87; gap 37 / 2 = 18.5 -> 18
    ((20, 53), 17, 1.0, (17, 45), (0, 14)),  # 45.05
    ((19, 16), 16, 1.0, (19, 16), (2, 0)),
    ((16, 19), 16, 1.0, (16, 19), (0, 2)),  # no resizing; gap 3 / 2 = 1.5 -> 2
]


@pytest.mark.parametrize(("size", "side", "crop_pct", "resized", "offset"), GEOMETRY)
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
def test_images_are_resized_and_cropped_by_torchvisions_rule(
    size: tuple[int, int],
    side: int,
    crop_pct: float,
    resized: tuple[int, int],
    offset: tuple[int, int],
    interpolation: Literal["nearest", "bilinear", "bicubic"],
) -> None:
    image = noise(*size)
    prepare = Preprocessing(size=(side, side), crop_pct=crop_pct, interpolation=interpolation)
    whole = np.asarray(image.resize(resized, Image.Resampling[interpolation.upper()]))
    left, top = offset
    expected = whole[top : top + side, left : left + side]
    np.testing.assert_array_equal(array(prepare.pixels(image)), expected)


def test_an_image_of_the_right_size_passes_untouched() -> None:
    image = noise(24, 16)
    for crop in ("crop", "squash"):
        pixels = Preprocessing(size=(16, 24), crop=crop).pixels(image)
        np.testing.assert_array_equal(array(pixels), np.asarray(image))


def test_squash_presses_the_whole_image_into_the_size() -> None:
    image = noise(31, 57)
    pixels = Preprocessing(size=(16, 24), crop="squash").pixels(image)
    expected = image.resize((24, 16), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(array(pixels), np.asarray(expected))


def test_a_size_that_is_not_square_is_covered_by_its_tight_side() -> None:
    image = noise(40, 40)
    pixels = Preprocessing(size=(16, 32)).pixels(image)
    expected = image.resize((32, 32), Image.Resampling.BICUBIC).crop((0, 8, 32, 24))
    np.testing.assert_array_equal(array(pixels), np.asarray(expected))


@settings(deadline=None)
@given(
    image=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    size=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    crop_pct=st.floats(0.25, 1.0),
    crop=st.sampled_from(["crop", "squash"]),
    channels=st.sampled_from([1, 3]),
)
def test_any_image_comes_out_in_the_size_and_nothing_from_outside_comes_in(
    image: tuple[int, int],
    size: tuple[int, int],
    crop_pct: float,
    crop: Literal["crop", "squash"],
    channels: int,
) -> None:
    half = (0.5,) * channels
    prepare = Preprocessing(
        size=size, crop_pct=crop_pct, crop=crop, channels=channels, mean=half, std=half
    )
    pixels = prepare.pixels(Image.new("RGB", image, "white"))
    assert pixels.shape == (channels, *size)
    assert pixels.min() == 255, "a crop beyond the edge would be black"


@pytest.mark.parametrize("image", [(1, 1), (1, 300), (300, 1)])
def test_an_image_one_pixel_wide_is_prepared(image: tuple[int, int]) -> None:
    assert Preprocessing(size=(32, 32)).pixels(noise(*image)).shape == (3, 32, 32)


@pytest.mark.parametrize("image", [(1, 20_000), (20_000, 1)])
def test_an_image_like_a_thread_does_not_fill_the_memory(
    image: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    resize = Image.Image.resize

    def guarded(self: Image.Image, size: tuple[int, int], *rest: Any, **named: Any) -> Image.Image:
        # Resized whole, its short side at 224, it would be 224 x 4,480,000: 4 GB.
        assert size[0] * size[1] < 1e8
        return resize(self, size, *rest, **named)

    monkeypatch.setattr(Image.Image, "resize", guarded)
    found = Preprocessing(size=(224, 224)).pixels(Image.new("RGB", image, "white"))
    assert found.shape == (3, 224, 224)
    assert found.min() == 255


# Width and height of an image, height and width of the model; then what is left of the image, as
# width and height, and left and top of it, worked out by hand.
LETTERS = [
    ((100, 50), (32, 32), (32, 16), (0, 8)),
    ((50, 100), (32, 32), (16, 32), (8, 0)),
    ((64, 64), (32, 32), (32, 32), (0, 0)),
    ((30, 20), (32, 32), (32, 21), (0, 5)),  # 21.33; 11 rows to fill, 5 above and 6 below
    ((20, 30), (16, 40), (11, 16), (14, 0)),  # 10.67
    ((300, 100), (20, 60), (60, 20), (0, 0)),
    ((4, 4), (16, 24), (16, 16), (4, 0)),  # a small image is enlarged as far as it fits
    ((1000, 1), (8, 8), (8, 1), (0, 3)),  # never less than a pixel
    ((1, 1000), (8, 8), (1, 8), (3, 0)),
]


@pytest.mark.parametrize(("size", "model", "inner", "offset"), LETTERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_letterboxed_image_is_whole_in_the_middle_and_the_rest_is_background(
    size: tuple[int, int],
    model: tuple[int, int],
    inner: tuple[int, int],
    offset: tuple[int, int],
    channels: int,
) -> None:
    image = noise(*size, channels)
    half = (0.5,) * channels
    prepare = Preprocessing(
        size=model,
        crop="letterbox",
        background=(10, 20, 200),
        channels=channels,
        mean=half,
        std=half,
    )
    pixels = array(prepare.pixels(image))
    assert pixels.shape == (*model, channels)
    left, top = offset
    place = slice(top, top + inner[1]), slice(left, left + inner[0])
    expected = np.asarray(image.resize(inner, Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(pixels[place], expected.reshape(inner[1], inner[0], channels))
    outside = np.ones(model, dtype=bool)
    outside[place] = False
    colour = [10, 20, 200] if channels == 3 else [38]  # 0.299, 0.587 and 0.114 of them: 37.53
    assert (pixels[outside] == colour).all()
    assert outside.sum() == model[0] * model[1] - inner[0] * inner[1]


def test_the_background_of_a_letterbox_is_that_behind_transparent_pixels() -> None:
    prepare = Preprocessing(size=(16, 16), crop="letterbox", background=(10, 20, 200))
    pixels = prepare.pixels(Image.new("RGBA", (50, 20), (255, 0, 0, 0)))
    assert (array(pixels) == [10, 20, 200]).all()


@settings(deadline=None)
@given(
    image=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    size=st.tuples(st.integers(1, 32), st.integers(1, 32)),
)
def test_a_letterbox_shows_all_of_any_image_in_its_shape(
    image: tuple[int, int], size: tuple[int, int]
) -> None:
    prepare = Preprocessing(size=size, crop="letterbox", background=(0, 0, 0))
    pixels = array(prepare.pixels(Image.new("RGB", image, "white")))[..., 0]
    assert pixels.shape == size
    assert set(np.unique(pixels).tolist()) <= {0, 255}, "the edges are not blended"
    rows, cols = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    height, width = len(rows), len(cols)
    assert (pixels > 0).sum() == height * width
    assert height == size[0] or width == size[1], "it could be larger"
    scale = min(size[0] / image[1], size[1] / image[0])
    assert abs(height - max(1, image[1] * scale)) <= 0.5
    assert abs(width - max(1, image[0] * scale)) <= 0.5
    assert abs(rows[0] - (size[0] - 1 - rows[-1])) <= 1, "it is not in the middle"
    assert abs(cols[0] - (size[1] - 1 - cols[-1])) <= 1


# Width and height of an image, side of the model, patch; then the width and height it comes out
# with, by hand: about as many pixels, in its shape.
NATIVE = [
    ((100, 100), 224, 16, (224, 224)),
    ((200, 100), 224, 16, (304, 160)),  # ideal 316.8 by 158.4, or 19.8 by 9.9 patches of 196
    ((100, 400), 224, 16, (112, 448)),
    ((640, 480), 224, 16, (256, 192)),  # ideal 258.6 by 194
    ((33, 1), 32, 8, (128, 8)),  # ideal 183.8 by 5.6; the short side is a patch, and 16 fit
    ((8, 8), 32, 8, (32, 32)),
    ((10, 20), 24, 1, (17, 33)),  # ideal 16.97 by 33.9; 17 x 34 would be 2 pixels too many
]


@pytest.mark.parametrize(("image", "side", "patch", "wanted"), NATIVE)
def test_an_image_of_native_shape(
    image: tuple[int, int], side: int, patch: int, wanted: tuple[int, int]
) -> None:
    prepare = Preprocessing(size=(side, side), crop="native", multiple_of=patch)
    picture = noise(*image)
    pixels = array(prepare.pixels(picture))
    expected = picture.resize(wanted, Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(pixels, np.asarray(expected))


@settings(deadline=None, max_examples=300)
@given(
    image=st.tuples(st.integers(1, 400), st.integers(1, 400)),
    grid=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    patch=st.sampled_from([1, 2, 8]),
)
def test_native_sides_are_multiples_within_the_size_and_keep_the_shape_within_a_patch(
    image: tuple[int, int], grid: tuple[int, int], patch: int
) -> None:
    size = grid[0] * patch, grid[1] * patch
    prepare = Preprocessing(size=size, crop="native", multiple_of=patch)
    _, height, width = prepare.pixels(Image.new("RGB", image)).shape
    assert height % patch == width % patch == 0
    assert height * width <= size[0] * size[1]
    high, wide = height // patch, width // patch
    ratio = image[1] / image[0]
    # A side more or less would turn the shape too far the other way, where there is room for it.
    lowest = (high - 1) / (wide + 1)
    highest = (high + 1) / (wide - 1) if wide > 1 else np.inf
    assert (lowest <= ratio <= highest) or 1 in (high, wide)
    assert (high + 1) * (wide + 1) > grid[0] * grid[1], "there is room for another row and column"


def test_a_native_image_of_the_right_size_passes_untouched() -> None:
    image = noise(32, 16)
    pixels = Preprocessing(size=(16, 32), crop="native", multiple_of=16).pixels(image)
    np.testing.assert_array_equal(array(pixels), np.asarray(image))


@pytest.mark.parametrize("crop", ["letterbox", "native"])
@pytest.mark.parametrize("image", [(1, 20_000), (20_000, 1)])
def test_a_thread_fits_into_any_policy(
    crop: Literal["letterbox", "native"], image: tuple[int, int]
) -> None:
    prepare = Preprocessing(size=(32, 32), crop=crop, multiple_of=16)
    pixels = prepare.pixels(Image.new("RGB", image, "white"))
    assert pixels.shape[1] * pixels.shape[2] <= 32 * 32
    assert pixels.max() == 255


def test_a_colour_image_becomes_grey_as_pillow_weighs_it() -> None:
    prepare = Preprocessing(size=(1, 2), channels=1, mean=(0.5,), std=(0.5,))
    image = Image.new("RGB", (2, 1))
    image.putpixel((0, 0), (255, 0, 0))
    image.putpixel((1, 0), (0, 255, 0))
    assert prepare.pixels(image).tolist() == [[[76, 150]]]  # ITU-R 601-2: 0.299 and 0.587 of 255


def test_a_grey_image_becomes_three_equal_channels() -> None:
    pixels = Preprocessing(size=(8, 8)).pixels(noise(8, 8, channels=1))
    assert torch.equal(pixels[0], pixels[1])
    assert torch.equal(pixels[0], pixels[2])


def test_bytes_become_minus_one_to_one_by_default() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3).expand(1, 3, 1, 3)
    found = Preprocessing(size=(1, 3)).normalise(pixels)
    # float32 has a spacing of 6e-8 near 1; measured difference 2e-8.
    torch.testing.assert_close(found[0, 0, 0], torch.tensor([-1.0, -0.6, 1.0]), rtol=0, atol=1e-6)


def test_each_channel_has_its_own_mean_and_deviation() -> None:
    prepare = Preprocessing(size=(1, 1), mean=IMAGENET_MEAN, std=IMAGENET_STD)
    white = prepare(Image.new("RGB", (1, 1), "white"))
    black = prepare(Image.new("RGB", (1, 1), "black"))
    # (1 - 0.485) / 0.229 and so on, to six digits: 5e-7 measured.
    expected_white = torch.tensor([2.248908, 2.428571, 2.640000]).view(3, 1, 1)
    expected_black = torch.tensor([-2.117904, -2.035714, -1.804444]).view(3, 1, 1)
    torch.testing.assert_close(white, expected_white, rtol=0, atol=1e-6)
    torch.testing.assert_close(black, expected_black, rtol=0, atol=1e-6)


def test_one_image_is_prepared_as_a_batch_of_one() -> None:
    prepare, image = Preprocessing(size=(16, 16)), noise(20, 30)
    assert torch.equal(prepare(image), prepare.normalise(prepare.pixels(image)[None])[0])


def test_pixels_are_a_copy_that_may_be_written_to() -> None:
    image = noise(4, 4)
    before = image.tobytes()
    to_tensor(image).zero_()
    assert image.tobytes() == before


@pytest.mark.parametrize(
    "prepare",
    [
        Preprocessing(size=(224, 224)),
        Preprocessing(size=(8, 16), channels=1, crop="squash", mean=(0.1,), std=(0.3,)),
        Preprocessing(size=(32, 32), crop_pct=0.875, interpolation="bilinear", mean=IMAGENET_MEAN),
        Preprocessing(size=(32, 32), crop="native", multiple_of=16, background=(1, 2, 3)),
    ],
)
def test_the_fields_survive_json(prepare: Preprocessing) -> None:
    fields: dict[str, Any] = json.loads(json.dumps(prepare.as_dict()))
    tuples: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()
    }
    assert Preprocessing(**tuples) == prepare


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": 2}, "channels=2 must be 1 or 3"),
        ({"channels": 1}, "3 means and 3 deviations for 1 channels"),
        ({"size": (0, 8)}, r"size=\(0, 8\)"),
        ({"mean": (0.5,)}, "1 means and 3 deviations"),
        ({"std": (0.5, 0.5)}, "3 means and 2 deviations"),
        ({"std": (0.5, 0.0, 0.5)}, "must be positive"),
        ({"std": (-1.0, 0.5, 0.5)}, "must be positive"),
        ({"std": (float("nan"),) * 3}, "must be positive"),
        ({"crop_pct": 0.0}, "crop_pct=0.0"),
        ({"crop_pct": 1.5}, "crop_pct=1.5"),
        ({"crop_pct": float("nan")}, "crop_pct=nan"),
        ({"background": (0, 256, 0)}, r"background=\(0, 256, 0\) must be 3 bytes"),
        ({"background": (-1, 0, 0)}, r"background=\(-1, 0, 0\) must be 3 bytes"),
        ({"multiple_of": 0}, "multiple_of=0, which must be at least 1"),
        ({"multiple_of": 3}, r"size=\(8, 8\) must be multiples of multiple_of=3"),
        ({"size": (8, 12), "multiple_of": 8}, r"size=\(8, 12\) must be multiples of multiple_of=8"),
    ],
)
def test_fields_that_make_no_sense_are_refused_by_name(
    fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing(**{"size": (8, 8), **fields})
