"""One image file or array, read the same way wherever it is needed."""

import logging
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm"}
"""File names that are taken for images, in lower case."""

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}

UNDECODABLE = (
    *(OSError, SyntaxError, ValueError, Image.DecompressionBombError),
    *(TypeError, struct.error, zlib.error),  # fields of the wrong type, broken streams
    *(IndexError, KeyError, EOFError, OverflowError, MemoryError),  # from damaged headers
)
"""What Pillow raises when a file is damaged."""

ORIENTATION = 0x0112
"""EXIF tag: how the camera was held."""

WHITE = (255, 255, 255)


class ImageError(ValueError):
    """An image that cannot be read; the message names the file."""


def printable(text: str) -> str:
    """Return a name as it can be printed on one line, whatever bytes it was made of."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Turn whatever a damaged file provokes into an ``ImageError`` that names it."""
    name = printable(name)
    try:
        yield
    except ImageError:
        raise
    except FileNotFoundError as error:
        raise ImageError(f"no such image: {name}") from error
    except IsADirectoryError as error:
        raise ImageError(f"{name} is a folder, not an image") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name} is no image that can be read") from error
    except UNDECODABLE as error:
        raise ImageError(f"{name} cannot be decoded: {error}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Pillow from writing to the terminal what is found here anyway.

    Warnings are a matter of the whole process: threads that each silence their own put each
    other's settings back.
    """
    logger = logging.getLogger("PIL")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)


def open_lazily(file: str | Path | BytesIO, name: str) -> Image.Image:
    """Read the header of an image, which knows its size; the pixels are decoded on first use.

    Raises:
        ImageError: Nothing is there, it is no image, or it has more than 179 million pixels
            (Pillow's limit, above which a small file may fill the memory).
    """
    with decoding(name), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # half of that limit, and EXIF that is slightly wrong
        return Image.open(file)


def upright(image: Image.Image) -> Image.Image:
    """Decode an image and turn it as its EXIF tag says; of several frames, take the first."""
    image.load()
    if is_turned(image):
        return ImageOps.exif_transpose(image)
    return image.copy() if getattr(image, "is_animated", False) else image


def is_turned(image: Image.Image) -> bool:
    """Whether EXIF says that the camera was not held upright."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # EXIF that is slightly wrong
        return image.getexif().get(ORIENTATION, 1) in range(2, 9)


def open_image(path: str | Path) -> Image.Image:
    """Read a file, turned upright as its EXIF tag says.

    Raises:
        ImageError: The file is missing, truncated, too large, or no image.
    """
    with decoding(str(path)), open_lazily(path, str(path)) as image:
        return upright(image)


def as_image(source: str | Path | Image.Image | np.ndarray) -> Image.Image:
    """Accept a path, a PIL image, or an array of uint8: ``h w``, ``h w 1``, ``h w 3`` or ``h w 4``.

    What comes back is read whole and upright, as from ``open_image``.

    Raises:
        ImageError: Not one of these, or not readable.
    """
    match source:
        case str() | Path():
            return open_image(source)
        case Image.Image():
            with decoding(getattr(source, "filename", "") or repr(source)):
                return ImageOps.exif_transpose(source)
        case np.ndarray() if source.dtype == np.uint8 and source.ndim in (2, 3) and source.size:
            squeezed = source[..., 0] if source.ndim == 3 and source.shape[2] == 1 else source
            if squeezed.ndim == 2 or squeezed.shape[2] in (3, 4):
                return Image.fromarray(squeezed)
    what = f"array of {source.dtype} {source.shape}" if isinstance(source, np.ndarray) else source
    raise ImageError(
        f"cannot take {what!r} for an image\n"
        "hint: give a path, a PIL image, or a uint8 array of shape (h, w), (h, w, 3) or (h, w, 4)"
    )


def to_channels(
    image: Image.Image, channels: int, background: tuple[int, int, int] = WHITE
) -> Image.Image:
    """Convert to grey (1 channel) or RGB (3).

    Greys of 16 and 32 bits are scaled, not cut off at 255; see ``to_bytes``.

    Args:
        background: Colour that shows where the image is transparent.
    """
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(to_bytes(np.asarray(image)))
    elif "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*background, 255)), image)
    return image.convert(mode)


def to_bytes(grey: np.ndarray) -> np.ndarray:
    """Scale greys of more than 8 bits to bytes, by the range of their type.

    16-bit images are divided by 257. Those of 32 bits say nothing of their range, so the smallest
    usual one that holds them is taken: for whole numbers 8, 16 or 32 bits; for fractions 0 to 1,
    then the same. Values below 0 and those that are no number become 0, and infinity is white.
    """
    if grey.dtype.kind == "u" and grey.dtype.itemsize == 2:  # in either order of bytes
        return (grey.astype(np.uint32) // 257).astype(np.uint8)
    top = float(grey[np.isfinite(grey)].max(initial=0))
    ranges = (1.0, 255.0, 65535.0) if grey.dtype.kind == "f" else (255.0, 65535.0)
    white = next((r for r in ranges if top <= r), 2.0**32 - 1 if top < 2**32 else top)
    whole = np.nan_to_num(grey.astype(np.float64), posinf=white, neginf=0)
    scaled = whole * (255 / white)
    return np.floor(scaled.clip(0, 255) + (0.5 if white <= 255 else 0)).astype(np.uint8)
