"""Whatever an image file holds, it comes upright and in the colours that were meant, or by name."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tessera.data.images import ImageError, as_image, open_image, to_bytes, to_channels


@pytest.fixture
def photo() -> Image.Image:
    """A smooth picture of 30x20 pixels, different in every corner and channel."""
    rows, cols = np.mgrid[0:20, 0:30]
    channels = np.stack([rows * 12, cols * 8, 255 - rows * 6 - cols * 4], axis=-1)
    return Image.fromarray(channels.astype(np.uint8))


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, None),
        (2, Image.Transpose.FLIP_LEFT_RIGHT),
        (3, Image.Transpose.ROTATE_180),
        (4, Image.Transpose.FLIP_TOP_BOTTOM),
        (5, Image.Transpose.TRANSPOSE),
        (6, Image.Transpose.ROTATE_90),
        (7, Image.Transpose.TRANSVERSE),
        (8, Image.Transpose.ROTATE_270),
    ],
)
def test_a_photograph_comes_upright_whatever_way_the_camera_was_held(
    orientation: int, turn: Image.Transpose | None, photo: Image.Image, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = tmp_path / "photo.jpg"
    stored = photo if turn is None else photo.transpose(turn)
    stored.save(file, exif=exif, quality=100, subsampling=0)
    upright = open_image(file)
    assert upright.size == photo.size
    # JPEG at quality 100 differs by 3 grey levels at most here; a wrong turn by over 200.
    difference = np.abs(np.asarray(upright).astype(int) - np.asarray(photo).astype(int))
    assert difference.max() <= 6


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    levels = np.array([[0, 257, 25_700], [40_000, 65_278, 65_535]], dtype=np.uint16)
    file = tmp_path / "deep.png"
    Image.fromarray(levels).save(file)
    image = open_image(file)
    assert image.mode == "I;16"
    expected = np.array([[0, 1, 100], [155, 254, 255]])
    np.testing.assert_array_equal(np.asarray(to_channels(image, 1)), expected)
    np.testing.assert_array_equal(np.asarray(to_channels(image, 3))[..., 1], expected)


# Type and greys as a file may hold them, and the bytes that they become. 16 bits are divided by
# 257 whatever they hold. 32 bits do not say their range: it is the smallest usual one that fits.
GREYS: dict[str, tuple[str, list[float], list[int]]] = {
    "16 bits": ("<u2", [0, 256, 257, 32_767, 65_534, 65_535], [0, 0, 1, 127, 254, 255]),
    "16 bits, dark": ("<u2", [0, 100, 255, 257, 514], [0, 0, 0, 1, 2]),
    "16 bits, big-endian": (">u2", [0, 256, 257, 32_767, 65_535], [0, 0, 1, 127, 255]),
    "16 bits, big-endian, dark": (">u2", [0, 100, 255], [0, 0, 0]),
    "32 bits that hold 8": ("<i4", [0, 1, 128, 255], [0, 1, 128, 255]),
    "32 bits that hold 16": ("<i4", [0, 256, 257, 514, 65_535], [0, 0, 1, 2, 255]),
    "32 bits": ("<i4", [0, 2**24, 2**30, 2**31 - 1], [0, 0, 63, 127]),
    "32 bits below zero": ("<i4", [-7, 0, 200], [0, 0, 200]),
    "fractions to 1": ("<f4", [0, 0.25, 0.5, 1], [0, 64, 128, 255]),
    "fractions to 255": ("<f4", [0, 1.2, 1.5, 127.6, 255], [0, 1, 2, 128, 255]),
    "fractions to 65,535": ("<f4", [0, 256, 257, 65_535], [0, 0, 1, 255]),
    "fractions below zero": ("<f4", [-3, 0, 1], [0, 0, 255]),
    "fractions beyond all ranges": ("<f4", [0, 1e20, 2e20], [0, 127, 255]),
    "no numbers": ("<f4", [np.nan, -np.inf, 0.5, np.inf], [0, 0, 128, 255]),
    "nothing but zeros": ("<f4", [0, 0], [0, 0]),
    "no number at all": ("<f4", [np.nan, np.nan], [0, 0]),
}


@pytest.mark.parametrize("kind", GREYS)
def test_greys_of_many_bits_become_bytes_by_the_range_of_their_type(kind: str) -> None:
    code, values, wanted = GREYS[kind]
    found = to_bytes(np.array([values], dtype=code))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, [wanted])


@pytest.mark.parametrize("kind", [kind for kind in GREYS if "no number" not in kind])
def test_greys_of_many_bits_come_so_from_a_tiff(kind: str, tmp_path: Path) -> None:
    code, values, wanted = GREYS[kind]
    file = tmp_path / "deep.tif"
    Image.fromarray(np.array([values], dtype=code)).save(file)
    image = open_image(file)
    assert image.mode in ("I;16", "I;16B", "I", "F")
    np.testing.assert_array_equal(np.asarray(to_channels(image, 1)), [wanted])
    for channel in range(3):
        rgb = np.asarray(to_channels(image, 3, background=(9, 9, 9)))
        np.testing.assert_array_equal(rgb[..., channel], [wanted])


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bits_keep_the_order_of_greys_and_use_all_of_the_range(order: str) -> None:
    every = np.arange(65_536, dtype=f"{order}u2")[None]
    found = to_bytes(every)[0].astype(int)
    assert (np.diff(found) >= 0).all()
    # 257 values for every byte but the last, which only pure white becomes.
    assert np.bincount(found).tolist() == [257] * 255 + [1]


def test_one_bit_becomes_black_and_white(tmp_path: Path) -> None:
    file = tmp_path / "scan.png"
    Image.fromarray(np.array([[True, False, True]])).save(file)
    image = open_image(file)
    assert image.mode == "1"
    np.testing.assert_array_equal(np.asarray(to_channels(image, 1)), [[255, 0, 255]])
    np.testing.assert_array_equal(np.asarray(to_channels(image, 3))[..., 2], [[255, 0, 255]])


BLUE = (10, 20, 200)
GREY_OF_BLUE = 38  # 0.299 * 10 + 0.587 * 20 + 0.114 * 200 = 37.53


def test_the_background_shows_where_an_image_is_transparent() -> None:
    image = Image.new("RGBA", (4, 1))
    for x, pixel in enumerate([(0, 0, 0, 0), (255, 255, 255, 0), (1, 2, 3, 255), (0, 0, 0, 51)]):
        image.putpixel((x, 0), pixel)
    found = to_channels(image, 3, background=BLUE)
    assert [found.getpixel((x, 0)) for x in range(4)] == [BLUE, BLUE, (1, 2, 3), (8, 16, 160)]
    assert to_channels(image, 1, background=BLUE).getpixel((0, 0)) == GREY_OF_BLUE


def test_the_background_shows_behind_transparent_grey() -> None:
    image = Image.new("LA", (2, 1), (90, 0))
    image.putpixel((1, 0), (90, 255))
    found = to_channels(image, 3, background=BLUE)
    assert [found.getpixel((x, 0)) for x in (0, 1)] == [BLUE, (90, 90, 90)]
    grey = to_channels(image, 1, background=BLUE)
    assert [grey.getpixel((x, 0)) for x in (0, 1)] == [GREY_OF_BLUE, 90]


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_the_background_shows_through_a_palette(suffix: str, tmp_path: Path) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([200, 100, 50, 1, 2, 3, 70, 80, 90])
    for x in range(3):
        image.putpixel((x, 0), x)
    file = tmp_path / f"palette.{suffix}"
    image.save(file, transparency=1)
    opened = open_image(file)
    assert "transparency" in opened.info
    found = to_channels(opened, 3, background=BLUE)
    assert [found.getpixel((x, 0)) for x in range(3)] == [(200, 100, 50), BLUE, (70, 80, 90)]


def test_a_palette_may_be_half_transparent(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "half.png", transparency=bytes([51, 255]))
    found = to_channels(open_image(tmp_path / "half.png"), 3, background=BLUE)
    assert [found.getpixel((x, 0)) for x in (0, 1)] == [(8, 16, 160), (255, 255, 255)]


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "CMYK", "I", "F", "YCbCr"])
def test_the_background_does_not_show_in_opaque_images(mode: str) -> None:
    image = Image.new(mode, (2, 2))
    plain = np.asarray(to_channels(image, 3))
    np.testing.assert_array_equal(np.asarray(to_channels(image, 3, background=BLUE)), plain)


@pytest.mark.parametrize(
    ("ink", "rgb"),
    [
        ((0, 0, 0, 0), (255, 255, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((255, 0, 0, 0), (0, 255, 255)),
        ((0, 255, 255, 0), (255, 0, 0)),
    ],
)
def test_inks_become_colours_and_greys(
    ink: tuple[int, ...], rgb: tuple[int, ...], tmp_path: Path
) -> None:
    file = tmp_path / "print.tif"
    Image.new("CMYK", (2, 2), ink).save(file)
    image = open_image(file)
    assert to_channels(image, 3).getpixel((0, 0)) == rgb
    grey = Image.new("RGB", (1, 1), rgb).convert("L").getpixel((0, 0))
    assert to_channels(image, 1).getpixel((0, 0)) == grey


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("mode", "colour"), [("RGBA", (0, 0, 0, 0)), ("LA", (0, 0)), ("RGBA", (255, 0, 0, 0))]
)
def test_what_is_transparent_becomes_white(
    mode: str, colour: tuple[int, ...], channels: int, tmp_path: Path
) -> None:
    file = tmp_path / "clear.png"
    Image.new(mode, (4, 3), colour).save(file)
    assert np.asarray(to_channels(open_image(file), channels)).min() == 255


def test_half_transparent_black_is_grey() -> None:
    image = Image.new("RGBA", (2, 2), (0, 0, 0, 128))
    assert to_channels(image, 3).getpixel((0, 0)) == (127, 127, 127)


def test_opaque_pixels_keep_their_colour(photo: Image.Image) -> None:
    opaque = to_channels(photo.convert("RGBA"), 3)
    np.testing.assert_array_equal(np.asarray(opaque), np.asarray(photo))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("mode", "clear"), [("L", 0), ("P", 0), ("RGB", (0, 0, 0))], ids=["grey", "palette", "rgb"]
)
def test_a_colour_declared_transparent_becomes_white(
    mode: str, clear: int | tuple[int, ...], channels: int, tmp_path: Path
) -> None:
    file = tmp_path / "clear.png"
    Image.new(mode, (4, 3), 0).save(file, transparency=clear)
    assert np.asarray(to_channels(open_image(file), channels)).min() == 255


def test_a_palette_becomes_its_colours(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    file = tmp_path / "palette.gif"
    image.save(file)
    found = to_channels(open_image(file), 3)
    assert [found.getpixel((x, 0)) for x in (0, 1)] == [(10, 20, 30), (200, 100, 50)]


def test_a_cmyk_jpeg_becomes_rgb(photo: Image.Image, tmp_path: Path) -> None:
    file = tmp_path / "print.jpg"
    photo.convert("CMYK").save(file, quality=100, subsampling=0)
    image = open_image(file)
    assert image.mode == "CMYK"
    found = to_channels(image, 3)
    # Inverted inks would be off by over 200; with these colours the JPEG itself is exact.
    difference = np.abs(np.asarray(found).astype(int) - np.asarray(photo).astype(int))
    assert (found.mode, difference.max() <= 3) == ("RGB", True)


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "HSV", "LAB"]
)
@pytest.mark.parametrize(("channels", "wanted"), [(1, "L"), (3, "RGB")])
def test_every_mode_becomes_grey_or_rgb(mode: str, channels: int, wanted: str) -> None:
    image = to_channels(Image.new(mode, (5, 4)), channels)
    assert (image.mode, image.size) == (wanted, (5, 4))


def test_an_image_that_fits_is_not_copied(photo: Image.Image) -> None:
    assert to_channels(photo, 3) is photo


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.95])
def test_a_truncated_file_is_named(keep: float, photo: Image.Image, tmp_path: Path) -> None:
    file = tmp_path / "half.jpg"
    photo.resize((300, 200)).save(file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    with pytest.raises(ImageError, match=r"half\.jpg"):
        open_image(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"no such image: .*none\.png"):
        open_image(tmp_path / "none.png")


def test_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=rf"{tmp_path.name} is a folder"):
        open_image(tmp_path)


def test_a_text_that_calls_itself_jpg_is_named(tmp_path: Path) -> None:
    file = tmp_path / "notes.jpg"
    file.write_text("this is no image", encoding="utf-8")
    with pytest.raises(ImageError, match=r"notes\.jpg is no image"):
        open_image(file)


def read_or_refuse(file: Path) -> Image.Image | str:
    """The image, or what the refusal says."""
    try:
        return open_image(file)
    except ImageError as error:
        return str(error)


def exif_with_a_text_where_a_number_belongs(tag: int) -> bytes:
    """EXIF as some old editors write it: orientation 6, and one field of the wrong type."""
    fields = struct.pack(">HHLHH", 0x0112, 3, 1, 6, 0) + struct.pack(">HHL4s", tag, 2, 4, b"abc")
    return b"Exif\0\0MM\0*" + struct.pack(">LH", 8, 2) + fields + struct.pack(">L", 0)


@pytest.mark.parametrize("tag", [0x0103, 0x011A, 0x0128])
def test_broken_exif_does_not_keep_an_image_from_being_read(
    tag: int, photo: Image.Image, tmp_path: Path
) -> None:
    file = tmp_path / "edited.jpg"
    photo.save(file, exif=exif_with_a_text_where_a_number_belongs(tag))
    found = read_or_refuse(file)  # a refusal is an answer too, as long as it says which file
    assert "edited.jpg" in found if isinstance(found, str) else found.size == (20, 30)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of odd metadata: not our matter
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "ppm"])
def test_a_damaged_file_is_read_or_named_and_nothing_else(
    suffix: str, photo: Image.Image, tmp_path: Path
) -> None:
    file = tmp_path / f"damaged.{suffix}"
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    if suffix in ("jpg", "png", "webp"):
        photo.save(file, exif=exif)
    else:
        photo.save(file)
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[rng.integers(min(len(damaged), 200))] = rng.integers(256)
        file.write_bytes(damaged[: rng.integers(len(damaged) // 2, len(damaged))])
        found = read_or_refuse(file)
        if isinstance(found, str):
            refused += 1
            assert file.name in found
    assert refused > 0


def test_arrays_are_taken_as_they_are(photo: Image.Image) -> None:
    rgb = np.asarray(photo)
    grey = rgb[..., 0].copy()
    assert as_image(rgb).tobytes() == photo.tobytes()
    assert as_image(grey).mode == as_image(grey[..., None]).mode == "L"
    assert as_image(grey).tobytes() == as_image(grey[..., None]).tobytes() == grey.tobytes()
    assert as_image(np.dstack([rgb, grey])).mode == "RGBA"


def test_images_pass_and_paths_are_opened(photo: Image.Image, tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    photo.save(file)
    assert as_image(photo).tobytes() == photo.tobytes()
    assert as_image(file).tobytes() == as_image(str(file)).tobytes() == photo.tobytes()


def test_an_image_that_pillow_has_opened_comes_upright_too(
    photo: Image.Image, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    file = tmp_path / "photo.jpg"
    photo.save(file, exif=exif)
    with Image.open(file) as opened:
        assert as_image(opened).size == as_image(file).size == (20, 30)


def test_an_image_that_pillow_has_opened_but_cannot_read_is_refused(
    photo: Image.Image, tmp_path: Path
) -> None:
    file = tmp_path / "half.jpg"
    photo.resize((300, 200)).save(file)
    file.write_bytes(file.read_bytes()[:-500])
    with Image.open(file) as opened, pytest.raises(ImageError, match="truncated"):
        as_image(opened)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4), np.int64),
        np.zeros((4, 4), bool),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_an_array_of_another_type_or_shape_is_refused_with_what_is_wanted(
    array: np.ndarray,
) -> None:
    with pytest.raises(ImageError) as caught:
        as_image(array)
    assert str(array.dtype) in str(caught.value)
    assert str(array.shape) in str(caught.value)
    assert "hint: give a path" in str(caught.value)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 5, 3)])
def test_an_array_without_pixels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="cannot take"):
        as_image(np.zeros(shape, np.uint8))
