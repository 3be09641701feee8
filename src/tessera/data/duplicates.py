"""Images that look alike: exact search over very small copies of them."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

SIDE = 16
THRESHOLD = 0.97
"""Correlation of the small copies' luminance from which images are near-duplicates."""

LUMINANCE = (0.299, 0.587, 0.114)
FLAT = 4.0
"""Standard deviation, in grey levels, below which an image has too little in it to be compared."""

COLOUR = 24.0
"""Largest mean difference of any colour, in levels, after brightness has been taken out."""


def signature(image: Image.Image) -> UInt8[np.ndarray, "16 16 3"]:
    """Return a very small copy of an image."""
    small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX, reducing_gap=2.0)
    return np.asarray(small)


def near_duplicates(
    signatures: UInt8[np.ndarray, "n 16 16 3"],
    *,
    threshold: float = THRESHOLD,
    block: int = 2048,
    on_progress: Callable[[int], None] = lambda images: None,
) -> Int[np.ndarray, "m 2"]:
    """Return pairs of images that look alike, the lower number first, in order."""
    count = len(signatures)
    if count < 2:
        return np.empty((0, 2), dtype=np.int64)
    units, contrast = _units(signatures)
    colours = torch.from_numpy(signatures.reshape(count, -1, 3).mean(axis=1)).float()
    colours = colours - colours.mean(dim=1, keepdim=True)
    found: list[np.ndarray] = []
    for start in range(0, count, block):
        for other in range(start, count, block):
            likeness = units[start : start + block] @ units[other : other + block].T
            if other == start:
                likeness = likeness.triu(1)
            i, j = torch.nonzero(likeness > threshold, as_tuple=True)
            i, j = i + start, j + other
            same = (colours[i] - colours[j]).abs().amax(dim=1) < COLOUR
            same &= (contrast[i] > FLAT) & (contrast[j] > FLAT)
            found.append(torch.stack([i[same], j[same]], dim=1).numpy())
        on_progress(min(block, count - start))
    pairs = np.concatenate(found)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _units(signatures: UInt8[np.ndarray, "n 16 16 3"]) -> tuple[Tensor, Tensor]:
    grey = torch.from_numpy(signatures.astype(np.float32) @ np.array(LUMINANCE, np.float32))
    flat = grey.flatten(1)
    flat = flat - flat.mean(dim=1, keepdim=True)
    return torch.nn.functional.normalize(flat, dim=1), flat.std(dim=1)


def groups(n: int, pairs: Int[np.ndarray, "m 2"]) -> Int[np.ndarray, " n"]:
    """Number the images so that those connected by pairs have the same number."""
    ones = np.ones(len(pairs), dtype=bool)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    _, numbers = connected_components(graph, directed=False)
    return numbers.astype(np.int64)
