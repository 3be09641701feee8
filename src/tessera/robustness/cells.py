"""Images cut into a grid of cells."""

import torch
from jaxtyping import Int
from torch import Tensor

Grid = tuple[int, int]
"""Rows and columns."""


def cell_numbers(size: tuple[int, int], grid: Grid) -> Int[Tensor, "h w"]:
    """Return the number of the cell, in raster order, that each pixel is in.

    Where cells do not divide the image, pixel y of h is in row floor(y rows / h): cells then differ
    by at most one pixel a side, and together they still are the whole image.

    Args:
        size: Height and width in pixels.

    Raises:
        ValueError: The grid has more cells a side than the image has pixels.
    """
    (height, width), (rows, cols) = size, grid
    if not (1 <= rows <= height and 1 <= cols <= width):
        raise ValueError(
            f"a grid of {rows}x{cols} cells does not fit images of {height}x{width} pixels\n"
            f"hint: at most {height}x{width} cells, at least 1x1"
        )
    down = torch.arange(height) * rows // height
    across = torch.arange(width) * cols // width
    return down[:, None] * cols + across
