"""All methods by name: what each wants of a model, and what it says."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from torch import Tensor

from tessera.config import HIERARCHICAL
from tessera.explain.attention import attention, check_head, has_places, heads_of
from tessera.explain.gradients import grad_cam, integrated_gradients
from tessera.explain.occlusion import occlusion, windows
from tessera.explain.pca import token_pca
from tessera.explain.question import Question, block_number
from tessera.explain.rollout import gradient_rollout, relevance, rollout
from tessera.models.vit import ViT
from tessera.nn.patch_embed import Grid


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to make a map of an image."""

    make: Callable[[ViT, Tensor, Question], Tensor]
    meaning: str
    """What the map shows, in one sentence."""
    needs_encoder: bool = False
    """Follows tokens through all blocks, so it wants an encoder, which has one grid."""
    needs_attention: bool = False
    """Wants a block in which tokens attend, if only inside of windows."""
    of_class: bool = True
    """Speaks about one class, so it wants a head."""
    signed: bool = False
    """Values below 0 speak against the class; pictures show what speaks for it."""
    is_colour: bool = False
    """Three numbers a patch, which say nothing about importance."""
    takes: tuple[str, ...] = ()
    """Which of block and head it can be asked for."""
    has_places: Callable[[ViT, Grid, int | None], bool] = lambda model, grid, block: True
    """Whether all places of its map can be compared, given the grid and the block."""


METHODS: dict[str, Method] = {
    "relevance": Method(
        make=relevance,
        needs_encoder=True,
        meaning="Attention that speaks for the class, followed through all blocks "
        "(Chefer et al., 2021).",
    ),
    "rollout": Method(
        make=rollout,
        needs_encoder=True,
        of_class=False,
        meaning="Attention of all heads, multiplied through all blocks; it knows no class "
        "(Abnar and Zuidema, 2020).",
    ),
    "gradient-rollout": Method(
        make=gradient_rollout,
        needs_encoder=True,
        meaning="Rollout through the attention that speaks for the class (after Gildenblat, 2020).",
    ),
    "attention": Method(
        make=attention,
        needs_attention=True,
        of_class=False,
        takes=("block", "head"),
        has_places=has_places,
        meaning="Where the tokens that the head reads look, in one block; it knows no class.",
    ),
    "grad-cam": Method(
        make=grad_cam,
        takes=("block",),
        meaning="What each patch adds to the token that is read, where that raises the class; sees "
        "one block (after Selvaraju et al., 2017).",
    ),
    "integrated-gradients": Method(
        make=integrated_gradients,
        signed=True,
        meaning="What each pixel adds to the class's logit on the way from the mean colour "
        "(Sundararajan et al., 2017).",
    ),
    "occlusion": Method(
        make=occlusion,
        signed=True,
        meaning="How much the class's logit falls when a patch is covered "
        "(Zeiler and Fergus, 2014).",
    ),
    "pca": Method(
        make=token_pca,
        of_class=False,
        is_colour=True,
        meaning="The first three principal components of the last tokens as colours; it knows no "
        "class (as in Oquab et al., 2023).",
    ),
}


def default_method(model: ViT) -> str:
    """Return the method that is used when nobody names one.

    Relevance, since it is about a class and costs one backward pass; without a head, rollout;
    without an encoder, Grad-CAM, or the tokens themselves where there is no head either.
    """
    if model.config.depth == 0:
        return "grad-cam" if model.config.num_classes else "pca"
    return "relevance" if model.config.num_classes else "rollout"


def check_method(name: str, model: ViT) -> Method:
    """Return a method that this model allows.

    Raises:
        ValueError: No such method, or it is not defined for this model.
    """
    if name not in METHODS:
        close = get_close_matches(name, METHODS, n=1)
        guess = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"no method {name!r}\nhint: {guess}methods are {', '.join(METHODS)}")
    method = METHODS[name]
    others = ", ".join(key for key in METHODS if _defined(METHODS[key], model))
    if not _has_blocks(method, model):
        kind = model.config.patch_embed
        does = "follows tokens through all" if method.needs_encoder else "looks into"
        why = "attends inside of windows on several grids" if kind in HIERARCHICAL else "has none"
        raise ValueError(
            f"{name} {does} blocks of an encoder, and patch_embed={kind!r} {why}\n"
            f"hint: for this model there are {others}"
        )
    if not _defined(method, model):
        raise ValueError(
            f"{name} explains a class, and the model has no head\n"
            f"hint: for this model there are {others}"
        )
    return method


def check_parts(model: ViT, names: Sequence[str], block: int | None, head: int | None) -> None:
    """Refuse a block or a head that no method would look at.

    Raises:
        ValueError: One is given, and none of the methods takes it; or it is not there.
    """
    for part, value in {"block": block, "head": head}.items():
        if value is None:
            continue
        takers = [k for k, m in METHODS.items() if part in m.takes and _defined(m, model)]
        others = f", or take a method that looks at one {part}: {', '.join(takers)}"
        hint = f"hint: leave it out{others if takers and model.config.num_layers else ''}"
        if not model.config.num_layers:
            raise ValueError(f"{part} {value}: the model has no blocks that attend\n{hint}")
        if not set(takers) & set(names):
            raise ValueError(f"{part} {value} changes nothing in {', '.join(names)}\n{hint}")
    if block is not None:
        block_number(model, block)
    if head is not None:
        check_head(head, heads_of(model, block))


def passes(name: str, model: ViT, grid: tuple[int, int], steps: int) -> int:
    """Return about how many forward passes a map costs; a backward pass counts as two."""
    match name:
        case "integrated-gradients":
            return 3 * steps
        case "occlusion":
            return windows(grid) + 1
    return 3 if METHODS[name].of_class else 1


def _defined(method: Method, model: ViT) -> bool:
    return _has_blocks(method, model) and (model.config.num_classes > 0 or not method.of_class)


def _has_blocks(method: Method, model: ViT) -> bool:
    if method.needs_encoder:
        return model.config.depth > 0
    return model.config.num_layers > 0 or not method.needs_attention
