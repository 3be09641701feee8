"""The weakest points of a model, each with what is known to help."""

from collections.abc import Sequence
from dataclasses import dataclass

from tessera.stress.rows import Row, mean_of

SHOWN = 5
"""Weak points of a model that are listed."""

SHARE = {"corruptions": 3}
"""Series of one test that may be among them; 1 of any other."""

CONTROLS = ("noise", "without positions")
"""Series that are there to be compared with."""


@dataclass(frozen=True, kw_only=True)
class Advice:
    """What to change in training."""

    text: str
    flags: str
    """Of ``tessera train``; empty where it has none."""
    source: str


@dataclass(frozen=True, kw_only=True)
class Weakness:
    """A curve on which a model loses much."""

    test: str
    series: str
    clean: float
    mean: float
    """Accuracy, the mean over the levels."""
    worst: str
    """The level with the lowest accuracy, and that."""
    advice: Advice


ERASING = Advice(
    text="hide parts of training images: random erasing, cutmix",
    flags="--augment.erasing 0.25 --augment.cutmix 1.0",
    source="Zhong et al. (2020); Yun et al. (2019)",
)
NOISE = Advice(
    text="stronger policies of shape and colour; noise on training images where noise is expected",
    flags="--augment.policy randaugment --augment.mixup 0.2",
    source="Rusak et al. (2020), noise; Steiner et al. (2021), mixup and RandAugment",
)
BLUR = Advice(
    text="train on images that are zoomed and resized more; a weather or lens that blurs belongs "
    "into the training images",
    flags="--augment.crop-scale 0.08 1.0",
    source="Hendrycks et al. (2021), section 4",
)
COLOUR = Advice(
    text="change brightness, contrast and saturation in training",
    flags="--augment.color-jitter 0.4",
    source="Hendrycks et al. (2020), AugMix; Touvron et al. (2022), colour jitter in 3-Augment",
)
SCALE = Advice(
    text="train on crops of many scales, or fine-tune briefly at the resolution of use",
    flags="--augment.crop-scale 0.08 1.0",
    source="Touvron et al. (2019), train-test resolution",
)
ATTACK = Advice(
    text="only training on such attacks helps against them; augmentation does not, and this "
    "program has no adversarial training",
    flags="",
    source="Madry et al. (2018); Croce et al. (2021), RobustBench",
)
GLOBAL = Advice(
    text="the answer needs the whole shape; crops and cutmix make parts count more",
    flags="--augment.crop-scale 0.08 1.0 --augment.cutmix 1.0",
    source="Naseer et al. (2021), section 3.3; Yun et al. (2019)",
)
DOMAIN = Advice(
    text="add labelled images of the second kind to the training images; more pre-training data "
    "helps most without them",
    flags="--weights REF",
    source="Taori et al. (2020)",
)
COMPRESSION = Advice(
    text="train on copies that are compressed and shrunk as the images in use are; no flag makes "
    "them",
    flags="",
    source="Hendrycks and Dietterich (2019)",
)

SHAPE = Advice(
    text="turn, shear and move training images",
    flags="--augment.policy randaugment --augment.rotate 15",
    source="Cubuk et al. (2020), RandAugment; its gain on elastic changes was not measured",
)

BY_TEST = {
    "occlusion": ERASING,
    "salience": ERASING,
    "permutation": GLOBAL,
    "patch": ATTACK,
    "image-patch": ATTACK,
    "fgsm": ATTACK,
    "pgd": ATTACK,
    "autoattack": ATTACK,
    "corruptions": NOISE,
    "resolutions": SCALE,
    "crops": SCALE,
    "shift": DOMAIN,
}
"""What helps against each test, unless its series says more."""

BY_CORRUPTION = {
    "defocus_blur": BLUR,
    "glass_blur": BLUR,
    "motion_blur": BLUR,
    "zoom_blur": BLUR,
    "gaussian_blur": BLUR,
    "snow": COLOUR,
    "frost": COLOUR,
    "fog": COLOUR,
    "brightness": COLOUR,
    "contrast": COLOUR,
    "saturate": COLOUR,
    "spatter": ERASING,
    "elastic_transform": SHAPE,
    "pixelate": COMPRESSION,
    "jpeg_compression": COMPRESSION,
}


def weaknesses(rows: Sequence[Row]) -> list[Weakness]:
    """Return the curves of one model that lose most accuracy, the worst first.

    Only those that lose more than chance explains: the upper end of the mean's interval is below
    the accuracy on the images as they are.
    """
    curves = list(dict.fromkeys((row.test, row.series) for row in rows))
    found = []
    for test, series in curves:
        own = [row for row in rows if (row.test, row.series) == (test, series)]
        clean, mean = own[0].clean, mean_of(own)
        if series in CONTROLS or mean.high >= clean:
            continue
        worst = min(own, key=lambda row: row.accuracy.value)
        found.append(
            Weakness(
                test=test,
                series=series,
                clean=clean,
                mean=mean.value,
                worst=f"{worst.accuracy.value:.1%} at {worst.text}",
                advice=BY_CORRUPTION.get(series, BY_TEST[test]),
            )
        )
    found.sort(key=lambda point: point.mean - point.clean)
    kept: list[Weakness] = []
    for point in found:
        if sum(other.test == point.test for other in kept) < SHARE.get(point.test, 1):
            kept.append(point)
    return kept[:SHOWN]
