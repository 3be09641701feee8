"""What is wrong, or merely odd, with one image file."""

import io
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageCms

from tessera.data.duplicates import signature
from tessera.data.images import ImageError, decoding, is_turned, open_lazily, upright

Note = Callable[[str, str], None]
"""Takes a kind and a detail."""

Severity = Literal["error", "warning", "note"]
"""Cannot be used as it is; should be looked at; is dealt with, and good to know."""

KINDS: dict[str, tuple[Severity, str]] = {
    "missing": ("error", "no such file"),
    "empty": ("error", "the file has no bytes"),
    "not-an-image": ("error", "something else under an image's name"),
    "undecodable": ("error", "damaged, truncated, or of a kind that cannot be read"),
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

FORMATS = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "MPO": {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"},
    "PNG": {".png", ".apng"},
    "WEBP": {".webp"},
    "GIF": {".gif"},
    "BMP": {".bmp", ".dib"},
    "TIFF": {".tif", ".tiff"},
    "PPM": {".ppm", ".pgm", ".pbm", ".pnm"},
}
"""Names that files of a format bear."""

SIGNATURES = {
    b"version https://git-lfs": "a Git LFS pointer; run `git lfs pull`",
    b"%PDF": "a PDF document",
    b"PK\x03\x04": "a zip archive or an office document",
    b"\x1f\x8b": "a gzip archive",
    b"Rar!": "a RAR archive",
    b"7z\xbc\xaf": "a 7-Zip archive",
    b"<svg": "an SVG drawing",
    b"<?xml": "an XML or SVG file",
    b"<!doctype html": "an HTML page, as a failed download leaves it",
    b"<html": "an HTML page, as a failed download leaves it",
    b"{": "JSON text",
    b"\x93NUMPY": "a NumPy array",
    b"SIMPLE  =": "a FITS image",
    b"8BPS": "a Photoshop file",
    b"OggS": "sound or video",
    b"ID3": "an MP3 recording",
    b"\x00\x00\x00\x18ftyp": "a video, or a HEIC or AVIF image",
    b"\x00\x00\x00\x1cftyp": "a video, or a HEIC or AVIF image",
    b"\x00\x00\x00\x20ftyp": "a video, or a HEIC or AVIF image",
}
"""How files begin that people take for images."""


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
    """What it shows, very small; None where nothing can be decoded."""
    size: tuple[int, int]
    """Width and height, upright; zeros where they are not known."""


def examine(data: bytes, name: str) -> Examined:
    """Look at an image file once: at its bytes, its header, and its pixels."""
    found: list[Finding] = []

    def note(kind: str, detail: str) -> None:
        found.append(Finding(kind, detail, KINDS[kind][0]))

    if not name.isprintable():
        note("file-name", ascii(name))
    size = (0, 0)
    try:
        with decoding(name), open_lazily(io.BytesIO(data), name) as image:
            size = image.size
            _note_header(image, name, note)
            image.draft(image.mode, (64, 64))
            image = upright(image)
            _note_pixels(image, note)
            return Examined(tuple(found), signature(image), size)
    except ImageError as error:
        kind, detail = _why(data, str(error.__cause__ or error))
        note(kind, detail)
    return Examined(tuple(found), None, size)


def _why(data: bytes, message: str) -> tuple[str, str]:
    """Say why a file cannot be decoded."""
    if not data:
        return "empty", "0 bytes"
    if "decompression bomb" in message:
        return "too-large", message.partition(",")[0]
    head = data[:64].lstrip().lower()
    for start, what in SIGNATURES.items():
        if head.startswith(start.lower()):
            return "not-an-image", what
    if not data.strip(b"\0"):
        return "undecodable", f"{len(data)} bytes, all zero"
    if "cannot identify image file" in message:
        is_text = all(32 <= byte < 127 or byte in b"\r\n\t" for byte in data[:256])
        return "not-an-image", "text" if is_text else "bytes of no known image format"
    return "undecodable", message


def _note_header(image: Image.Image, name: str, note: Note) -> None:
    dot = name.rfind(".")
    suffix = name[dot:].lower() if dot >= 0 else ""
    allowed = FORMATS.get(image.format or "", {suffix})
    if suffix in set().union(*FORMATS.values()) and suffix not in allowed:
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
    if is_turned(image):
        note("exif-rotated", f"orientation {image.getexif()[0x0112]}")
    mode = image.mode
    if mode.startswith("I;16"):
        note("16-bit", mode)
    elif mode in ("I", "F"):
        note("unscaled", "whole numbers of 32 bits" if mode == "I" else "fractions of 32 bits")
    elif mode == "1":
        note("1-bit", mode)
    elif (mode in ("CMYK", "YCbCr", "LAB", "HSV") and image.format != "JPEG") or mode == "CMYK":
        note("colour-space", mode)
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        note("transparent", mode)
    elif mode == "P":
        note("palette", mode)
    profile = _profile(image.info.get("icc_profile"))
    if profile and "srgb" not in profile.lower():
        note("colour-profile", profile)


def _note_pixels(image: Image.Image, note: Note) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        extremes = image.getextrema()
    bands = extremes if isinstance(extremes[0], tuple) else (extremes,)
    if "A" in image.getbands() and len(bands) > 1:
        bands = bands[:-1]
    if image.mode != "P" and all(low == high for low, high in bands):
        note("blank", "every pixel is the same")
    elif image.mode == "F" and any(not math.isfinite(x) for band in bands for x in band):
        note("unscaled", "pixels that are not finite")


def _profile(icc: bytes | None) -> str:
    """Return the name of a colour profile; empty where there is none that can be read."""
    if not icc:
        return ""
    try:
        return ImageCms.getProfileDescription(io.BytesIO(icc)).strip()
    except (ImageCms.PyCMSError, OSError, ValueError):
        return "damaged profile"
