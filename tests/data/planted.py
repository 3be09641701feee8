"""A data set with every fault that a folder of images is known to have, each in a file of its own.

``python tests/data/planted.py FOLDER`` writes it out to look at.
"""

import gzip
import io
import itertools
import json
import os
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageEnhance

CLASSES = ("brick", "grass", "sea")
TRAIN, TEST = 14, 6
"""Good photographs of each class."""

SIZE = (96, 72)

Make = Callable[[Image.Image], bytes]
"""Turns a good photograph into the bytes of a file."""


def photograph(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """Blotches, texture and grain; no two look alike, whether mirrored or turned."""
    rng = np.random.default_rng((2024, seed))
    picture = np.zeros((size[1], size[0], 3))
    for cells, strength in ((5, 60.0), (17, 25.0)):
        coarse = rng.normal(0, strength, (cells, cells + 2, 3)) * rng.uniform(0.3, 1, 3)
        for channel in range(3):
            plane = Image.fromarray(coarse[..., channel].astype(np.float32))
            picture[..., channel] += np.asarray(plane.resize(size, Image.Resampling.BICUBIC))
    picture += rng.uniform(70, 180, 3) + rng.normal(0, 4, picture.shape[:2])[..., None]
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    """Encode an image."""
    file = io.BytesIO()
    if form == "JPEG":
        options.setdefault("quality", 90)
    image.save(file, form, **options)
    return file.getvalue()


def as_file(form: str, **options: object) -> Make:
    return lambda photo: saved(photo, form, **options)


def in_mode(mode: str, form: str, **options: object) -> Make:
    return lambda photo: saved(photo.convert(mode), form, **options)


def of_size(*size: int, form: str = "PNG") -> Make:
    return lambda photo: saved(photo.resize((size[0], size[1])), form)


def cut(form: str, keep: float = 0.5) -> Make:
    """Only the beginning of a file, as a download that broke off leaves it."""

    def make(photo: Image.Image) -> bytes:
        whole = saved(photo, form)
        return whole[: int(keep * len(whole))]

    return make


def zero_tail(form: str) -> Make:
    """A file of the right length, of which only the beginning was written."""

    def make(photo: Image.Image) -> bytes:
        whole = saved(photo, form)
        return whole[: len(whole) // 2].ljust(len(whole), b"\0")

    return make


def literally(content: bytes | str) -> Make:
    """Something that has nothing to do with the photograph."""
    return lambda photo: content.encode() if isinstance(content, str) else content


def frames(form: str) -> Make:
    def make(photo: Image.Image) -> bytes:
        others = [photo.rotate(180), photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
        return saved(photo, form, save_all=True, append_images=others)

    return make


def held(orientation: int) -> Make:
    """As a camera leaves it that was not held upright."""

    def make(photo: Image.Image) -> bytes:
        exif = Image.Exif()
        exif[0x0112] = orientation
        return saved(photo, "JPEG", exif=exif)

    return make


def grey(code: str, scale: float, form: str, *holes: float) -> Make:
    """Greys of another type than bytes.

    Args:
        scale: Of white.
        holes: What stands in the first pixels instead.
    """

    def make(photo: Image.Image) -> bytes:
        levels = (np.asarray(photo.convert("L")) / 255 * scale).astype(code)
        levels[0, 5 : 5 + len(holes)] = holes
        return saved(Image.fromarray(levels), form)

    return make


def see_through(mode: str, form: str, alpha: int, left: int = 0) -> Make:
    """With a hole of that alpha, or none at 255."""

    def make(photo: Image.Image) -> bytes:
        photo = photo.convert(mode)
        mask = Image.new("L", photo.size, 255)
        mask.paste(alpha, (left, 20, left + 30, 50))
        photo.putalpha(mask)
        return saved(photo, form)

    return make


def palette(**options: object) -> Make:
    return lambda photo: saved(photo.quantize(64), "PNG", **options)


def vanished(photo: Image.Image) -> bytes:
    """Colours everywhere, none of which can be seen."""
    photo.putalpha(0)
    return saved(photo, "PNG")


def chunk(kind: bytes, data: bytes) -> bytes:
    """A piece of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb(photo: Image.Image) -> bytes:
    """A hundred bytes that say they are 3.6 billion pixels."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(64))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(itertools.starmap(chunk, parts))


def flipped_bit(photo: Image.Image) -> bytes:
    """A PNG whose check sum is wrong."""
    data = bytearray(saved(photo, "PNG"))
    data[len(data) // 2] ^= 16
    return bytes(data)


def large(photo: Image.Image) -> bytes:
    tile = np.asarray(photo.resize((71, 71)).convert("1"))
    return saved(Image.fromarray(np.kron(tile, np.ones((100, 100), dtype=bool))), "PNG")


RED_TO_BLUE = {
    "sRGB": ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)),
    "wide": ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446)),
}
"""XYZ of the primaries at white point D50: sRGB's and Adobe RGB's (1998)."""


def profile(primaries: str, name: str) -> bytes:
    """A colour profile of ICC version 2: three primaries, and a gamma of 2.2."""

    def xyz(values: tuple[float, ...]) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in values))

    text = name.encode() + b"\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(78)
    gamma = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256))
    tags = {b"desc": description, b"wtpt": xyz((0.9642, 1.0, 0.8249)), b"cprt": b"text\0\0\0\0\0"}
    for letter, values in zip(b"rgb", RED_TO_BLUE[primaries]):
        tags |= {bytes([letter]) + b"XYZ": xyz(values), bytes([letter]) + b"TRC": gamma}
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data.ljust(-(-len(data) // 4) * 4, b"\0")
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head = (head.ljust(36, b"\0") + b"acsp").ljust(68, b"\0")
    head += struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + table + body


def with_profile(icc: bytes, form: str = "JPEG") -> Make:
    return lambda photo: saved(photo, form, icc_profile=icc)


def odd_exif(photo: Image.Image) -> bytes:
    """EXIF as some old editors write it: a text where a number belongs."""
    fields = struct.pack(">HHL4s", 0x011A, 2, 4, b"abc")
    data = b"Exif\0\0MM\0*" + struct.pack(">LH", 8, 1) + fields + struct.pack(">L", 0)
    return saved(photo, "JPEG", exif=data)


def cut_exif(form: str) -> Make:
    """EXIF that announces more than it has, of which Pillow warns."""
    data = b"Exif\0\0MM\0*" + struct.pack(">LHHHL", 8, 3, 0x010F, 2, 400)
    return lambda photo: saved(photo, form, exif=data)


def many_samples(photo: Image.Image) -> bytes:
    """A TIFF with 2,048 samples a pixel, which Pillow logs as an error of its own."""
    data = saved(photo, "TIFF")
    tag = struct.pack("<HHL", 0x0115, 3, 1)  # samples per pixel: one short number
    place = data.index(tag) + len(tag)
    return data[:place] + struct.pack("<H", 2048) + data[place + 2 :]


def zipped(photo: Image.Image) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("photo.jpg", saved(photo, "JPEG"))
    return file.getvalue()


def numpy_file(photo: Image.Image) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(photo))
    return file.getvalue()


def in_lab(photo: Image.Image) -> bytes:
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    converted = ImageCms.profileToProfile(photo, srgb, lab, outputMode="LAB")
    assert converted is not None
    return saved(converted, "TIFF")


def noise(length: int) -> bytes:
    return b"\x07" + np.random.default_rng(7).bytes(length)


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21\nsize 12345\n"
HTML = "<!DOCTYPE html>\n<html><head><title>404 Not Found</title></head></html>\n"
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect/></svg>'
LAB = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()

FAULTS: dict[str, tuple[Make, set[str]]] = {
    # What is no image at all.
    "empty.jpg": (literally(b""), {"empty"}),
    "page.jpg": (literally(HTML), {"not-an-image"}),
    "page-with-bom.jpg": (literally(b"\xef\xbb\xbf\r\n" + HTML.encode()), {"not-an-image"}),
    "comment.jpg": (literally("<!-- sent by proxy --><HTML></HTML>"), {"not-an-image"}),
    "answer.png": (literally(json.dumps({"error": "rate limit"})), {"not-an-image"}),
    "answers.png": (literally('[{"error": 1}]'), {"not-an-image"}),
    "words.jpg": (literally("to be done\n"), {"not-an-image"}),
    "umlaut.jpg": (literally("noch zu erledigen: Größe prüfen\n"), {"not-an-image"}),
    "base64.jpg": (literally("data:image/jpeg;base64,/9j/4AAQSkZJRg"), {"not-an-image"}),
    "archive.jpg": (zipped, {"not-an-image"}),
    "paper.jpg": (literally("%PDF-1.7\n%\xe2\xe3"), {"not-an-image"}),
    "packed.png": (lambda photo: gzip.compress(saved(photo, "PNG")), {"not-an-image"}),
    "drawing.png": (literally(SVG), {"not-an-image"}),
    "xml.png": (literally('<?xml version="1.0"?>' + SVG), {"not-an-image"}),
    "film.jpg": (literally(b"\0\0\0\x18ftypmp42" + noise(200)), {"not-an-image"}),
    "iphone.jpg": (literally(b"\0\0\0\x24ftypheic\0\0\0\0mif1heic"), {"not-an-image"}),
    "sound.jpg": (literally(b"RIFF\x24\x08\0\0WAVEfmt " + noise(99)), {"not-an-image"}),
    "pointer.jpg": (literally(LFS), {"not-an-image"}),
    "array.png": (numpy_file, {"not-an-image"}),
    "layers.jpg": (literally(b"8BPS\0\x01" + noise(40)), {"not-an-image"}),
    "random.jpg": (literally(noise(4000)), {"not-an-image"}),
    # Damaged.
    "zeros.jpg": (literally(bytes(5000)), {"undecodable"}),
    "cut.jpg": (cut("JPEG"), {"undecodable"}),
    "cut.png": (cut("PNG"), {"undecodable"}),
    "cut.webp": (cut("WEBP"), {"undecodable"}),
    "cut.gif": (cut("GIF"), {"undecodable", "palette"}),
    "cut.bmp": (cut("BMP"), {"undecodable"}),
    "cut.tif": (cut("TIFF"), {"undecodable"}),
    "cut.ppm": (cut("PPM"), {"undecodable"}),
    "cut-header.jpg": (cut("JPEG", 0.02), {"undecodable"}),
    "cut-header.png": (cut("PNG", 0.001), {"undecodable"}),
    "zero-tail.jpg": (zero_tail("JPEG"), {"undecodable"}),
    "zero-tail.png": (zero_tail("PNG"), {"incomplete"}),
    "samples.tif": (many_samples, {"undecodable"}),
    "flipped-bit.png": (flipped_bit, {"undecodable"}),
    "bomb.png": (bomb, {"too-large"}),
    # Named wrongly.
    "png.jpg": (as_file("PNG"), {"extension"}),
    "jpeg.png": (as_file("JPEG"), {"extension"}),
    "gif.png": (as_file("GIF"), {"extension", "palette"}),
    "webp.jpg": (as_file("WEBP"), {"extension"}),
    "jpeg2000.jpg": (as_file("JPEG2000"), {"extension"}),
    "icon.png": (as_file("ICO", sizes=[(64, 48)]), {"extension"}),
    # Of other depths and colours.
    "deep.png": (grey("u2", 65_535, "PNG"), {"16-bit"}),
    "deep.tif": (grey("u2", 65_535, "TIFF"), {"16-bit"}),
    "deep-but-dark.png": (grey("u2", 255, "PNG"), {"16-bit", "blank"}),
    "integers.tif": (grey("i4", 40_000, "TIFF"), {"unscaled"}),
    "large-integers.tif": (grey("i4", 1_000_000, "TIFF"), {"unscaled", "blank"}),
    "fractions.tif": (grey("f4", 1, "TIFF"), {"unscaled"}),
    "nan.tif": (grey("f4", 1, "TIFF", np.nan, np.inf), {"unscaled"}),
    "one-bit.png": (in_mode("1", "PNG"), {"1-bit"}),
    "palette.png": (palette(), {"palette"}),
    "palette-with-hole.png": (palette(transparency=3), {"palette", "transparent"}),
    "hole.png": (see_through("RGB", "PNG", 0, left=10), {"transparent"}),
    "hole.webp": (see_through("RGB", "WEBP", 100), {"transparent"}),
    "grey-hole.png": (see_through("L", "PNG", 0, left=50), {"transparent"}),
    "inks.jpg": (in_mode("CMYK", "JPEG"), {"colour-space"}),
    "inks.tif": (in_mode("CMYK", "TIFF"), {"colour-space"}),
    "lab.tif": (in_lab, {"colour-space"}),
    "wide.jpg": (with_profile(profile("wide", "Adobe RGB (1998)")), {"colour-profile"}),
    "wide.png": (with_profile(profile("wide", "sRGB, it lies"), "PNG"), {"colour-profile"}),
    "lab-profile.jpg": (with_profile(LAB), {"colour-profile"}),
    "damaged-profile.jpg": (with_profile(b"no profile at all"), {"colour-profile"}),
    # Of odd shapes, and several at once.
    **{f"held-{k}.jpg": (held(k), {"exif-rotated"}) for k in range(2, 9)},
    "moving.gif": (frames("GIF"), {"animated", "palette"}),
    "moving.webp": (frames("WEBP"), {"animated"}),
    "moving.png": (frames("PNG"), {"animated"}),
    "pages.tif": (frames("TIFF"), {"animated"}),
    "pixel.png": (of_size(1, 1), {"tiny", "blank"}),
    "sliver.png": (of_size(8, 300), {"tiny", "narrow"}),
    "panorama.jpg": (of_size(3000, 64, form="JPEG"), {"narrow"}),
    "huge.png": (large, {"huge", "1-bit"}),
    "blank.jpg": (lambda photo: saved(Image.new("RGB", SIZE, "navy"), "JPEG"), {"blank"}),
    "blank.gif": (lambda photo: saved(Image.new("P", SIZE, 3), "GIF"), {"blank", "palette"}),
    "vanished.png": (vanished, {"blank", "transparent"}),
    # Of odd names.
    "line\nbreak.jpg": (as_file("JPEG"), {"file-name"}),
    "\x1b[31mred.jpg": (as_file("JPEG"), {"file-name"}),
    os.fsdecode(b"caf\xe9.jpg"): (as_file("JPEG"), {"file-name"}),
    os.fsdecode(b'"quo\xffted", and cut.jpg'): (cut("JPEG"), {"file-name", "undecodable"}),
    "carriage\rreturn.jpg": (literally(b""), {"file-name", "empty"}),
    # Odd, and nothing to say about.
    "opaque.png": (see_through("RGB", "PNG", 255), set()),
    "facebook.jpg": (with_profile(profile("sRGB", "c2")), set()),
    "held-1.jpg": (held(1), set()),
    "held-99.jpg": (held(99), set()),
    "odd-exif.jpg": (odd_exif, set()),
    "cut-exif.jpg": (cut_exif("JPEG"), set()),
    "cut-exif.png": (cut_exif("PNG"), set()),
    "padded.jpg": (lambda photo: saved(photo, "JPEG") + bytes(3000), set()),
    "grey.jpg": (in_mode("L", "JPEG"), set()),
    "photo.JPEG": (as_file("JPEG"), set()),
    "still.webp": (as_file("WEBP"), set()),
    "still.tiff": (as_file("TIFF"), set()),
    "bitmap.bmp": (as_file("BMP"), set()),
    "=SUM(A1), 100%.jpg": (as_file("JPEG"), set()),
}
"""Files in ``train/sea``: how each is made, and every kind of finding that it must have."""


def resized(photo: Image.Image) -> bytes:
    return saved(photo.resize((61, 47), Image.Resampling.LANCZOS), "JPEG", quality=60)


def trimmed(photo: Image.Image) -> bytes:
    return saved(photo.crop((1, 1, photo.width - 1, photo.height - 1)), "JPEG")


def brighter(photo: Image.Image) -> bytes:
    return saved(ImageEnhance.Brightness(photo).enhance(1.1), "JPEG")


def turned(turn: Image.Transpose) -> Make:
    return lambda photo: saved(photo.transpose(turn), "JPEG")


def half(photo: Image.Image) -> bytes:
    return saved(photo.crop((0, 0, photo.width // 2, photo.height)), "JPEG")


COPIES: dict[str, tuple[str, Make | None, dict[str, set[str]]]] = {
    "train/brick/again.jpg": ("train/brick/00.jpg", None, {"copy": {"duplicate"}}),
    "test/brick/seen.jpg": ("train/brick/01.jpg", None, {"original": {"leak"}}),
    "train/grass/wall.jpg": (
        "train/brick/02.jpg",
        None,
        {"copy": {"contradiction"}, "original": {"contradiction"}},
    ),
    "test/sea/wall.jpg": (
        "train/brick/03.jpg",
        None,
        {"copy": {"contradiction"}, "original": {"contradiction", "leak"}},
    ),
    "train/brick/resized.jpg": ("train/brick/04.jpg", resized, {"copy": {"near-duplicate"}}),
    "train/brick/as.png": ("train/brick/05.jpg", as_file("PNG"), {"copy": {"near-duplicate"}}),
    "train/brick/trimmed.jpg": ("train/brick/06.jpg", trimmed, {"copy": {"near-duplicate"}}),
    "train/brick/brighter.jpg": ("train/brick/07.jpg", brighter, {"copy": {"near-duplicate"}}),
    "train/sea/regrey.png": (
        "train/sea/grey.jpg",
        grey("u2", 65_535, "PNG"),
        {"copy": {"near-duplicate", "16-bit"}},
    ),
    "test/brick/resized.jpg": ("train/brick/09.jpg", resized, {"original": {"near-leak"}}),
    "train/grass/resized.jpg": (
        "train/brick/10.jpg",
        resized,
        {"copy": {"near-contradiction"}, "original": {"near-contradiction"}},
    ),
    "train/grass/mirrored.jpg": ("train/grass/00.jpg", turned(Image.Transpose.FLIP_LEFT_RIGHT), {}),
    "train/grass/turned.jpg": ("train/grass/01.jpg", turned(Image.Transpose.ROTATE_90), {}),
    "train/grass/overhead.jpg": ("train/grass/02.jpg", turned(Image.Transpose.ROTATE_180), {}),
    "train/grass/half.jpg": ("train/grass/03.jpg", half, {}),
}
"""Files that are like a good photograph: which, how they are made (None is to the byte), and what
must be found on either of the two. Mirrored, turned and halved ones are not alike."""

JUNK = {
    "train/brick/.DS_Store": b"\0\0\0\1Bud1",
    "train/grass/Thumbs.db": b"\xd0\xcf\x11\xe0",
    "train/sea/notes.txt": b"to be sorted\n",
    "train/sea/.ipynb_checkpoints/00-checkpoint.jpg": b"",
    "train/sea/._00.jpg": b"\0\5\x16\7",
}
"""Files beside images that nobody put there on purpose."""

MISSING = "train/sea/link.jpg"
"""A link to a file that is no longer there."""

CLASS_FAULTS = {
    "class-names": ["'Sea', 'sea'"],
    "class-map": ["kelp"],
    "few-images": ["Sea has 1 in the train split", "grass has 4 in the test split"],
    "imbalance": ["sea has ", ", Sea 1"],
    "source": [
        "5 files below {root}/train are no images and are left out: train/brick/.DS_Store",
        "classes without training images are left out: empty",
        "1 images in {root}/train are in no class folder and are left out",
        "the test split has no image of Sea",
    ],
}
"""What must be said of the set as a whole, by kind."""


def plant_good(root: Path, train: int = TRAIN, test: int = TEST) -> Path:
    """Write a set with which nothing is wrong."""
    number = itertools.count()
    for split, count in (("train", train), ("test", test)):
        for name in CLASSES:
            (root / split / name).mkdir(parents=True)
            for k in range(count):
                data = saved(photograph(next(number)), "JPEG")
                (root / split / name / f"{k:02}.jpg").write_bytes(data)
    return root


def plant(root: Path) -> Path:
    """Write a good set, and then everything that a good set has not."""
    plant_good(root)
    for number, (name, (make, _)) in enumerate(FAULTS.items(), 1000):
        (root / "train" / "sea" / name).write_bytes(make(photograph(number)))
    for name, (source, change, _) in COPIES.items():
        original = (root / source).read_bytes()
        with Image.open(io.BytesIO(original)) as photo:
            (root / name).write_bytes(original if change is None else change(photo))
    for name, content in JUNK.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    (root / MISSING).symlink_to("moved-away.jpg")
    (root / "train" / "empty").mkdir()
    for number, name in ((3000, "train/Sea"), (3001, "test/kelp")):
        (root / name).mkdir()
        (root / name / "00.jpg").write_bytes(saved(photograph(number), "JPEG"))
    for k in (4, 5):
        (root / f"test/grass/{k:02}.jpg").unlink()
    (root / "train" / "loose.jpg").write_bytes(saved(photograph(3002), "JPEG"))
    return root


if __name__ == "__main__":
    plant(Path(sys.argv[1]))
