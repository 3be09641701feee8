"""What training images look like once they have been augmented and mixed."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from PIL import Image

from tessera.data.augment import to_image
from tessera.data.dataset import Dataset
from tessera.data.images import ImageError
from tessera.data.loader import train_batches
from tessera.data.preprocessing import Preprocessing
from tessera.recipe import Recipe

COUNT = 24
"""Images that are shown."""


def training_batch(
    data: Dataset, preprocessing: Preprocessing, recipe: Recipe
) -> list[Image.Image]:
    """Return images as the model sees them in training, mixed and all; none if none can be read."""
    size = min(COUNT, max(len(data), 1))
    settings = replace(recipe.data, batch_size=size, workers=0, bad_share=1.0)
    small = replace(recipe, data=settings)
    device = torch.device("cpu")
    try:
        batch = next(
            iter(train_batches(data, preprocessing, small, start=0, stop=1, device=device))
        )
    except ImageError:
        return []
    mean, std = (
        torch.tensor(values).view(-1, 1, 1) for values in (preprocessing.mean, preprocessing.std)
    )
    pixels = ((batch["image"] * std + mean) * 255).round().clamp(0, 255).byte()
    return [to_image(image) for image in pixels]


def contact_sheet(
    images: Sequence[Image.Image], *, columns: int = 8, side: int = 112
) -> Image.Image:
    """Lay images out on one white page, each in a square."""
    rows = -(-len(images) // columns)
    gap = 4
    page = Image.new("RGB", (columns * (side + gap) - gap, rows * (side + gap) - gap), "white")
    for number, image in enumerate(images):
        scale = side / max(image.size)
        size = tuple(max(1, round(length * scale)) for length in image.size)
        filter_ = Image.Resampling.NEAREST if scale > 2 else Image.Resampling.LANCZOS
        small = image.convert("RGB").resize((size[0], size[1]), filter_)
        row, column = divmod(number, columns)
        page.paste(small, (column * (side + gap), row * (side + gap)))
    return page
