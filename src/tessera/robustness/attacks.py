"""Small changes of pixels that are made to mislead: FGSM and PGD, in pixel units.

Every attack is a function of a model of pixels in [0, 1], the pixels, the labels and random
numbers. What it finds is an upper bound on the accuracy that the model would keep under the worst
change of that size.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

STEPS, RESTARTS = 20, 1


def ascend(
    model: nn.Module,
    pixels: Float[Tensor, "b c h w"],
    labels: Int[Tensor, " b"],
    *,
    start: Float[Tensor, "b c h w"],
    eps: float,
    step: float,
    steps: int,
    inside: Bool[Tensor, "b #c h w"] | None = None,
    targeted: bool = False,
) -> Float[Tensor, "b c h w"]:
    """Climb the cross-entropy by signs of the gradient, within eps of the pixels and in [0, 1].

    x <- clip(project(x + step sign(grad))) (Madry et al., 2018, section 2.1).

    Args:
        labels: The true classes; with ``targeted`` those that the model shall answer, whose
            cross-entropy is then descended.
        start: Where to begin.
        inside: Pixels that may change; all by default.
    """
    low, high = (pixels - eps).clamp(min=0.0), (pixels + eps).clamp(max=1.0)
    sign = -step if targeted else step
    x = start
    for _ in range(steps):
        moved = x + sign * _gradient(model, x, labels).sign()
        moved = torch.minimum(torch.maximum(moved, low), high)
        x = moved if inside is None else torch.where(inside, moved, x)
    return x


def fgsm(
    model: nn.Module,
    pixels: Float[Tensor, "b c h w"],
    labels: Int[Tensor, " b"],
    *,
    eps: float,
    targeted: bool = False,
) -> Float[Tensor, "b c h w"]:
    """One step of size eps from the image: x + eps sign(grad) (Goodfellow et al., 2015).

    Raises:
        ValueError: eps is not positive.
    """
    _check(eps, 1)
    return ascend(
        model, pixels, labels, start=pixels, eps=eps, step=eps, steps=1, targeted=targeted
    )


def pgd(
    model: nn.Module,
    pixels: Float[Tensor, "b c h w"],
    labels: Int[Tensor, " b"],
    generators: Sequence[torch.Generator] | None,
    *,
    eps: float,
    step: float | None = None,
    steps: int = STEPS,
    restarts: int = RESTARTS,
    targeted: bool = False,
) -> Float[Tensor, "b c h w"]:
    """Projected gradient steps from random starts in the eps-ball (Madry et al., 2018).

    Of several restarts, each image keeps one that misleads the model, or else the one with the
    greatest loss.

    Args:
        generators: Random numbers of every image, so that a result does not depend on the images
            beside it; None starts at the image itself.
        step: eps / 4 by default.

    Raises:
        ValueError: eps, the steps or the restarts are not positive.
    """
    _check(eps, steps)
    if restarts < 1:
        raise ValueError(f"restarts={restarts} must be at least 1")
    best = pixels
    worth = pixels.new_full((pixels.shape[0],), -torch.inf)
    for _ in range(1 if generators is None else restarts):
        start = pixels if generators is None else _start(pixels, generators, eps)
        found = ascend(
            model,
            pixels,
            labels,
            start=start,
            eps=eps,
            step=eps / 4 if step is None else step,
            steps=steps,
            targeted=targeted,
        )
        scores = _worth(model, found, labels, targeted=targeted)
        better = scores > worth
        best = torch.where(better[:, None, None, None], found, best)
        worth = torch.maximum(worth, scores)
    return best


def uniform(
    shape: torch.Size, generators: Sequence[torch.Generator], like: Tensor
) -> Float[Tensor, "b ..."]:
    """Draw numbers in [0, 1), a generator an image."""
    rows = [torch.rand(shape[1:], generator=generator) for generator in generators]
    return torch.stack(rows).to(like)


def _start(pixels: Tensor, generators: Sequence[torch.Generator], eps: float) -> Tensor:
    noise = uniform(pixels.shape, generators, pixels)
    return (pixels + eps * (2 * noise - 1)).clamp(0.0, 1.0)


def _gradient(model: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    """The derivative of every image's own cross-entropy by its pixels."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        loss = F.cross_entropy(model(x), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, x)
    return gradient


@torch.no_grad()
def _worth(model: nn.Module, x: Tensor, labels: Tensor, *, targeted: bool) -> Tensor:
    """Greater for what misleads more; misled is greater than any that is not."""
    logits = model(x)
    loss = F.cross_entropy(logits, labels, reduction="none")
    hit = logits.argmax(dim=1) == labels
    misled, gain = (hit, -loss) if targeted else (~hit, loss)
    return torch.atan(gain) + misled * 4.0  # atan keeps the order, within 2 of 0


def _check(eps: float, steps: int) -> None:
    if not 0 < eps < torch.inf:
        raise ValueError(
            f"eps={eps:g} must be positive\nhint: it is a share of the pixel range; 8/255 is usual"
        )
    if steps < 1:
        raise ValueError(f"steps={steps} must be at least 1")
