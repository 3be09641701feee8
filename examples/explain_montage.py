"""Show a photograph, and beside it what a model looks at by one method or more.

    python examples/explain_montage.py MODEL PHOTO OUT [--method rollout relevance] [--square]

MODEL is whatever `tessera explain` takes. PHOTO is any image, or flower.jpg or china.jpg, which
scikit-learn brings; with --square its left square is taken. OUT is a JPEG or PNG.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image
from sklearn.datasets import load_sample_image

import tessera
from tessera.data.images import open_image, to_channels
from tessera.explain.methods import METHODS
from tessera.explaining import ExplainSettings

SAMPLES = ("flower.jpg", "china.jpg")
HEIGHT, GAP = 280, 8


def overlays(model: str, photo: Image.Image, methods: list[str]) -> list[Image.Image]:
    """Return the map of each method over the photograph, as `tessera explain` writes it."""
    settings = ExplainSettings(methods=methods, curve_steps=0, sanity_images=0)
    with TemporaryDirectory() as folder:
        (explained,) = tessera.explain(model, [photo], settings, out=folder).images
        return [open_image(Path(folder, name)) for name in explained.files if name.endswith(".png")]


def row(pictures: list[Image.Image]) -> Image.Image:
    """Put pictures of one size side by side, shown smaller or larger."""
    width = round(HEIGHT * pictures[0].width / pictures[0].height)
    page = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, HEIGHT), "white")
    for number, picture in enumerate(pictures):
        small = picture.resize((width, HEIGHT), Image.Resampling.LANCZOS)
        page.paste(small, (number * (width + GAP), 0))
    return page


def main() -> None:
    """Read the arguments, explain, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("model")
    parser.add_argument("photo")
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", nargs="+", default=["rollout", "relevance"], choices=METHODS)
    parser.add_argument("--square", action="store_true")
    args = parser.parse_args()
    if args.photo in SAMPLES and not Path(args.photo).exists():
        photo = Image.fromarray(load_sample_image(args.photo))
    else:
        photo = to_channels(open_image(args.photo), 3)
    if args.square:
        side = min(photo.size)
        photo = photo.crop((0, 0, side, side))
    methods = list(dict.fromkeys(args.method))
    row([photo, *overlays(args.model, photo, methods)]).save(args.out, quality=85, optimize=True)


if __name__ == "__main__":
    main()
