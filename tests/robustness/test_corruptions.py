"""Corruptions against the published generator, and what holds at every size."""

import importlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tessera.robustness.corruptions import (
    CORRUPTIONS,
    EXTRA,
    SEVERITIES,
    STANDARD,
    blur,
    corrupt,
    filters,
)

MAKER: Any = importlib.import_module("golden.make_corruptions")  # pytest puts tests/ on the path
CHANCELESS, PART = MAKER.CHANCELESS, MAKER.PART
measures, scene = MAKER.measures, MAKER.scene
GOLDEN = Path(__file__).parents[1] / "golden"

FLAT: dict[str, dict[str, set[int]]] = {
    "imagenet": {"glass_blur": {1, 3}, "snow": {2}, "frost": {3, 4}, "saturate": {2}},
    "cifar": {
        "glass_blur": {1, 2, 4},
        "motion_blur": {3},
        "frost": {3, 4},
        "elastic_transform": {1, 2, 3, 4},
        "spatter": {3},
        "saturate": {2},
    },
}
"""Severities after which the published tables need not change an image more."""

BAND = {"spatter": 0.35, "frost": 0.10, "fog": 0.08, "motion_blur": 0.08, "snow": 0.04}
"""Widest relative distance of the mean change from the published one, where it is more than 4 %.

Measured with 24 draws a severity: spatter 1.26, 1.11, 1.07, 1.01, 1.00 of it (severity 1 changes
less than one grey level); frost, which is drawn here and photographed there, 0.97 to 1.06; fog 0.97
to 1.01; motion blur, whose angle is drawn, 0.99 to 1.04; snow 1.00 to 1.01; all others 0.99 to
1.03, most of it because values are rounded here and cut off there.
"""


def change(image: np.ndarray, name: str, severity: int, seed: int = 0) -> float:
    """Return the mean absolute change in grey levels."""
    after = corrupt(image, name, severity, np.random.default_rng(seed))
    return float(np.abs(after.astype(float) - image).mean())


def square(path: Path, side: int) -> np.ndarray:
    """Read the middle of a photograph."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    short = min(image.size)
    left, top = (image.width - short) // 2, (image.height - short) // 2
    box = (left, top, left + short, top + short)
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box))


def test_fifteen_standard_and_four_extras_in_the_published_order() -> None:
    published = json.loads((GOLDEN / "corruptions.json").read_text())["corruptions"]
    assert tuple(published) == STANDARD + EXTRA
    assert (len(STANDARD), len(EXTRA), SEVERITIES) == (15, 4, (1, 2, 3, 4, 5))
    assert all(len(c.imagenet) == len(c.cifar) == 5 for c in CORRUPTIONS.values())


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_changes_as_much_as_the_published_generator(name: str) -> None:
    published = json.loads((GOLDEN / "corruptions.json").read_text())["corruptions"][name]
    draws = {"frost": 6, "fog": 6, "motion_blur": 6, "spatter": 3}.get(name, 1)
    for severity in SEVERITIES:
        found = np.mean(
            [
                measures(image, corrupt(image, name, severity, np.random.default_rng([draw, i])))
                for i, image in enumerate(IMAGES)
                for draw in range(draws)
            ],
            axis=0,
        )
        want = [published[key][severity - 1] for key in ("change", "spread", "detail")]
        assert found[0] == pytest.approx(want[0], rel=BAND.get(name, 0.04))
        # Deviation and detail in grey levels: at most 2.3 and 0.8 apart, fog and frost included;
        # fog of few draws scatters by 2 more.
        assert found[1] == pytest.approx(want[1], abs=5 if name in ("fog", "frost") else 1.5)
        assert found[2] == pytest.approx(want[2], abs=0.8)


IMAGES = [scene(seed) for seed in MAKER.SCENES]


@pytest.mark.parametrize("name", CHANCELESS)
def test_without_chance_every_pixel_agrees(name: str) -> None:
    published = np.load(GOLDEN / "corruptions.npz")[name]
    # The published generator cuts fractions off, we round: 1 level. Its disks of 8 and 10 pixels do
    # not sum to 1 and brighten: 3 and 2 levels. Pixelate and JPEG are Pillow's: none.
    tolerance = {"pixelate": 0, "jpeg_compression": 0, "defocus_blur": 3}.get(name, 1)
    for severity in SEVERITIES:
        ours = corrupt(IMAGES[0], name, severity, np.random.default_rng(0))[PART, PART]
        assert np.abs(ours.astype(int) - published[severity - 1]).max() <= tolerance


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_function_of_image_name_severity_and_generator(name: str) -> None:
    image = scene(5, 40, 50)
    before = image.copy()
    first, again, other = (
        corrupt(image, name, 3, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert np.array_equal(image, before)
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) == (name in CHANCELESS)


@pytest.mark.parametrize("side", [32, 64, 96, 224])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_effect_rises_with_severity_where_the_table_does(name: str, side: int) -> None:
    flat = FLAT["cifar" if side <= 64 else "imagenet"].get(name, set())
    images = [scene(seed, side, side) for seed in (0, 1)]
    # The same seeds at all severities, so that draws do not hide the order.
    draws = range(1 if side == 224 else 6)
    effects = [
        np.mean([change(image, name, s, seed) for image in images for seed in draws])
        for s in SEVERITIES
    ]
    for severity, (low, high) in enumerate(itertools.pairwise(effects), start=1):
        assert low < high or severity in flat, effects
    assert effects[0] > 0.1


@settings(max_examples=60)
@given(
    st.sampled_from(tuple(CORRUPTIONS)),
    st.sampled_from(SEVERITIES),
    st.integers(32, 200),
    st.integers(32, 200),
)
def test_any_size_runs(name: str, severity: int, height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    after = corrupt(image, name, severity, np.random.default_rng(0))
    assert after.shape == image.shape
    assert after.dtype == np.uint8


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 2), (31, 16), (3, 300)])
def test_tiny_and_thin_images_run(name: str, shape: tuple[int, int]) -> None:
    for value in (0, 255):
        image = np.full((*shape, 3), value, np.uint8)
        for severity in (1, 5):
            assert corrupt(image, name, severity, np.random.default_rng(0)).shape == image.shape


def test_unknown_names_and_severities_are_refused() -> None:
    image, rng = scene(0, 32, 32), np.random.default_rng(0)
    with pytest.raises(ValueError, match="did you mean 'defocus_blur'"):
        corrupt(image, "defocus", 1, rng)
    for severity in (0, 6, -1):
        with pytest.raises(ValueError, match="hint: give one of 1, 2, 3, 4, 5"):
            corrupt(image, "fog", severity, rng)


@pytest.mark.parametrize("scale", [1.0, 0.4, 2.3])
def test_glass_origins_are_those_of_the_loop(scale: float) -> None:
    height, width, delta = 15, 19, 2
    origin = blur.origins(height, width, delta, scale, np.random.default_rng(3))
    steps = _Steps(height, width, delta, scale)
    image = np.arange(height * width).reshape(height, width).copy()
    for y, x in steps.visited():
        dy, dx = steps.at(y, x)
        image[y, x] = image[y + dy, x + dx]
    assert np.array_equal(origin, image.ravel())


class _Steps:
    """The same draws as ``origins`` takes, for the slow loop."""

    def __init__(self, height: int, width: int, delta: int, scale: float) -> None:
        rng = np.random.default_rng(3)
        self.first = int(np.ceil(delta * scale)) + 1
        self.ends = [s - self.first + 1 + (scale == 1) for s in (height, width)]
        shape = (2, *(end - self.first for end in self.ends))
        self.steps = rng.integers(-delta, delta, shape, dtype=np.int32)
        if scale != 1:
            self.steps = np.floor(self.steps * scale + rng.random(shape)).astype(np.int32)

    def visited(self) -> Any:
        for y in range(self.ends[0] - 1, self.first - 1, -1):
            for x in range(self.ends[1] - 1, self.first - 1, -1):
                yield y, x

    def at(self, y: int, x: int) -> Any:
        return self.steps[:, y - self.first, x - self.first]


@pytest.mark.parametrize("border", ["edge", "reflect"])
def test_fourier_correlation_is_the_sum(border: Any) -> None:
    rng = np.random.default_rng(0)
    values, kernel = rng.random((9, 11, 3), np.float32), rng.random((5, 3), np.float32)
    padded = np.pad(values, [(2, 2), (1, 1), (0, 0)], mode=border)
    slow = sum(kernel[i, j] * padded[i : i + 9, j : j + 11] for i in range(5) for j in range(3))
    # float32 sums of 15 terms: 1e-6 apart
    assert np.allclose(filters.correlate(values, kernel, border), slow, atol=1e-5)


def test_hue_and_saturation_are_kept_by_brightness(shared: Path) -> None:
    path = sorted((shared / "data/ants-bees/test/bees").glob("*.jpg"))[3]
    image = square(path, 64)
    after = corrupt(image, "brightness", 3, np.random.default_rng(0)).astype(float)
    before = image.astype(float)
    sure = (before.max(-1) > 60) & (after.max(-1) < 255)
    ratio = [(v.min(-1) / np.maximum(v.max(-1), 1))[sure] for v in (before, after)]
    assert np.abs(ratio[0] - ratio[1]).max() < 0.01  # rounding: 0.5 of 60 levels


@pytest.mark.slow
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_at_1024_pixels_much_as_at_224(name: str, shared: Path) -> None:
    paths = sorted((shared / "data/ants-bees/test/bees").glob("*.jpg"))[:3]
    # Measured on 8 photographs at severity 3: 0.98 to 1.05 of the change at 224 pixels. Blocks of
    # JPEG are 8 pixels at every size and smoother in a large image: 0.44.
    low, high = (0.3, 0.7) if name == "jpeg_compression" else (0.9, 1.12)
    small, large = (
        np.mean([change(square(path, side), name, 3) for path in paths]) for side in (224, 1024)
    )
    assert low < large / small < high


@pytest.mark.slow
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_beside_the_published_generator_itself(name: str) -> None:
    reference = pytest.importorskip("imagecorruptions", reason="a reference, not installed")
    image, draws = IMAGES[1], 9 if name in BAND else 3
    np.random.seed(0)
    # Nine draws of six photographs of frost scatter by a fifth; spatter at severity 1 changes 0.7
    # and 1.1 levels. The golden file holds the narrower bands, of 24 draws.
    band = 0.35 if name == "frost" else 0.2
    for severity in SEVERITIES:
        after = [reference.corrupt(image, severity, name) for _ in range(draws)]
        want = np.mean([measures(image, picture)[0] for picture in after])
        found = np.mean([change(image, name, severity, seed) for seed in range(draws)])
        assert found == pytest.approx(want, rel=band, abs=0.5)
