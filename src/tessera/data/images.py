"""One image file or array, read the same way wherever it is needed."""

import struct
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
    *(TypeError, struct.error),  # EXIF fields of the wrong type
)
"""What Pillow raises when a file is damaged."""


class ImageError(ValueError):
    """An image that cannot be read; the message names the file."""


def open_image(path: str | Path) -> Image.Image:
    """Read a file, turned upright as its EXIF tag says.

    Raises:
        ImageError: The file is missing, truncated, too large, or no image.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image)
    except FileNotFoundError as error:
        raise ImageError(f"no such image: {path}") from error
    except IsADirectoryError as error:
        raise ImageError(f"{path} is a folder, not an image") from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{path} is no image that can be read") from error
    except UNDECODABLE as error:
        raise ImageError(f"{path} cannot be decoded: {error}") from error


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
            try:
                return ImageOps.exif_transpose(source)
            except UNDECODABLE as error:
                name = getattr(source, "filename", "") or repr(source)
                raise ImageError(f"{name} cannot be decoded: {error}") from error
        case np.ndarray() if source.dtype == np.uint8 and source.ndim in (2, 3) and source.size:
            squeezed = source[..., 0] if source.ndim == 3 and source.shape[2] == 1 else source
            if squeezed.ndim == 2 or squeezed.shape[2] in (3, 4):
                return Image.fromarray(squeezed)
    what = f"array of {source.dtype} {source.shape}" if isinstance(source, np.ndarray) else source
    raise ImageError(
        f"cannot take {what!r} for an image\n"
        "hint: give a path, a PIL image, or a uint8 array of shape (h, w), (h, w, 3) or (h, w, 4)"
    )


def to_channels(image: Image.Image, channels: int) -> Image.Image:
    """Convert to grey (1 channel) or RGB (3); 16-bit greys are scaled, alpha is laid on white."""
    mode = "L" if channels == 1 else "RGB"
    if image.mode == mode and "transparency" not in image.info:
        return image
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8))
    elif "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert(mode)
