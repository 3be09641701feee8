"""Show what the 19 corruptions do to a photograph, one tile each.

    python examples/corruptions.py PHOTO OUT [--severity 3]

PHOTO is any image, or flower.jpg or china.jpg, which scikit-learn brings; OUT is a JPEG or PNG.
"""

import argparse
from pathlib import Path

import numpy as np
from einops import rearrange
from PIL import Image, ImageDraw
from sklearn.datasets import load_sample_image

from tessera.data.images import open_image
from tessera.data.preprocessing import Preprocessing
from tessera.robustness.corruptions import CORRUPTIONS, SEVERITIES, corrupt

SAMPLES = ("flower.jpg", "china.jpg")
SIDE, TILE, TITLE = 224, 180, 16
COLUMNS = 5


def sheet(photo: Image.Image, severity: int) -> Image.Image:
    """Draw the photograph and all that corrupts it, at the size of most models, shown smaller."""
    pixels = rearrange(Preprocessing(size=(SIDE, SIDE)).pixels(photo).numpy(), "c h w -> h w c")
    tiles = {"none": pixels}
    for name in CORRUPTIONS:
        tiles[name] = corrupt(pixels, name, severity, np.random.default_rng(0))
    rows = -(-len(tiles) // COLUMNS)
    page = Image.new("RGB", (COLUMNS * TILE, rows * (TILE + TITLE)), "white")
    draw = ImageDraw.Draw(page)
    for number, (name, tile) in enumerate(tiles.items()):
        row, column = divmod(number, COLUMNS)
        left, top = column * TILE + 2, row * (TILE + TITLE)
        draw.text((left, top + 2), name.replace("_", " "), fill="black")
        small = Image.fromarray(tile).resize((TILE - 4, TILE - 4), Image.Resampling.LANCZOS)
        page.paste(small, (left, top + TITLE))
    return page


def main() -> None:
    """Read the arguments, draw, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("photo")
    parser.add_argument("out", type=Path)
    parser.add_argument("--severity", type=int, default=3, choices=SEVERITIES)
    args = parser.parse_args()
    if args.photo in SAMPLES and not Path(args.photo).exists():
        photo = Image.fromarray(load_sample_image(args.photo))
    else:
        photo = open_image(args.photo)
    sheet(photo, args.severity).save(args.out, quality=80, optimize=True)


if __name__ == "__main__":
    main()
