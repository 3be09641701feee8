"""The tables of a recipe: data, augmentation, optimizer, schedule, teacher."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Policy = Literal[
    "none",
    "randaugment",
    "randaugment-big-vision",
    "randaugment-timm",
    "trivialaugment",
    "autoaugment-cifar",
    "autoaugment-imagenet",
    "three-augment",
]

Rule = tuple[str, Callable[[Any], bool]]
"""What is wanted of a value, in words and as a test, which NaN fails."""

AT_LEAST_1: Rule = ("at least 1", lambda n: n >= 1)
POSITIVE: Rule = ("greater than 0 and finite", lambda x: 0 < x < math.inf)
NOT_NEGATIVE: Rule = ("at least 0 and finite", lambda x: 0 <= x < math.inf)
SHARE: Rule = ("in [0, 1]", lambda x: 0 <= x <= 1)
SHARES: Rule = (
    "a low and a high with 0 < low <= high <= 1",
    lambda pair: 0 < pair[0] <= pair[1] <= 1,
)
RATIOS: Rule = (
    "a low and a high with 0 < low <= high",
    lambda pair: 0 < pair[0] <= pair[1] < math.inf,
)


def require(table: Any, name: str, rule: Rule) -> None:
    """Refuse, before a run, a value that would break it later; None is always fine."""
    wanted, holds = rule
    value = getattr(table, name.rpartition(".")[2])
    if value is not None and not holds(value):
        raise ValueError(f"{name}={value} must be {wanted}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    """Which images are seen, and how many at a time."""

    batch_size: int | Literal["auto"] = 64
    """Images per optimizer step, over all devices and micro-batches; auto finds what fits."""
    micro_batch_size: int | None = None
    """Images per forward pass; changes memory, never results. None is the whole batch."""
    eval_batch_size: int = 256
    """Images per forward pass when measuring."""
    workers: int | None = None
    """Processes that decode images; 0 is none, None fits the machine and the data."""
    val_fraction: float = 0.15
    """Share of the training images kept for validation where the data has no such split."""
    folds: int | None = None
    """Cut the training images into so many folds instead, one of which is validation."""
    fold: int = 0
    """Which of the folds that is, from 0."""
    near_duplicates: bool | None = None
    """Keep images that look alike on one side of that cut; None does so up to 20,000 images."""
    exclude: str | None = None
    """A CSV whose column ``image`` names images to leave out, such as the doctor's."""
    crop: Literal["auto", "crop", "squash", "letterbox", "native"] = "auto"
    """How evaluation makes images of any shape fit; auto does as the weights want it, else crop."""
    balanced: bool = False
    """Draw every class equally often, the images of rare ones again and again."""
    bad_share: float = 0.05
    """Share of images that may be unreadable: they are named and replaced; more ends the run."""

    def __post_init__(self) -> None:
        for name in ("data.micro_batch_size", "data.eval_batch_size"):
            require(self, name, AT_LEAST_1)
        if self.batch_size != "auto":
            require(self, "data.batch_size", AT_LEAST_1)
        require(self, "data.folds", ("at least 2", lambda n: n >= 2))
        require(self, "data.bad_share", SHARE)
        if not 0 <= self.fold < (self.folds or 1):
            raise ValueError(
                f"data.fold={self.fold} must be at least 0 and below data.folds={self.folds}"
            )
        require(self, "data.workers", NOT_NEGATIVE)
        require(self, "data.val_fraction", ("between 0 and 1", lambda x: 0 < x < 1))

    @property
    def images_per_step(self) -> int:
        """``batch_size`` as a number, which it is in a run."""
        if self.batch_size == "auto":
            raise ValueError("data.batch_size=auto must be decided first\nhint: give a number")
        return self.batch_size


@dataclass(frozen=True, kw_only=True, slots=True)
class Augment:
    """What is done to a training image, and to no other."""

    crop_scale: tuple[float, float] | None = None
    """Share of the area that a random resized crop keeps (Szegedy et al., 2015); None: no crop."""
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)
    """Aspect ratios of that crop."""
    flip: float = 0.0
    """Probability of a left-right flip."""
    shift: float = 0.0
    """Largest translation, as a share of the side."""
    rotate: float = 0.0
    """Largest rotation, in degrees."""
    zoom: float = 0.0
    """Largest change of scale: 0.1 is between 1/1.1 and 1.1."""
    policy: Policy = "none"
    """Published mixture of operations on shape and colour; see docs/guides/data.md."""
    num_ops: int = 2
    """Operations that a RandAugment applies to an image."""
    magnitude: float = 9.0
    """Strength of a RandAugment; the scale is the policy's own, 10 is much."""
    augreg: Literal["none", "light1", "light2", "medium1", "medium2", "strong1", "strong2"] = "none"
    """A level of "How to train your ViT?" (Steiner et al., 2021): sets policy and mixup."""
    color_jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation."""
    erasing: float = 0.0
    """Probability that a rectangle is filled with noise (Zhong et al., 2020)."""
    repeats: int = 1
    """Versions of an image in the same stretch of batches (Hoffer et al., 2020)."""
    mixup: float = 0.0
    """Beta-distribution parameter of mixup (Zhang et al., 2018); 0 is off."""
    cutmix: float = 0.0
    """Beta-distribution parameter of cutmix (Yun et al., 2019); 0 is off."""
    mix_prob: float = 1.0
    """Share of the batches that are mixed at all."""
    mix_switch: float = 0.5
    """Where both are on, share of the mixed batches that get cutmix."""
    on_device: bool = False
    """Crop, flip, move and erase whole batches on the training device instead of image by image."""

    def __post_init__(self) -> None:
        for name in ("flip", "shift", "erasing", "mix_prob", "mix_switch"):
            require(self, f"augment.{name}", SHARE)
        for name in ("rotate", "zoom", "mixup", "cutmix", "magnitude", "color_jitter"):
            require(self, f"augment.{name}", NOT_NEGATIVE)
        for name in ("augment.num_ops", "augment.repeats"):
            require(self, name, AT_LEAST_1)
        if self.augreg != "none" and (self.policy != "none" or self.mixup):
            raise ValueError(
                f"augment.augreg={self.augreg} sets policy and mixup, which are given as well"
            )
        if self.on_device and (self.policy, self.augreg, self.color_jitter) != ("none", "none", 0):
            raise ValueError(
                "augment.on_device knows crop, flip, moves and erasing, not policies or colours"
            )
        require(self, "augment.crop_scale", SHARES)
        require(self, "augment.crop_ratio", RATIOS)


@dataclass(frozen=True, kw_only=True, slots=True)
class Optim:
    """The optimizer and what surrounds it."""

    name: Literal["adamw", "adam", "nadam", "radam", "sgd", "adafactor", "muon"] = "adamw"
    """PyTorch's; muon orthogonalises the matrices of the blocks and leaves the rest to adamw."""
    momentum: float = 0.9
    """Of sgd and muon."""
    nesterov: bool = False
    """Look-ahead momentum, for sgd."""
    lr: float = 1e-3
    """Peak learning rate, as the optimizer sees it; never rescaled behind your back."""
    weight_decay: float = 0.05
    """Multiplied by the rate, and applied to matrices only: not to biases, norms and tokens."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the running averages of the gradient and of its square."""
    clip_grad_norm: float | None = 1.0
    """Largest norm of the whole gradient; None is off."""
    layer_decay: float = 1.0
    """Factor on the rate from each block to the one below (Clark et al., 2020); 1 is off."""
    ema_decay: float | None = None
    """Average the weights over steps with this decay, and use the average; None is off."""
    average_from: float | None = None
    """Use the plain mean of the weights of all steps after this share of the run (Polyak and
    Juditsky, 1992); None is off."""
    sam_rho: float = 0.0
    """Radius of sharpness-aware minimisation (Foret et al., 2021), which takes two passes a step;
    0 is off."""
    head_only_epochs: float = 0.0
    """Passes at the beginning in which only the head learns, so that it is not the backbone that
    follows a random head."""

    def __post_init__(self) -> None:
        require(self, "optim.lr", POSITIVE)
        require(self, "optim.momentum", ("in [0, 1)", lambda x: 0 <= x < 1))
        if self.nesterov and not self.momentum:
            raise ValueError("optim.nesterov wants optim.momentum greater than 0")
        require(self, "optim.clip_grad_norm", POSITIVE)
        for name in ("optim.weight_decay", "optim.head_only_epochs"):
            require(self, name, NOT_NEGATIVE)
        require(self, "optim.layer_decay", POSITIVE)
        require(self, "optim.ema_decay", SHARE)
        require(self, "optim.average_from", ("in [0, 1)", lambda x: 0 <= x < 1))
        if self.ema_decay is not None and self.average_from is not None:
            raise ValueError(
                f"optim.ema_decay={self.ema_decay} and optim.average_from={self.average_from} "
                "are two averages\nhint: give one of them"
            )
        require(self, "optim.sam_rho", NOT_NEGATIVE)
        each = ("in [0, 1), each", lambda pair: all(0 <= beta < 1 for beta in pair))
        require(self, "optim.betas", each)


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """Learning rate over steps."""

    epochs: float = 30.0
    """Passes over the training images; steps are round(images / batch_size * epochs)."""
    total_steps: int | None = None
    """Optimizer steps; when given, epochs is not read."""
    warmup_steps: int = 50
    """Steps of linear growth from 0 to the peak; at most a fifth of all."""
    shape: Literal["cosine", "linear", "constant", "rsqrt"] = "cosine"
    """Way down from the peak; rsqrt falls with the root of the steps since warm-up began."""
    cooldown_steps: int = 0
    """Last steps of constant and rsqrt, in which the rate falls linearly to the final one."""
    final_lr: float = 0.0
    """Rate after the last step."""

    def __post_init__(self) -> None:
        require(self, "schedule.epochs", POSITIVE)
        require(self, "schedule.total_steps", AT_LEAST_1)
        for name in ("schedule.warmup_steps", "schedule.cooldown_steps"):
            require(self, name, NOT_NEGATIVE)
        require(self, "schedule.final_lr", NOT_NEGATIVE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Distill:
    """A trained model that teaches the new one (Hinton et al., 2015)."""

    teacher: str | None = None
    """Any MODEL that knows the classes of the data; None is off."""
    kind: Literal["hard", "soft"] = "hard"
    """hard learns the teacher's answer as a label (Touvron et al., 2021), soft its probabilities;
    with arch.dist_token and arch.dist_head it is the distillation token's head that does."""
    weight: float = 0.5
    """Share of the loss that is the teacher's."""
    temperature: float = 3.0
    """Divides the logits of both before they are compared; for soft."""

    def __post_init__(self) -> None:
        require(self, "distill.weight", SHARE)
        require(self, "distill.temperature", POSITIVE)
