"""A map over its image: at the image's own size, where the model saw it, and nowhere else."""

import matplotlib as mpl
import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from tessera.data.images import to_channels
from tessera.data.preprocessing import Preprocessing

COLOURS = "inferno"
STRENGTH = 0.6
"""Share of the map's colour in a marked pixel."""
STRIP = 512
"""Rows that are drawn at once, so that a huge image takes little memory."""


def colours_of(values: Tensor) -> Float[Tensor, "rows columns 3"]:
    """Return the colours of a map: of importance by a scale, of components as they are.

    Below 0, where something speaks against the class, the scale has its lowest colour; its highest
    is the value that one cell in two hundred passes.
    """
    values = values.detach().float().cpu()
    if values.ndim == 3:
        low, high = values.amin(dim=(0, 1)), values.amax(dim=(0, 1))
        return (values - low) / (high - low).clamp(min=1e-12)
    low = values.min().clamp(min=0)
    flat = values.flatten()
    place = min(len(flat) - 1, int(np.ceil(0.995 * (len(flat) - 1))))
    high = flat.sort().values[place].clamp(min=0)
    scaled = ((values - low) / (high - low).clamp(min=1e-12)).clamp(0, 1)
    painted = mpl.colormaps[COLOURS](scaled.numpy())[..., :3]
    return torch.from_numpy(np.ascontiguousarray(painted)).float()


def overlay(
    image: Image.Image,
    colours: Float[Tensor, "rows columns 3"],
    preprocessing: Preprocessing,
    *,
    strength: float = STRENGTH,
) -> Image.Image:
    """Lay a map over an image, bilinearly; what the model's input did not show is left as it is.

    Args:
        image: Upright, at its own size.
    """
    pixels = np.array(to_channels(image, 3))
    left, top, right, bottom = preprocessing.seen(image.height, image.width)
    x = (torch.arange(image.width) + 0.5 - left) / (right - left)  # 0 to 1 over the model's input
    y = (torch.arange(image.height) + 0.5 - top) / (bottom - top)
    source = colours.permute(2, 0, 1)[None]
    columns = (x >= 0) & (x <= 1)
    if not columns.any():
        return Image.fromarray(pixels)
    span = slice(int(columns.nonzero()[0]), int(columns.nonzero()[-1]) + 1)
    for start in range(0, image.height, STRIP):
        rows = y[start : start + STRIP]
        inside = ((rows >= 0) & (rows <= 1)).nonzero().flatten()
        if len(inside):
            first, last = start + int(inside[0]), start + int(inside[-1]) + 1
            own = pixels[first:last, span]
            own[:] = _blend(own, source, y[first:last], x[span], strength)
    return Image.fromarray(pixels)


def _blend(
    pixels: UInt8[np.ndarray, "h w 3"], source: Tensor, y: Tensor, x: Tensor, strength: float
) -> UInt8[np.ndarray, "h w 3"]:
    places = torch.stack(torch.meshgrid(2 * y - 1, 2 * x - 1, indexing="ij")[::-1], dim=-1)[None]
    painted = F.grid_sample(source, places, padding_mode="border", align_corners=False)
    mixed = (1 - strength) * pixels + strength * 255 * painted[0].permute(1, 2, 0).numpy()
    return np.round(mixed).astype(np.uint8)
