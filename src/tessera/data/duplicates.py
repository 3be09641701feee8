"""Copies of one picture, exact or nearly so, that must not lie on both sides of a split.

A picture is reduced to a thumbnail. Two are compared by the detail of their luminance: spatial
frequencies are weighted by their height, since natural images hold little but the low ones, which
any two beaches share; and the middle counts more than the rim, which a crop moves most. What agrees
so far must agree in colour, too.
"""

from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from tessera.data.images import to_channels

SIDE = 16
"""Pixels a side of a thumbnail."""

THRESHOLD = 0.87
"""Correlation of detail above which two pictures are copies."""

LEVELS = 12
"""Grey levels, root mean square over the pixels, by which the colours of copies may differ."""

GREY = 4
"""Colourfulness, in the same unit, below which a picture counts as grey."""

FLAT = 4
"""Detail, in weighted grey levels, below which a thumbnail is mostly rounding and JPEG noise."""

COARSE = 96
"""Coefficients that are compared first, from the lowest frequency on."""

MOST = 100
"""Pairs per image, on average, above which only those are kept that hold the groups together."""

CHUNK = 4096
"""Images or pairs that are worked on at a time, to bound the memory."""


def signature(image: Image.Image) -> UInt8[np.ndarray, "16 16 3"]:
    """Return a thumbnail of an image of any size and mode, 768 bytes.

    EXIF orientation is not looked at. A JPEG is decoded five times as fast after
    ``image.draft(None, (64, 64))``.
    """
    colour = to_channels(image, 3)
    small = colour.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0)
    return np.array(small)


def near_duplicates(
    signatures: UInt8[np.ndarray, "n ..."],
    *,
    threshold: float = THRESHOLD,
    device: torch.device | str = "cpu",
    block: int = 1024,
    on_progress: Callable[[int], None] = lambda images: None,
) -> Int[np.ndarray, "m 2"]:
    """Return the pairs of images that show the same picture, the lower index first.

    Copies are found after JPEG compression, resizing, changes of brightness and contrast, loss of
    colour, and crops of about 2 % a side. Mirrored or rotated copies are not, nor are copies in
    other colours. A grey picture matches any colouring of it. Pictures without detail match if
    their mean colour does. What differs only in parts smaller than 1/16 of a side, such as the
    frames of a fixed camera, cannot be told apart.

    Of several images with one signature, the first stands for all and is paired with each other
    one. Beyond 100 pairs an image on average, pairs within one group are left out.

    Args:
        signatures: From ``signature``, one a row.
        threshold: Correlation of detail, up to 1, from which two images are copies.
        block: Images that are compared at once with as many others; takes ``4 * block ** 2`` bytes
            on the device, and changes no result.
        on_progress: Called with the number of images compared since the last call.

    Raises:
        ValueError: These are no signatures, or the threshold is not above 0 and at most 1.
    """
    if len(signatures) and signatures.shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(
            f"signatures have shape {signatures.shape}, not (n, {SIDE}, {SIDE}, 3)\n"
            "hint: stack what tessera.data.duplicates.signature returns"
        )
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold={threshold} is not in (0, 1]")
    if len(signatures) < 2:
        on_progress(len(signatures))
        return np.empty((0, 2), dtype=np.int64)
    distinct, pairs = _exact(signatures)
    on_progress(len(signatures) - len(distinct))
    coarse = _coarse(signatures[distinct]).to(device)
    found, count, group = [pairs], len(pairs), None
    for near in _candidates(coarse, threshold, block, on_progress):
        pairs = distinct[near]
        if group is not None:
            pairs = pairs[group[pairs[:, 0]] != group[pairs[:, 1]]]
        pairs = pairs[_agree(signatures, pairs, threshold)]
        found.append(pairs)
        count += len(pairs)
        if len(pairs) and count > MOST * len(signatures):
            group = groups(len(signatures), np.concatenate(found))
    united = np.concatenate(found)
    return united[np.lexsort((united[:, 1], united[:, 0]))]


def groups(n: int, pairs: Int[np.ndarray, "m 2"]) -> Int[np.ndarray, " n"]:
    """Number the sets of images that pairs join, directly or by a chain, by their first image."""
    ones = np.ones(len(pairs), dtype=np.int8)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _exact(
    signatures: UInt8[np.ndarray, "n ..."],
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, "m 2"]]:
    """Return the first image of every signature, and the pairs of these with the others."""
    rows = np.ascontiguousarray(signatures).reshape(len(signatures), -1)
    keys = rows.view(f"V{rows.shape[1]}")[:, 0]
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    leader = first[which]
    copies = np.flatnonzero(leader != np.arange(len(rows)))
    return np.sort(first), np.stack([leader[copies], copies], axis=1)


def _candidates(
    coarse: Float[Tensor, "n c"],
    threshold: float,
    block: int,
    on_progress: Callable[[int], None],
) -> Iterator[Int[np.ndarray, "m 2"]]:
    """Yield all pairs that may reach the threshold, and few more, block by block."""
    least = threshold - 1e-4  # float32 is exact to 1e-6 here
    for start in range(0, len(coarse), block):
        rows = coarse[start : start + block]
        for other in range(start, len(coarse), block):
            bound = rows @ coarse[other : other + block].T
            if bound.amax() < least:
                continue
            pairs = (bound >= least).nonzero() + torch.tensor([start, other], device=bound.device)
            pairs = pairs[pairs[:, 0] < pairs[:, 1]]
            if len(pairs):
                yield pairs.cpu().numpy()
        on_progress(len(rows))


def _coarse(signatures: UInt8[np.ndarray, "n 16 16 3"]) -> Float[Tensor, "n c"]:
    """Return vectors whose products are upper bounds of the correlations of detail.

    The low coefficients, and the length of the rest: by Cauchy-Schwarz, the product of the lengths
    is at least the product of the vectors.
    """
    coarse = torch.zeros(len(signatures), COARSE + 1)
    for start in range(0, len(signatures), CHUNK):
        detail, scale = _detail(signatures[start : start + CHUNK])
        detail /= np.maximum(scale, 1e-9)[:, None]
        rest = np.linalg.norm(detail[:, COARSE:], axis=1, keepdims=True)
        rows = np.concatenate([detail[:, :COARSE], rest], axis=1)
        coarse[start : start + CHUNK] = torch.from_numpy(rows)
    return coarse


def _agree(
    signatures: UInt8[np.ndarray, "n 16 16 3"], pairs: Int[np.ndarray, "m 2"], threshold: float
) -> Bool[np.ndarray, " m"]:
    """Return which pairs are copies by detail, colour and, where that says little, by level."""
    images, ends = np.unique(pairs, return_inverse=True)
    small = signatures[images]
    detail, scale = _detail(small)
    colour, mean = _colour(small), small.mean(axis=(1, 2))
    strength = np.sqrt((colour**2).sum(axis=1)) / SIDE
    agree = np.zeros(len(pairs), dtype=bool)
    for start in range(0, len(pairs), CHUNK):
        i, j = ends.reshape(-1, 2)[start : start + CHUNK].T
        close = (detail[i] * detail[j]).sum(axis=1) >= threshold * scale[i] * scale[j]
        difference = np.sqrt(((colour[i] - colour[j]) ** 2).sum(axis=1)) / SIDE
        close &= (
            (difference <= np.maximum(LEVELS, np.maximum(strength[i], strength[j]) / 2))
            | (np.minimum(strength[i], strength[j]) < GREY)
        )  # fmt: skip
        level = np.abs(mean[i] - mean[j]).max(axis=1) <= FLAT
        agree[start : start + CHUNK] = close & (
            level | (np.minimum(scale[i], scale[j]) >= FLAT * SIDE)
        )
    return agree


def _detail(
    signatures: UInt8[np.ndarray, "n 16 16 3"],
) -> tuple[Float[np.ndarray, "n 256"], Float[np.ndarray, " n"]]:
    """Return the weighted cosine coefficients of the luminance, low first, and their length."""
    luminance = signatures.reshape(-1, 3) @ np.array([0.299, 0.587, 0.114])
    detail = luminance.reshape(-1, SIDE**2) @ _weighting().T
    scale = np.linalg.norm(detail, axis=1)
    blank = scale < 1e-6  # rounding errors of a uniform picture
    detail[blank], scale[blank] = 0, 0
    return detail, scale


def _colour(signatures: UInt8[np.ndarray, "n 16 16 3"]) -> Float[np.ndarray, "n 512"]:
    """Return the colour differences Cb and Cr of every pixel."""
    to_cb_cr = np.array([[-0.168736, 0.5], [-0.331264, -0.418688], [0.5, -0.081312]])  # ITU-T T.871
    return (signatures.reshape(-1, 3) @ to_cb_cr).reshape(len(signatures), -1)


@cache
def _weighting() -> Float[np.ndarray, "256 256"]:
    """Return the matrix that turns the luminance of a thumbnail into what is compared of it.

    Cosine transform; times the frequency, and half of that for what varies in one direction only,
    as horizons and frames do; back to pixels; times a window that falls to zero at the rim; and
    the cosine transform of that, in the order of frequency. Each step is linear.
    """
    k = np.arange(SIDE)
    cosine = np.cos(np.pi * np.outer(k, k + 0.5) / SIDE) * np.sqrt(2 / SIDE)
    cosine[0] /= np.sqrt(2)
    transform = np.kron(cosine, cosine)
    frequency = np.hypot(*np.meshgrid(k, k)).ravel()
    weight = frequency * np.where(np.outer(k, k).ravel() > 0, 1, 0.5)
    window = np.sin(np.pi * (k + 0.5) / SIDE)
    taper = np.outer(window, window).ravel()
    matrix = transform @ (taper[:, None] * transform.T) @ (weight[:, None] * transform)
    return matrix[np.argsort(frequency, kind="stable")]
