"""Does a map depend on what the model has learnt? It should change when the weights are random."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional as F

from tessera.models.vit import ViT

SURVIVES = 0.5
"""A map whose mean rank correlation with that of random weights is this or more is flagged."""

MapOf = Callable[[ViT, Tensor], Tensor]
"""A model and an image give a map, ``r c`` or ``r c 3``."""


@dataclass(frozen=True, kw_only=True)
class Sanity:
    """How alike maps are to those of a model that is made random from its head downwards."""

    stages: tuple[str, ...]
    """What was random by then."""
    rank_correlation: tuple[float, ...]
    """Spearman's, the mean over images, at each stage."""
    ssim: tuple[float, ...]
    """Structural similarity, the mean over images, at each stage."""
    images: int

    @property
    def survives(self) -> bool:
        """Whether the map stays much the same when all weights are random."""
        return self.rank_correlation[-1] >= SURVIVES

    @property
    def words(self) -> str:
        """Return what that means."""
        counted = f"{self.images} image" + ("s" if self.images > 1 else "")
        value = f"rank correlation {self.rank_correlation[-1]:.2f} on {counted}"
        if self.survives:
            return (
                f"survives random weights ({value}; {SURVIVES} or more is flagged): "
                "it explains nothing that this model has learnt"
            )
        return f"changes when the weights are random ({value})"

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON knows it."""
        return {
            **{key: getattr(self, key) for key in ("stages", "rank_correlation", "ssim", "images")},
            "threshold": SURVIVES,
            "survives_random_weights": self.survives,
            "words": self.words,
        }


def check_weights(
    make: MapOf,
    model: ViT,
    images: Sequence[Float[Tensor, "1 c h w"]],
    own: Sequence[Tensor],
    *,
    signed: bool = False,
    seed: int = 0,
    on_map: Callable[[], None] = lambda: None,
) -> Sanity:
    """Make the weights random from the head downwards, and compare the maps.

    Adebayo et al. (2018), "Sanity checks for saliency maps", section 3.1, cascading randomisation.
    A tensor is made random by shuffling its numbers, which works for every layer and keeps their
    scale.

    Args:
        own: The maps of the model as it is, one an image.
        signed: Whether maps have signs, which random weights turn at random: then the correlation
            of absolute values counts where it is larger.
        on_map: Called after every map.
    """
    stages = cascade(model)
    ranks, ssims = [], []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        broken = copy.deepcopy(model).eval()
        parameters = dict(broken.named_parameters())
        for names in stages.values():
            for name in names:
                _shuffle(parameters[name])
            pairs = []
            for image, before in zip(images, own, strict=True):
                pairs.append((before, make(broken, image)))
                on_map()
            ranks.append(float(np.mean([_alike(*pair, signed=signed) for pair in pairs])))
            ssims.append(float(np.mean([ssim(*pair) for pair in pairs])))
    return Sanity(
        stages=tuple(stages),
        rank_correlation=tuple(ranks),
        ssim=tuple(ssims),
        images=len(images),
    )


def cascade(model: ViT) -> dict[str, list[str]]:
    """Return names of parameters by stage: head, later half, all but the first layers, all."""
    names = [name for name, _ in model.named_parameters()]
    heads = ("head.", "head_dist.", "pre_logits.", "attn_pool.", "seq_pool.", "norm.")
    head = [name for name in names if name.startswith(heads)]
    if model.config.depth:
        half = model.config.depth // 2
        blocks = [name for name in names if name.startswith("blocks.")]
        late = [name for name in blocks if int(name.split(".")[1]) >= half]
    else:  # layers of a network stand in the order in which they run
        blocks = [name for name in names if name.startswith("patch_embed.")]
        late = blocks[len(blocks) // 2 :]
    stages = {"head": head, "and the later half": late}
    if model.config.depth:
        stages["and all blocks"] = [name for name in blocks if name not in set(late)]
    seen = {name for stage in stages.values() for name in stage}
    stages["everything"] = [name for name in names if name not in seen]
    return stages


@torch.no_grad()
def _shuffle(parameter: Tensor) -> None:
    order = torch.randperm(parameter.numel()).to(parameter.device)
    parameter.copy_(parameter.flatten()[order].view_as(parameter))


def rank_correlation(a: Float[Tensor, "*s"], b: Float[Tensor, "*s"]) -> float:
    """Return Spearman's rank correlation of two maps; 0 where one is constant.

    Of colours, whose signs mean nothing, the first component counts, whichever way it points.
    """
    colours = a.ndim == 3
    first, second = (rankdata(_grey(x).cpu().numpy().ravel()) for x in (a, b))
    first, second = first - first.mean(), second - second.mean()
    scale = np.sqrt((first**2).sum() * (second**2).sum())
    value = float((first * second).sum() / scale) if scale > 0 else 0.0
    return abs(value) if colours else value


def _alike(a: Tensor, b: Tensor, *, signed: bool) -> float:
    found = rank_correlation(a, b)
    return max(found, rank_correlation(a.abs(), b.abs())) if signed else found


def ssim(a: Float[Tensor, "*s"], b: Float[Tensor, "*s"]) -> float:
    """Return structural similarity: Wang et al. (2004), equation 13, in windows of 7 by 7.

    Each map is first stretched to [0, 1]; the windows are smaller where the map is.
    """
    x, y = (_stretched(_grey(m).double())[None, None] for m in (a, b))
    side = min(7, *x.shape[-2:])
    mean_x, mean_y = (F.avg_pool2d(m, side, 1) for m in (x, y))
    var_x = F.avg_pool2d(x**2, side, 1) - mean_x**2
    var_y = F.avg_pool2d(y**2, side, 1) - mean_y**2
    both = F.avg_pool2d(x * y, side, 1) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    top = (2 * mean_x * mean_y + c1) * (2 * both + c2)
    return float((top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).mean())


def _grey(values: Tensor) -> Tensor:
    return values[..., 0] if values.ndim == 3 else values


def _stretched(values: Tensor) -> Tensor:
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else torch.zeros_like(values)
