"""The tests by name: a line here is all that a new one takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from tessera.stress.attacking import (
    plan_autoattack,
    plan_fgsm,
    plan_image_patch,
    plan_patch,
    plan_pgd,
)
from tessera.stress.corrupting import plan_corruptions
from tessera.stress.levels import Planned
from tessera.stress.occluding import plan_occlusion, plan_permutation, plan_salience
from tessera.stress.settings import StressSettings
from tessera.stress.shifting import plan_crops, plan_resolutions, plan_shift
from tessera.stress.subject import Subject


@dataclass(frozen=True, kw_only=True)
class StressTest:
    """One kind of stress."""

    title: str
    axis: str
    """What the levels are."""
    protocol: str
    """What is done, by whose word."""
    plan: Callable[[Subject, StressSettings], Planned]
    log: bool = False
    """Whether the levels double rather than add."""


TESTS: dict[str, StressTest] = {
    "occlusion": StressTest(
        title="Random occlusion",
        axis="cells that are black",
        protocol="PatchDrop (Naseer et al., 2021): random cells of a grid are 0 before "
        "normalisation, the same for up to 256 images, the mean of several draws",
        plan=plan_occlusion,
    ),
    "salience": StressTest(
        title="Occlusion by salience",
        axis="salience that is black",
        protocol="salient and non-salient PatchDrop (Naseer et al., 2021): the cells that hold the "
        "top or the bottom share of the salience; one run",
        plan=plan_salience,
    ),
    "permutation": StressTest(
        title="Permutation",
        axis="cells in random order",
        protocol="cells of a grid in random order, another for each image (Naseer et al., 2021)",
        plan=plan_permutation,
        log=True,
    ),
    "patch": StressTest(
        title="Universal patch",
        axis="area of the patch",
        protocol="one adversarial square at random places (Brown et al., 2017; areas and runs of "
        "Naseer et al., 2021); noise is a square that nobody optimised",
        plan=plan_patch,
    ),
    "image-patch": StressTest(
        title="Patch for each image",
        axis="area of the patch",
        protocol="a square of free pixels at a random place, FGSM of 1 step and PGD of 5 "
        "(Naseer et al., 2021)",
        plan=plan_image_patch,
    ),
    "fgsm": StressTest(
        title="FGSM",
        axis="largest change of a pixel, in 255ths",
        protocol="x + eps sign(grad) (Goodfellow et al., 2015), normalisation inside the model",
        plan=plan_fgsm,
    ),
    "pgd": StressTest(
        title="PGD",
        axis="largest change of a pixel, in 255ths",
        protocol="projected gradient steps from random starts (Madry et al., 2018), normalisation "
        "inside the model; an upper bound on robust accuracy",
        plan=plan_pgd,
    ),
    "autoattack": StressTest(
        title="AutoAttack",
        axis="largest change of a pixel, in 255ths",
        protocol="the ensemble of Croce and Hein (2020), normalisation inside the model",
        plan=plan_autoattack,
    ),
    "corruptions": StressTest(
        title="Corruptions",
        axis="severity",
        protocol="corruptions of Hendrycks and Dietterich (2019), made anew at the size that the "
        "model sees",
        plan=plan_corruptions,
    ),
    "resolutions": StressTest(
        title="Other resolutions",
        axis="side of the image, as a share of the model's own",
        protocol="the whole image is resized to another side, and the model runs at that",
        plan=plan_resolutions,
    ),
    "crops": StressTest(
        title="Other crops",
        axis="share of the short side that is left",
        protocol="a centre crop of a share of the short side, at the model's own size",
        plan=plan_crops,
    ),
    "shift": StressTest(
        title="Another data set",
        axis="data set",
        protocol="images from elsewhere, classes matched by name",
        plan=plan_shift,
    ),
}

ASKED_FOR = ("autoattack", "shift")
"""Tests that run only when they are named: one needs a library, the other a second data set."""


def choose_tests(names: Sequence[str], *, shift: bool) -> tuple[str, ...]:
    """Return the tests that are meant, in their order; without names all that need nothing more.

    Args:
        shift: Whether a second data set is given.

    Raises:
        ValueError: No such test, or ``shift`` without data.
    """
    for name in names:
        if name not in TESTS:
            close = get_close_matches(name, TESTS, n=1)
            guess = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(f"unknown test {name!r}\nhint: {guess}tests are {', '.join(TESTS)}")
    if "shift" in names and not shift:
        raise ValueError("the test shift needs a second data set\nhint: name it with --shift DATA2")
    wanted = {*(names or [name for name in TESTS if name not in ASKED_FOR])}
    if shift:
        wanted.add("shift")
    return tuple(name for name in TESTS if name in wanted)
