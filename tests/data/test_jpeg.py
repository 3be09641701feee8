"""With simplejpeg or without it, the same files can be read, and they give the same pixels."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from tessera.data import jpeg
from tessera.data.augment import TrainTransform
from tessera.data.images import ImageError, decoding, open_lazily
from tessera.data.preprocessing import Preprocessing
from tessera.recipe import Augment

pytest.importorskip("simplejpeg")


def photo(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize((120, 90), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def as_trained(data: bytes) -> bytes | None:
    """Pixels that training sees; None if it cannot read the file."""
    transform = TrainTransform(Preprocessing(size=(32, 32)), Augment(crop_scale=(0.5, 1.0)))
    try:
        with decoding("photo"), open_lazily(io.BytesIO(data), "photo") as image:
            return transform(image, np.random.default_rng(0)).numpy().tobytes()
    except ImageError:
        return None


def whole(data: bytearray, rng: np.random.Generator) -> bytes:
    return bytes(data)


def changed(data: bytearray, rng: np.random.Generator) -> bytes:
    """One byte of the picture is another, as on a bad disk."""
    data[rng.integers(620, len(data))] ^= int(rng.integers(1, 256))
    return bytes(data)


def cut(data: bytearray, rng: np.random.Generator) -> bytes:
    return bytes(data[: -int(rng.integers(3, 40))])


@pytest.mark.parametrize(("damage", "share"), [(whole, 1.0), (changed, 0.8), (cut, 0.0)])
def test_a_damaged_jpeg_is_read_or_not_whatever_decodes_it(
    damage: Callable[[bytearray, np.random.Generator], bytes],
    share: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    files = [damage(bytearray(photo(seed)), rng) for seed in range(60)]
    fast = [as_trained(data) for data in files]
    monkeypatch.setattr(jpeg, "simplejpeg", None)
    assert [as_trained(data) for data in files] == fast
    assert np.mean([pixels is not None for pixels in fast]) == pytest.approx(share, abs=0.2)
