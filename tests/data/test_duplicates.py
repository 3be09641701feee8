"""Images that look alike are found, whatever was done to them, and others are not."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageFilter

from tessera.data.duplicates import groups, near_duplicates, signature


def photo(seed: int, width: int = 160, height: int = 120) -> Image.Image:
    """Smooth random colours, as different from one another as photographs."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    def change(image: Image.Image) -> Image.Image:
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=quality)
        return Image.open(stream)

    return change


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "jpeg 30": jpeg(30),
    "jpeg 95": jpeg(95),
    "half": lambda image: image.resize((80, 60)),
    "double": lambda image: image.resize((320, 240)),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.9),
    "contrast": lambda image: ImageEnhance.Contrast(image).enhance(1.1),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
    "cropped": lambda image: image.crop((2, 2, 158, 118)),
}


def pairs_of(images: list[Image.Image], block: int = 2048) -> list[tuple[int, int]]:
    found = near_duplicates(np.stack([signature(image) for image in images]), block=block)
    return [(int(i), int(j)) for i, j in found]


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_copy_is_found(name: str) -> None:
    images = [photo(seed) for seed in range(12)]
    images += [CHANGES[name](image) for image in images]
    assert pairs_of(images) == [(k, k + 12) for k in range(12)]


def test_different_images_are_not_alike() -> None:
    assert pairs_of([photo(seed) for seed in range(300)]) == []


def test_the_same_shapes_in_another_colour_are_another_image() -> None:
    image = photo(3)
    red, green, blue = image.split()
    assert pairs_of([image, Image.merge("RGB", (blue, red, green))]) == []


def test_images_without_contrast_are_not_compared() -> None:
    flat = [Image.new("RGB", (50, 50), (level, level, level)) for level in (0, 1, 200, 200)]
    assert pairs_of(flat) == []


@pytest.mark.parametrize("block", [1, 3, 7, 100])
def test_the_size_of_the_blocks_changes_nothing(block: int) -> None:
    images = [photo(seed % 5) for seed in range(13)]
    wanted = [(i, j) for i in range(13) for j in range(i + 1, 13) if i % 5 == j % 5]
    assert pairs_of(images, block=block) == wanted


@given(order=st.permutations(range(8)))
def test_the_order_of_the_images_changes_nothing(order: list[int]) -> None:
    images = [photo(seed % 4) for seed in range(8)]
    found = pairs_of([images[k] for k in order])
    originals = {frozenset((order[i], order[j])) for i, j in found}
    assert originals == {frozenset((k, k + 4)) for k in range(4)}
    assert all(i < j for i, j in found)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_images_have_no_pairs(count: int) -> None:
    empty = np.zeros((count, 16, 16, 3), dtype=np.uint8)
    assert near_duplicates(empty).shape == (0, 2)


def test_progress_counts_every_image_once() -> None:
    seen: list[int] = []
    images = np.stack([signature(photo(seed)) for seed in range(10)])
    near_duplicates(images, block=4, on_progress=seen.append)
    assert sum(seen) == 10


def test_groups_are_what_pairs_connect() -> None:
    found = groups(6, np.array([[0, 2], [2, 4]]))
    assert found[0] == found[2] == found[4]
    assert len({int(found[k]) for k in (0, 1, 3, 5)}) == 4
    assert len(set(groups(3, np.empty((0, 2), dtype=np.int64)).tolist())) == 3
