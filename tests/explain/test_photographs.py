"""Images of every kind that files hold: huge, grey, of 16 bits, with a palette, in CMYK."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tessera.checkpoint.artifact import Header, save_artifact
from tessera.cli import main
from tessera.config import ViTConfig
from tessera.data.preprocessing import Preprocessing
from tessera.explain.results import ExplainedImage
from tessera.explaining import ExplainSettings, explain
from tessera.models.vit import ViT

METHODS = ("relevance", "integrated-gradients", "pca")
PLAIN = ExplainSettings(methods=METHODS, steps=2, curve_steps=0, sanity_images=0)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that sees the middle of an image, 0.8 of its short side."""
    torch.manual_seed(0)
    config = ViTConfig(
        embed_dim=16, depth=2, num_heads=2, mlp_dim=16, patch_size=8, img_size=32, num_classes=3
    )
    header = Header(
        config=config,
        preprocessing=Preprocessing(size=(32, 32), crop_pct=0.8),
        class_names=("a", "b", "c"),
    )
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model = ViT(config, init="timm")
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    save_artifact(path, model, header)
    return path


def scene(width: int, height: int) -> np.ndarray:
    """Greys of a disk on a slope."""
    y, x = np.mgrid[0:height, 0:width]
    disk = (x - 0.4 * width) ** 2 + (y - 0.6 * height) ** 2 < (0.2 * height) ** 2
    return np.where(disk, 230, 40 + 120 * x // width).astype(np.uint8)


def save(path: Path, kind: str) -> tuple[Path, Image.Image]:
    """Write a picture of a kind; return the file, and what it shows in RGB."""
    grey = scene(90, 70)
    colours = np.stack([grey, 255 - grey, grey // 2], axis=-1)
    match kind:
        case "grey":
            image = Image.fromarray(grey)
            shown = image.convert("RGB")
        case "16 bits":
            image = Image.fromarray(grey.astype(np.uint16) * 257)
            assert image.mode == "I;16"
            shown = Image.fromarray(grey).convert("RGB")
        case "palette":
            image = Image.fromarray(colours).quantize(200)
            shown = image.convert("RGB")
        case "CMYK":
            image = Image.fromarray(colours).convert("CMYK")
            shown = image.convert("RGB")
        case "two colours":
            image = Image.fromarray(grey).convert("1")
            shown = image.convert("RGB")
        case "transparent":
            alpha = np.where(grey == 230, 255, 0).astype(np.uint8)
            image = Image.fromarray(np.dstack([colours, alpha]))
            shown = Image.fromarray(np.where(alpha[..., None] > 0, colours, 255).astype(np.uint8))
    path = path.with_suffix(".tif" if kind == "CMYK" else ".png")  # both keep every pixel
    image.save(path)
    with Image.open(path) as again:
        assert again.mode == image.mode
    return path, shown


def maps(found: ExplainedImage) -> dict[str, np.ndarray]:
    return {one.method: one.values for one in found.maps}


@pytest.mark.parametrize(
    "kind", ["grey", "16 bits", "palette", "CMYK", "two colours", "transparent"]
)
def test_an_image_of_any_kind_is_explained_as_what_it_shows(
    model: Path, tmp_path: Path, kind: str
) -> None:
    path, shown = save(tmp_path / "own", kind)
    shown.save(tmp_path / "shown.png")
    found = explain(model, [path, tmp_path / "shown.png"], PLAIN, out=tmp_path / "out")
    own, other = map(maps, found.images)
    for method in METHODS:
        assert np.array_equal(own[method], other[method])
        assert np.ptp(own[method]) > 0
        picture = Image.open(tmp_path / "out" / f"0000-own.{method}.png")
        twin = Image.open(tmp_path / "out" / f"0001-shown.{method}.png")
        assert (picture.size, picture.mode) == (twin.size, twin.mode) == ((90, 70), "RGB")
        assert np.array_equal(np.asarray(picture), np.asarray(twin))
        changed = (np.asarray(picture) != np.asarray(shown)).any(axis=2)
        left, top, right, bottom = (round(edge) for edge in found.images[0].seen)
        assert not changed[:, : left - 1].any()
        assert not changed[: top - 1].any()
        assert not changed[bottom + 1 :].any()
        assert changed[top + 1 : bottom - 1, left + 1 : right - 1].mean() > 0.9
    assert not found.facts["unreadable"]


def test_a_jpeg_in_cmyk_is_explained(model: Path, tmp_path: Path) -> None:
    Image.fromarray(scene(90, 70)).convert("CMYK").save(tmp_path / "print.jpg")
    with Image.open(tmp_path / "print.jpg") as image:
        assert image.mode == "CMYK"
        image.convert("RGB").save(tmp_path / "screen.png")
    found = explain(model, [tmp_path / "print.jpg", tmp_path / "screen.png"], PLAIN)
    first, second = map(maps, found.images)
    assert all(np.array_equal(first[method], second[method]) for method in METHODS)


@pytest.mark.parametrize(
    "size",
    [(3000, 2300), pytest.param((9000, 7000), marks=pytest.mark.slow)],
    ids=["7 megapixels", "63 megapixels"],
)
def test_a_huge_photograph_has_an_overlay_of_its_own_size(
    model: Path, tmp_path: Path, size: tuple[int, int]
) -> None:
    width, height = size
    blocks = Image.fromarray(scene(width // 100, height // 100))
    blocks.resize(size, Image.Resampling.NEAREST).save(tmp_path / "huge.jpg", quality=90)
    with Image.open(tmp_path / "huge.jpg") as image:
        decoded = image.convert("RGB")
    less = (width // 50, height // 50)
    decoded.resize(less, Image.Resampling.BOX).save(tmp_path / "small.png")
    settings = ExplainSettings(curve_steps=0, sanity_images=0, target="b")
    found = explain(
        model, [tmp_path / "huge.jpg", tmp_path / "small.png"], settings, out=tmp_path / "out"
    )
    own, other = (one.maps[0].values for one in found.images)
    # Resizing in two steps. Measured: 0.022 of the range, of the larger one 0.005.
    assert np.abs(own - other).max() <= 0.1 * np.ptp(other)
    with Image.open(tmp_path / "out" / "0000-huge.relevance.png") as picture:
        assert picture.size == size
        edge = (0, 0, width, height // 20)  # the model saw 0.8 of the height
        assert picture.crop(edge).tobytes() == decoded.crop(edge).tobytes()
        reduced = np.asarray(picture.resize(less, Image.Resampling.BOX), dtype=float)
    with Image.open(tmp_path / "out" / "0001-small.relevance.png") as picture:
        apart = np.abs(reduced - np.asarray(picture, dtype=float))
    # Measured: 1.3 levels of 255, of the larger one 0.22; at the crop's border more.
    assert apart.mean() <= 3


def bomb(path: Path) -> Path:
    """Write a PNG of few bytes whose header promises 400 million pixels."""
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0),
        b"IDAT": zlib.compress(bytes(1000)),
        b"IEND": b"",
    }
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks.items()
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def test_a_decompression_bomb_is_one_message(model: Path, tmp_path: Path, capsys: Any) -> None:
    path, out = bomb(tmp_path / "bomb.png"), tmp_path / "out"
    assert main(["explain", str(model), str(path), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "bomb.png cannot be decoded: Image size (400000000 pixels) exceeds limit" in error
    assert error.count("bomb.png") == 1
    assert "Traceback" not in error
    assert not list(out.glob("*"))


def test_a_decompression_bomb_among_others_is_named_and_left_out(
    model: Path, tmp_path: Path, capsys: Any
) -> None:
    bomb(tmp_path / "bomb.png")
    Image.fromarray(scene(90, 70)).save(tmp_path / "good.png")
    out = tmp_path / "out"
    words = ["--curve-steps", "0", "--sanity-images", "0", "--out", str(out)]
    assert main(["explain", str(model), str(tmp_path), *words]) == 1
    error = capsys.readouterr().err
    assert error.count("bomb.png") == 1
    assert "Traceback" not in error
    assert (out / "0001-good.relevance.png").exists()
