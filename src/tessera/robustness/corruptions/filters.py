"""Convolution, resizing and displacement of arrays, as fast as the core libraries allow."""

import math
from typing import Literal

import numpy as np
import scipy.fft
import torch
from jaxtyping import Float32
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

Kernel = Float32[np.ndarray, "k l"]
"""Weights by offset in pixels; both sides are odd and the offset 0, 0 is in the middle."""


def correlate(
    values: Float32[np.ndarray, "h w *c"], kernel: Kernel, border: Literal["edge", "reflect"]
) -> Float32[np.ndarray, "h w *c"]:
    """Sum the neighbours of every pixel by the kernel, through the Fourier transform.

    Args:
        border: what lies outside: the ``edge`` again, or its ``reflect``ion, the edge not doubled.
    """
    kernel = _without_zeros(kernel)
    top, left = kernel.shape[0] // 2, kernel.shape[1] // 2
    margin = [(top, top), (left, left)] + [(0, 0)] * (values.ndim - 2)
    padded = np.pad(values, margin, mode=border)
    shape = [scipy.fft.next_fast_len(n, real=True) for n in padded.shape[:2]]
    spectrum = scipy.fft.rfft2(kernel[::-1, ::-1], shape)
    spectrum = spectrum.reshape(*spectrum.shape, *[1] * (values.ndim - 2))
    product = scipy.fft.rfft2(padded, shape, axes=(0, 1)) * spectrum
    full: np.ndarray = scipy.fft.irfft2(product, shape, axes=(0, 1))
    height, width = values.shape[:2]
    return full[2 * top : 2 * top + height, 2 * left : 2 * left + width]


def _without_zeros(kernel: Kernel) -> Float32[np.ndarray, "k2 l2"]:
    """Cut rows and columns of zeros off, as many on either side."""
    rows, columns = np.nonzero(kernel)
    middle = kernel.shape[0] // 2, kernel.shape[1] // 2
    y, x = np.abs(rows - middle[0]).max(), np.abs(columns - middle[1]).max()
    return kernel[middle[0] - y : middle[0] + y + 1, middle[1] - x : middle[1] + x + 1]


def blur(
    values: Float32[np.ndarray, "h w *c"],
    sigma: float,
    truncate: float = 4.0,
    mode: Literal["nearest", "reflect"] = "nearest",
) -> Float32[np.ndarray, "h w *c"]:
    """Blur rows and columns by a normal kernel cut off at ``truncate`` deviations."""
    sigmas = (sigma, sigma) + (0.0,) * (values.ndim - 2)
    radius = int(truncate * sigma + 0.5)
    if radius < 1:
        return values
    if radius <= 8 or mode == "reflect":
        blurred: np.ndarray = ndimage.gaussian_filter(values, sigmas, mode=mode, truncate=truncate)
        return blurred
    line = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    line = (line / line.sum()).astype(np.float32)
    return correlate(values, np.outer(line, line), "edge")


def stretched(kernel: Kernel, scale: float) -> Float32[np.ndarray, "k2 l2"]:
    """Enlarge or reduce a kernel about its middle; its sum becomes 1.

    Enlarged, it is interpolated; reduced, every weight is shared by the four nearest offsets.
    """
    if scale == 1:
        return kernel / kernel.sum()
    radius = math.ceil(max(kernel.shape) // 2 * scale) + 1
    offsets = np.arange(-radius, radius + 1)
    middle = kernel.shape[0] // 2, kernel.shape[1] // 2
    if scale > 1:
        y, x = (offsets / scale + m for m in middle)
        result = ndimage.map_coordinates(kernel, np.meshgrid(y, x, indexing="ij"), order=1)
    else:
        result = _shared(kernel.shape[0], scale, offsets) @ kernel
        result = result @ _shared(kernel.shape[1], scale, offsets).T
    return (result / result.sum()).astype(np.float32)


def _shared(size: int, scale: float, offsets: np.ndarray) -> np.ndarray:
    positions = (np.arange(size) - size // 2) * scale
    return np.maximum(0, 1 - np.abs(offsets[:, None] - positions[None]))


def motion_kernel(radius: float, sigma: float, angle: float) -> Kernel:
    """Weights of a motion: one half of a normal curve, along a line of 2 radius + 1 pixels.

    Args:
        radius, sigma: in pixels.
        angle: of the line, in radians.
    """
    width = 2 * max(1, round(radius)) + 1
    steps = np.arange(width)
    weights = np.exp(-0.5 * (steps / sigma) ** 2)
    y, x = (np.ceil(steps * f(angle) - 0.5).astype(int) for f in (math.sin, math.cos))
    kernel = np.zeros((2 * width + 1, 2 * width + 1))
    np.add.at(kernel, (y + width, x + width), weights / weights.sum())
    return kernel.astype(np.float32)


def resized(
    values: Float32[np.ndarray, "h w *c"], height: int, width: int, corners: bool = False
) -> Float32[np.ndarray, "h2 w2 *c"]:
    """Resize bilinearly, with the corner pixels kept in the corners or else antialiased."""
    if values.shape[:2] == (height, width):
        return values
    mode = {"align_corners": True} if corners else {"antialias": True}
    result = interpolate(_tensor(values), size=(height, width), mode="bilinear", **mode)
    return _array(result, values.ndim)


def displaced(
    values: Float32[np.ndarray, "h w 3"],
    y: Float32[np.ndarray, "h w"],
    x: Float32[np.ndarray, "h w"],
    border: Literal["reflect", "mirror"],
) -> Float32[np.ndarray, "h w 3"]:
    """Read the values at other places, bilinearly.

    Args:
        y, x: where to read, in pixels.
        border: outside lies the ``reflect``ion with the edge doubled, or its ``mirror`` without.
    """
    sizes = np.array([values.shape[1], values.shape[0]], np.float32)
    places = np.stack([x, y], -1)
    corners = border == "mirror"
    grid = places * 2 / np.maximum(sizes - 1, 1) - 1 if corners else (places * 2 + 1) / sizes - 1
    result = grid_sample(
        _tensor(values),
        torch.from_numpy(grid)[None],
        mode="bilinear",
        padding_mode="reflection",
        align_corners=corners,
    )
    return _array(result, values.ndim)


def _tensor(values: np.ndarray) -> Tensor:
    channels = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    return torch.from_numpy(np.ascontiguousarray(channels))[None]


def _array(result: Tensor, ndim: int) -> np.ndarray:
    array: np.ndarray = result[0].numpy()
    return array[0] if ndim == 2 else array.transpose(1, 2, 0)
