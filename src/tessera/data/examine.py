"""What is wrong, or merely odd, with one image file."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from PIL import Image, ImageCms

from tessera.data.duplicates import signature
from tessera.data.images import (
    ORIENTATION,
    ImageError,
    decoding,
    open_lazily,
    printable,
    to_channels,
    upright,
)

Note = Callable[[str, str], None]
"""Takes a kind and a detail."""

Severity = Literal["error", "warning", "note"]
"""Cannot be used as it is; should be looked at; is dealt with, and good to know."""

KINDS: dict[str, tuple[Severity, str]] = {
    "missing": ("error", "no such file"),
    "empty": ("error", "the file has no bytes"),
    "not-an-image": ("error", "something else under an image's name"),
    "undecodable": ("error", "damaged, truncated, or of a kind that cannot be read"),
    "incomplete": ("error", "it can be decoded, but its end is missing, and that part is black"),
    "too-large": ("error", "more pixels than are decoded, since so few bytes may fill the memory"),
    "extension": ("warning", "the name says one format, the file is of another"),
    "blank": ("warning", "one colour all over"),
    "tiny": ("warning", "fewer pixels than a model could see anything in"),
    "huge": ("warning", "so many pixels that decoding slows training down; resize it once"),
    "narrow": ("warning", "so long that cropping loses most of it; try --data.crop letterbox"),
    "animated": ("warning", "several frames or pages; the first is taken"),
    "unscaled": (
        "warning",
        "32-bit pixels say nothing of their range; the smallest usual is taken",
    ),
    "16-bit": ("note", "scaled to 8 bits, not cut off"),
    "1-bit": ("note", "black and white only"),
    "colour-space": ("note", "converted to RGB"),
    "transparent": ("note", "laid on white"),
    "palette": ("note", "at most 256 colours"),
    "exif-rotated": ("note", "turned upright as its tag says; other programs may not"),
    "colour-profile": ("note", "its colours are meant otherwise than sRGB, and taken as sRGB"),
    "file-name": ("note", "a name that some programs cannot write down"),
}
"""Every kind of finding about a single file: how grave it is, and what it means."""

TINY, HUGE, NARROW = 16, 50_000_000, 6.0
"""Pixels of the shorter side; pixels in all; longer over shorter side."""

ALIKE_FROM = 32
"""Pixels of the shorter side from which it means something that two images look alike: there are
only so many ways to write a digit in 8x8."""

MEGAPIXEL = 1_000_000

OFF_COLOUR = 8
"""Levels of 255 by which a profile changes some colour before it is worth a word; those that are
sRGB by another name stay below 4, and those of cameras and screens reach 100."""

NAMES = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "MPO": {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"},
    "PNG": {".png", ".apng"},
    "WEBP": {".webp"},
    "GIF": {".gif"},
    "BMP": {".bmp", ".dib"},
    "TIFF": {".tif", ".tiff"},
    "PPM": {".ppm", ".pgm", ".pbm", ".pnm"},
}
"""How the names of files of a format end."""

KNOWN_NAMES = set().union(*NAMES.values())

SIGNATURES: dict[tuple[int, bytes], str] = {
    (0, b"version https://git-lfs"): "a Git LFS pointer; run `git lfs pull`",
    (0, b"data:image/"): "the base64 text of an image",
    (0, b"%PDF"): "a PDF document",
    (0, b"PK\x03\x04"): "a zip archive or an office document",
    (0, b"\x1f\x8b"): "a gzip archive",
    (0, b"Rar!"): "a RAR archive",
    (0, b"7z\xbc\xaf"): "a 7-Zip archive",
    (257, b"ustar"): "a tar archive",
    (0, b"\x93NUMPY"): "a NumPy array",
    (0, b"\x89HDF"): "an HDF5 file",
    (0, b"SIMPLE  ="): "a FITS image",
    (128, b"DICM"): "a DICOM image; convert it",
    (0, b"8BPS"): "a Photoshop file",
    (4, b"ftyphei"): "a HEIC image; convert it",
    (4, b"ftyphev"): "a HEIC image; convert it",
    (4, b"ftypmif1"): "a HEIC image; convert it",
    (4, b"ftypavif"): "a damaged AVIF image",
    (4, b"ftyp"): "a video",
    (4, b"JXL "): "a JPEG XL image; convert it",
    (8, b"WAVE"): "sound",
    (8, b"AVI "): "a video",
    (0, b"OggS"): "sound or video",
    (0, b"ID3"): "an MP3 recording",
    (0, b"{"): "JSON text",
    (0, b"["): "JSON text",
}
"""Bytes at a place by which files are known that people take for images; the first one counts."""

BEGINNINGS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF8": "GIF",
    b"RIFF": "WebP",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}
"""Of images that can be decoded if they are whole."""

PNG_END = b"IEND\xaeB`\x82"


@dataclass(frozen=True)
class Finding:
    """Something about one image, or about two."""

    kind: str
    detail: str
    severity: Severity


@dataclass(frozen=True)
class Examined:
    """All that is known about a file after one look."""

    findings: tuple[Finding, ...]
    signature: np.ndarray | None
    """What it shows, very small; None where there is nothing that could be compared."""


def examine(data: bytes, name: str) -> Examined:
    """Look at an image file once: at its bytes, its header, and its pixels.

    Call it inside ``images.quiet`` where several threads do.
    """
    found: list[Finding] = []

    def note(kind: str, detail: str) -> None:
        found.append(Finding(kind, detail, KINDS[kind][0]))

    if not name.isprintable():
        note("file-name", printable(name))
    try:
        with decoding(name), open_lazily(io.BytesIO(data), name) as image:
            _note_header(image, name, note)
            size, form = image.size, image.format
            image.draft(image.mode, (64, 64))
            rgb = _note_pixels(upright(image), note)
            if form == "PNG" and PNG_END not in data:  # some programs add something behind it
                note("incomplete", f"{len(data)} bytes without an end")
            return Examined(tuple(found), _picture(rgb, size))
    except ImageError as error:
        kind, detail = _why(data, str(error.__cause__ or error))
        note(kind, detail)
    return Examined(tuple(found), None)


def examine_pixels(image: Image.Image) -> Examined:
    """Look at an image that comes from no file, so that only its pixels can be odd."""
    blank = Finding("blank", "every pixel is the same", KINDS["blank"][0])
    rgb = to_channels(image, 3)
    found = (blank,) if _is_blank(rgb) else ()
    return Examined(found, _picture(rgb, image.size))


def _picture(rgb: Image.Image, size: tuple[int, int]) -> np.ndarray | None:
    """Return what likeness is judged by, unless the image is too small for it, or blank."""
    return None if min(size) < ALIKE_FROM or _is_blank(rgb) else signature(rgb)


def _why(data: bytes, message: str) -> tuple[str, str]:
    """Say why a file cannot be decoded."""
    if not data:
        return "empty", "0 bytes"
    if "decompression bomb" in message:
        return "too-large", message.partition(",")[0]
    if not data.strip(b"\0"):
        return "undecodable", f"{len(data)} bytes, all zero"
    if "cannot identify image file" not in message:
        return "undecodable", message
    head = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip()
    if head.startswith(b"<"):
        return "not-an-image", _markup(head.lower())
    for (place, mark), what in SIGNATURES.items():
        if head[place:].startswith(mark):
            return "not-an-image", what
    for mark, form in BEGINNINGS.items():
        if head.startswith(mark):
            return "undecodable", f"a {form} whose beginning is damaged, {len(data)} bytes"
    return "not-an-image", "text" if _is_text(head) else "bytes of no known image format"


def _markup(head: bytes) -> str:
    if b"<html" in head or b"<!doctype html" in head:
        return "an HTML page, as a failed download leaves it"
    return "an SVG drawing" if b"<svg" in head else "XML, or other text with tags"


def _is_text(head: bytes) -> bool:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):  # UTF-16
        return True
    text = head.decode(errors="ignore")  # a character may be cut in two at the end
    whole = len(text.encode()) > len(head) - 4
    return whole and all(c.isprintable() or c in "\r\n\t\f" for c in text)


def _note_header(image: Image.Image, name: str, note: Note) -> None:
    dot = name.rfind(".")
    suffix = name[dot:].lower() if dot >= 0 else ""
    if suffix in KNOWN_NAMES and suffix not in NAMES.get(image.format or "", ()):
        note("extension", f"{image.format} named {suffix}")
    width, height = image.size
    if min(width, height) < TINY:
        note("tiny", f"{width}x{height}")
    if width * height > HUGE:
        note("huge", f"{width}x{height}, {width * height / MEGAPIXEL:.0f} megapixels")
    if max(width, height) > NARROW * min(width, height):
        note("narrow", f"{width}x{height}")
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        note("animated", f"{getattr(image, 'n_frames', 1)} frames")
    orientation = image.getexif().get(ORIENTATION)
    if orientation in range(2, 9):
        note("exif-rotated", f"orientation {orientation}")
    if image.mode == "1":
        note("1-bit", "mode 1")
    elif image.mode == "P":
        note("palette", "mode P")
    if image.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        note("colour-space", image.mode)
    elif profile := _other_colours(image.info.get("icc_profile") or b""):
        note("colour-profile", profile)


def _note_pixels(image: Image.Image, note: Note) -> Image.Image:
    """Return the image as RGB, in which all kinds can be compared."""
    rgb = to_channels(image, 3)
    deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
    if deep:
        _note_range(np.asarray(image), note)
    if _is_transparent(image):
        note("transparent", image.mode)
    if _is_blank(rgb):
        note("blank", "every pixel is the same" + (", once it has 8 bits" if deep else ""))
    return rgb


def _note_range(grey: np.ndarray, note: Note) -> None:
    """Note greys of more than 8 bits, with the values that there are."""
    finite = grey[np.isfinite(grey)]
    span = f"from {finite.min():g} to {finite.max():g}" if finite.size else "none of them finite"
    if grey.dtype.itemsize == 2:
        note("16-bit", f"values {span}, and white is 65535")
        return
    what = "fractions" if grey.dtype.kind == "f" else "whole numbers"
    lost = grey.size - finite.size
    note("unscaled", f"{what} {span}" + (f"; {lost} pixels are no number" if lost else ""))


def _is_transparent(image: Image.Image) -> bool:
    """Whether anything of it is; most images with an alpha channel make no use of it."""
    if "transparency" in image.info:
        image = image.convert("RGBA")
    if "A" not in image.getbands() or image.mode == "LAB":  # whose A is a colour
        return False
    low, _ = image.getchannel("A").getextrema()
    return isinstance(low, int) and low < 255


def _is_blank(rgb: Image.Image) -> bool:
    return all(low == high for low, high in rgb.getextrema())  # type: ignore[misc]


@lru_cache(maxsize=64)
def _other_colours(icc: bytes) -> str:
    """Return the name of a colour profile; empty where its colours are those of sRGB."""
    if not icc:
        return ""
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        name = ImageCms.getProfileDescription(profile).strip() or "a profile without a name"
        mode = {"RGB": "RGB", "GRAY": "L"}.get(profile.profile.xcolor_space.strip())
        if mode is None:
            return name
        levels = np.linspace(0, 255, 6).round().astype(np.uint8)
        steps = [levels] * len(mode)
        colours = np.stack(np.meshgrid(*steps), axis=-1).reshape(1, -1, len(mode))
        image = Image.fromarray(colours if mode == "RGB" else colours[..., 0])
        srgb = ImageCms.createProfile("sRGB")
        seen = ImageCms.applyTransform(image, ImageCms.buildTransform(profile, srgb, mode, "RGB"))
        difference = np.asarray(seen).astype(int) - np.asarray(image.convert("RGB"))
        return name if np.abs(difference).max() > OFF_COLOUR else ""
    except (ImageCms.PyCMSError, OSError, ValueError):
        return "a damaged profile"
