"""The studies, by name: what varies in each, and the claims that it puts to the test."""

from collections.abc import Mapping
from typing import Any

from tessera.studies.data_size import DATA_SIZE
from tessera.studies.design import Axis, Base, Claim, Study, Variant
from tessera.studies.drop_path import DROP_PATH
from tessera.studies.positions import POSITIONS
from tessera.studies.rules import (
    Outcomes,
    Verdict,
    best_alike,
    better,
    grows_faster_than_tokens,
)

RATES = (0.1, 0.3, 1.0, 3.0)
"""Learning rates of ``pooling``, as multiples of the recipe's."""

MOST_TOKENS = 256
"""Largest number of patches in ``patch-size``."""

PLAIN: Mapping[str, Any] = {
    "augment.crop_scale": "none",
    "augment.flip": 0.0,
    "augment.shift": 0.0,
    "augment.rotate": 0.0,
    "augment.zoom": 0.0,
    "augment.policy": "none",
    "augment.augreg": "none",
    "augment.color_jitter": 0.0,
    "augment.erasing": 0.0,
    "augment.mixup": 0.0,
    "augment.cutmix": 0.0,
}
"""Nothing is done to a training image."""

UNMIXED: Mapping[str, Any] = {
    name: value
    for name, value in PLAIN.items()
    if name.split(".")[1] not in ("crop_scale", "flip", "shift", "rotate", "zoom")
}
"""Nothing but the recipe's own crops, flips and moves."""


def pooling(base: Base) -> list[Variant]:
    """Class token and mean of the patches, each at several learning rates."""
    kinds: dict[str, dict[str, Any]] = {
        "cls": {"arch.pool": "cls", "arch.cls_token": True},
        "avg": {"arch.pool": "avg", "arch.cls_token": False},
    }
    rates = [float(f"{factor * base.recipe.optim.lr:.2g}") for factor in RATES]
    return [
        Variant(name=f"{kind} {lr:g}", changes={**changes, "optim.lr": lr}, curve=kind, x=lr)
        for kind, changes in kinds.items()
        for lr in rates
    ]


def patch_sizes(base: Base) -> list[Variant]:
    """Every power of two that cuts the images into at least 4 patches and at most 256."""
    height, width = base.config.image_shape
    found = []
    for power in range(10, -1, -1):
        side = 2**power
        tokens = (height // side) * (width // side)
        if height % side == 0 and width % side == 0 and 4 <= tokens <= MOST_TOKENS:
            changes = {"arch.patch_size": side}
            found.append(Variant(name=f"patch {side}", changes=changes, x=float(tokens)))
    if len(found) < 2:
        raise ValueError(
            f"images of {height}x{width} pixels cannot be cut by two powers of two into 4 to "
            f"{MOST_TOKENS} patches\nhint: another side, such as --arch.img-size 32"
        )
    return found


def augmentations(base: Base) -> list[Variant]:
    """Nothing; what the recipe does to shape; and on top of that each policy alone, then all."""
    policy = {"augment.policy": "randaugment"}
    mixup, cutmix = {"augment.mixup": 0.2}, {"augment.cutmix": 1.0}
    return [
        Variant(name="none", changes=PLAIN),
        Variant(name="moves", changes=UNMIXED),
        Variant(name="randaugment", changes={**UNMIXED, **policy}),
        Variant(name="mixup", changes={**UNMIXED, **mixup}),
        Variant(name="cutmix", changes={**UNMIXED, **cutmix}),
        Variant(name="all", changes={**UNMIXED, **policy, **mixup, **cutmix}),
    ]


def attention_patterns(base: Base) -> list[Variant]:
    """Every pattern at the same depth, and axial attention at twice the depth, as in D.6."""
    if base.config.depth < 1:
        raise ValueError("attention wants an encoder\nhint: give a recipe of a Vision Transformer")
    side = max(2, -(-min(base.config.grid) // 2))  # half of the grid
    around = side + 1 - side % 2  # odd, since windows have a middle
    tiles: dict[str, Any] = {"arch.attention_window": side}
    found = [Variant(name="global", changes={"arch.attention": "global"})]
    for name in ("local", "neighborhood"):
        changes = {"arch.attention": name, "arch.attention_window": around}
        found.append(Variant(name=name, changes=changes))
    for name in ("window", "shifted_window"):
        found.append(Variant(name=name, changes={"arch.attention": name, **tiles}))
    for name in ("axial", "strided", "fixed"):
        found.append(Variant(name=name, changes={"arch.attention": name}))
    twice = {"arch.attention": "axial", "arch.depth": 2 * base.config.depth}
    return [*found, Variant(name="axial_twice", changes=twice)]


def _ends_differ(outcomes: Outcomes) -> Verdict:
    """The variant with the most tokens against that with the fewest."""
    names = sorted(outcomes, key=lambda name: outcomes[name].tokens)
    if len(names) < 2:
        return Verdict(word="cannot be told", finding="fewer than two sizes are measured")
    return better(names[-1], names[0])(outcomes)


STUDIES: dict[str, Study] = {
    "positions": POSITIONS,
    "pooling": Study(
        title="Class token or average",
        question="Does a class token beat the mean of the patches?",
        varies="Pooling, each at learning rates of 0.1 to 3 times the recipe's.",
        variants=pooling,
        chooses=True,
        axis=Axis(label="learning rate"),
        claims=(
            Claim(
                text="Class token and global average pooling are equally good, once each has its "
                "own learning rate (8e-4 and 3e-4 in the paper).",
                source="Dosovitskiy et al. (2020), D.3 and figure 9",
                rule="The best rate of each is chosen on the validation images. It holds if the "
                "interval of the paired difference on the test images is within 1 point of 0, and "
                "does not if it lies beyond.",
                decide=best_alike(("cls", "avg")),
                is_about_all=True,
            ),
        ),
        settings={"digits": {"schedule.total_steps": 300}},
    ),
    "patch-size": Study(
        title="Size of the patches",
        question="What do smaller patches give, and what do they cost?",
        varies="The side of a patch, and with it the number of tokens; nothing else.",
        variants=patch_sizes,
        axis=Axis(label="patches"),
        shows="cost",
        claims=(
            Claim(
                text="Smaller patches are better, without more parameters in the encoder.",
                source="Dosovitskiy et al. (2020), D.2 and figure 8",
                rule="It holds if the interval of the paired difference between the smallest and "
                "the largest patch is above 0, and does not if it is below.",
                decide=_ends_differ,
            ),
            Claim(
                text="The cost of attention grows with the square of the number of tokens, so that "
                "of a model grows faster than the tokens.",
                source="Dosovitskiy et al. (2020), sections 2 and 4.1",
                rule="From the seconds of training for each image at the two largest numbers of "
                "tokens: it holds if the interval of the power is above 1, and does not if below.",
                decide=grows_faster_than_tokens(),
            ),
        ),
        settings={"digits": {"schedule.total_steps": 150}},
    ),
    "data-size": DATA_SIZE,
    "augmentation": Study(
        title="Augmentation",
        question="Which augmentation does a small data set need?",
        varies="What is done to training images: nothing; the recipe's crops, flips and moves; on "
        "top of these RandAugment, mixup or cutmix; all of them.",
        variants=augmentations,
        claims=(
            Claim(
                text="On small data, augmentation makes up for images: a model trained with it is "
                "better than one trained without.",
                source="Steiner et al. (2021), section 4.1 and figure 1",
                rule="It holds if the interval of the paired difference between all augmentations "
                "and none is above 0, and does not if it is below.",
                decide=better("all", "none"),
            ),
            Claim(
                text="Mixing images helps beyond moving them.",
                source="Zhang et al. (2018), mixup",
                rule="It holds if the interval of the paired difference between mixup and the "
                "moves alone is above 0, and does not if it is below.",
                decide=better("mixup", "moves"),
            ),
        ),
        settings={"digits": {"schedule.total_steps": 600}},
    ),
    "drop-path": DROP_PATH,
    "attention": Study(
        title="Attention patterns",
        question="Must every patch look at every other?",
        varies="Which patches a patch looks at, at equal depth; and axial attention at twice the "
        "depth, a row block and a column block in the place of each.",
        variants=attention_patterns,
        claims=(
            Claim(
                text="Windows that shift from block to block are better than windows that do not.",
                source="Liu et al. (2021), Swin, table 4",
                rule="It holds if the interval of the paired difference is above 0, and does not "
                "if it is below.",
                decide=better("shifted_window", "window"),
            ),
            Claim(
                text="Axial blocks, two in the place of one, are better than global attention, at "
                "more compute.",
                source="Dosovitskiy et al. (2020), D.6 and figure 13",
                rule="It holds if the interval of the paired difference is above 0, and does not "
                "if it is below.",
                decide=better("axial_twice", "global"),
            ),
        ),
        settings={"digits": {"schedule.total_steps": 300}},
    ),
}
