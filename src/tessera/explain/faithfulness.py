"""Does the model use what a map points at? Deletion and insertion, beside maps drawn at random."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from tessera.explain.question import Question, answer, token_grid
from tessera.models.vit import ViT

RANDOM_MAPS = 5
"""Maps drawn at random that every map is compared with."""


class Faithfulness(NamedTuple):
    """Mean answer while patches go, and while they come; as areas under the curves."""

    deletion: float
    """Lower is better: what is deleted first mattered."""
    insertion: float
    """Higher is better: what is inserted first is enough."""
    deletion_curve: tuple[float, ...]
    """The answer after each step, from the whole image to none of it."""
    insertion_curve: tuple[float, ...]


def patch_order(values: Float[Tensor, "rows columns"], grid: tuple[int, int]) -> Int[Tensor, " n"]:
    """Return the patches, the most important first; a map of pixels is averaged in each patch."""
    if tuple(values.shape) != grid:
        values = F.adaptive_avg_pool2d(values[None, None], grid)[0, 0]
    return values.flatten().argsort(descending=True, stable=True)


def random_orders(count: int, seed: int, maps: int = RANDOM_MAPS) -> list[Int[Tensor, " n"]]:
    """Return the orders of maps drawn at random."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randperm(count, generator=generator) for _ in range(maps)]


def faithfulness(
    model: ViT,
    image: Float[Tensor, "1 c h w"],
    order: Int[Tensor, " n"],
    question: Question,
    *,
    steps: int = 10,
) -> Faithfulness:
    """Delete and insert patches in an order, and ask the model each time.

    Petsiuk et al. (2018), "RISE", section 3.3, with patches for pixels, so that maps of patches and
    of pixels are treated alike. Deleted patches become the mean colour; insertion begins with a
    blurred copy. Areas are by the trapezoidal rule over the share of patches.

    Args:
        order: Patches in raster order, the first to go or come first.
        steps: Points of each curve after the first.
    """
    grid, patch = token_grid(model, image), model.config.patch_size
    rank = torch.empty(len(order), device=image.device)
    rank[order.to(image.device)] = torch.arange(len(order), device=image.device).float()
    rank = rank.reshape(1, 1, *grid).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    counts = torch.linspace(0, len(order), steps + 1, device=image.device).round()
    first = (rank < counts.view(-1, 1, 1, 1)).to(image.dtype)  # 1 where a patch came or went
    blurred = blur(image)
    deleted = answer(model, image * (1 - first), question)
    inserted = answer(model, blurred + (image - blurred) * first, question)
    shares = (counts / len(order)).cpu()
    areas = [float(torch.trapezoid(curve.cpu(), shares)) for curve in (deleted, inserted)]
    return Faithfulness(areas[0], areas[1], tuple(deleted.tolist()), tuple(inserted.tolist()))


def blur(image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Blur by a Gaussian whose deviation is a sixteenth of the shorter side, edges mirrored."""
    deviation = max(min(image.shape[-2:]) / 16, 0.5)
    radius = min(round(3 * deviation), min(image.shape[-2:]) - 1)
    offsets = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * deviation**2))
    kernel = kernel / kernel.sum()
    channels = image.shape[1]
    padded = F.pad(image, (radius,) * 4, mode="reflect")
    across = F.conv2d(padded, kernel.expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(across, kernel.view(-1, 1).expand(channels, 1, -1, 1), groups=channels)


def verdict(own: Faithfulness, random: list[Faithfulness]) -> str:
    """Say in words how a map compares with random ones, on one image."""
    deletes = own.deletion < min(other.deletion for other in random)
    inserts = own.insertion > max(other.insertion for other in random)
    if deletes and inserts:
        return f"better than all {len(random)} random maps, by deletion and by insertion"
    if deletes or inserts:
        which, other = ("deletion", "insertion") if deletes else ("insertion", "deletion")
        return f"better than all {len(random)} random maps by {which}, not by {other}"
    return f"no better than the best of {len(random)} random maps"
