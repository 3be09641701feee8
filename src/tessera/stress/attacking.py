"""Tests with changes that are made to mislead: patches, FGSM, PGD, AutoAttack."""

import zlib
from collections.abc import Callable

import torch
from torch import Tensor

from tessera.robustness.attacks import fgsm, pgd
from tessera.robustness.autoattack import attacks_for, autoattack, require_autoattack
from tessera.robustness.patch_attack import (
    BATCH,
    PGD_STEPS,
    draw_corners,
    patch_of_image,
    patch_side,
    place_patch,
    universal_patch,
)
from tessera.stress.levels import Level, Planned, percent
from tessera.stress.settings import StressSettings
from tessera.stress.subject import Found, Subject, as_floats, read_pixels

BACKWARD = 3
"""Passes that a gradient costs, the forward one included."""

Attack = Callable[[Tensor, Tensor, slice], Tensor]
"""From pixels, labels and places to pixels that mislead."""


def plan_patch(subject: Subject, settings: StressSettings) -> Planned:
    """Universal patches: untargeted, targeted, and of noise, which shows what mere hiding does."""
    assert subject.fitting is not None
    planned = Planned(
        notes=[
            f"made from {len(subject.fitting):,} other images in {settings.patch_steps} steps of "
            f"{min(BATCH, len(subject.fitting))}, at random places; mean of "
            f"{settings.patch_runs} patches"
        ]
    )
    known: list[tuple[Tensor, Tensor]] = []
    for area in settings.areas:
        side = _side(subject, area, planned)
        if side is None:
            continue
        for series in ("noise", "untargeted", "targeted"):
            planned.levels.append(_universal(subject, settings, area, side, series, known))
    return planned


def _universal(
    subject: Subject,
    settings: StressSettings,
    area: float,
    side: int,
    series: str,
    known: list[tuple[Tensor, Tensor]],
) -> Level:
    runs, steps = settings.patch_runs, 0 if series == "noise" else settings.patch_steps
    classes = len(subject.data.class_names)

    def measure() -> Found:
        if not known:
            assert subject.fitting is not None
            pixels = read_pixels(subject.fitting, subject.preprocessing)
            known.append((pixels, torch.from_numpy(subject.fitting.labels)))
        logits, success = [], []
        for run in range(runs):
            rng = subject.rng(f"patch {series}", side, run)
            target = int(rng.integers(classes)) if series == "targeted" else None
            patch = universal_patch(
                subject.net,
                as_floats(known[0][0], subject.device),
                known[0][1].to(subject.device),
                rng,
                side=side,
                steps=steps,
                target=target,
            )
            subject.advance(steps * BATCH * BACKWARD)

            def change(
                pixels: Tensor, rows: slice, patch: Tensor = patch, run: int = run
            ) -> Tensor:
                rngs = subject.rngs(f"place {side} {run}", rows)
                return place_patch(pixels, patch, draw_corners(subject.size, side, rngs))

            logits.append(subject.answers(change))
            if target is not None:
                others = subject.data.labels != target
                success.append(float((logits[-1].argmax(axis=1) == target)[others].mean()))
        extra = {"success": sum(success) / len(success)} if success else {}
        return subject.found(logits, **extra)

    return Level(
        series=series,
        value=area,
        text=percent(area),
        passes=runs * (steps * BATCH * BACKWARD + len(subject.data)),
        measure=measure,
    )


def plan_image_patch(subject: Subject, settings: StressSettings) -> Planned:
    """Patches made for every image: FGSM and PGD, untargeted and targeted."""
    planned = _attacked(subject, settings)
    for area in settings.areas:
        side = _side(subject, area, planned)
        if side is None:
            continue
        for name, steps in (("FGSM", 1), ("PGD", PGD_STEPS)):
            for targeted in (False, True):

                def attack(
                    pixels: Tensor,
                    labels: Tensor,
                    rows: slice,
                    side: int = side,
                    steps: int = steps,
                    targeted: bool = targeted,
                ) -> Tensor:
                    corners = draw_corners(subject.size, side, subject.rngs(f"at {side}", rows))
                    return patch_of_image(
                        subject.net,
                        pixels,
                        labels,
                        subject.generators(f"patch {side}", rows),
                        corners,
                        side=side,
                        steps=steps,
                        targeted=targeted,
                    )

                series = f"{name}, targeted" if targeted else name
                level = area, percent(area)
                planned.levels.append(
                    _level(subject, settings, series, level, steps, attack, targeted)
                )
    return planned


def plan_fgsm(subject: Subject, settings: StressSettings) -> Planned:
    """One step of the gradient's sign."""
    planned = _attacked(subject, settings)
    for eps in settings.eps:

        def attack(pixels: Tensor, labels: Tensor, rows: slice, eps: float = eps) -> Tensor:
            return fgsm(subject.net, pixels, labels, eps=eps / 255)

        level = eps, f"{eps:g}/255"
        planned.levels.append(_level(subject, settings, "FGSM", level, 1, attack))
    return planned


def plan_pgd(subject: Subject, settings: StressSettings) -> Planned:
    """Projected gradient steps from random starts."""
    planned = _attacked(subject, settings)
    tries = f"{settings.restarts} random start{'s' if settings.restarts > 1 else ''}"
    planned.notes.append(f"{settings.steps} steps of eps/4 from {tries}")
    for eps in settings.eps:

        def attack(pixels: Tensor, labels: Tensor, rows: slice, eps: float = eps) -> Tensor:
            return pgd(
                subject.net,
                pixels,
                labels,
                subject.generators(f"pgd {eps:g}", rows),
                eps=eps / 255,
                steps=settings.steps,
                restarts=settings.restarts,
            )

        steps = settings.steps * settings.restarts
        series = f"PGD-{settings.steps}"
        level = eps, f"{eps:g}/255"
        planned.levels.append(_level(subject, settings, series, level, steps, attack))
    return planned


def plan_autoattack(subject: Subject, settings: StressSettings) -> Planned:
    """AutoAttack, from its library."""
    require_autoattack()
    classes = len(subject.data.class_names)
    planned = _attacked(subject, settings)
    planned.notes.append(f"{', '.join(attacks_for(classes))}, of pyautoattack")
    count = subject.count(settings.attacked)
    for eps in settings.eps:

        def measure(eps: float = eps) -> Found:
            changed = autoattack(
                subject.net,
                as_floats(subject.pixels[:count], subject.device),
                torch.from_numpy(subject.data.labels[:count]).to(subject.device),
                eps=eps / 255,
                classes=classes,
                seed=subject.seed + zlib.crc32(b"autoattack") % 1000,
            )
            logits = subject.answers(lambda _, rows: changed[rows], images=count)
            return subject.found([logits])

        planned.levels.append(
            Level(
                series="AutoAttack",
                value=eps,
                text=f"{eps:g}/255",
                passes=count,  # of thousands, which nobody knows before
                measure=measure,
            )
        )
    return planned


def _level(
    subject: Subject,
    settings: StressSettings,
    series: str,
    level: tuple[float, str],
    steps: int,
    attack: Attack,
    targeted: bool = False,
) -> Level:
    """One attack with gradients on the images that are attacked."""
    count, cost = subject.count(settings.attacked), steps * BACKWARD + 1
    true = torch.from_numpy(subject.data.labels[:count])
    wanted = _other_classes(subject, count) if targeted else true

    def measure() -> Found:
        def change(pixels: Tensor, rows: slice) -> Tensor:
            return attack(pixels, wanted[rows].to(pixels.device), rows)

        logits = subject.answers(change, images=count, cost=cost)
        extra = {}
        if targeted:
            extra["success"] = float((logits.argmax(axis=1) == wanted.numpy()).mean())
        return subject.found([logits], **extra)

    value, text = level
    return Level(series=series, value=value, text=text, passes=cost * count, measure=measure)


def _other_classes(subject: Subject, count: int) -> Tensor:
    """Draw for each image a class that is not its own."""
    classes = len(subject.data.class_names)
    steps = [int(r.integers(1, classes)) for r in subject.rngs("target", slice(0, count))]
    return (torch.from_numpy(subject.data.labels[:count]) + torch.tensor(steps)) % classes


def _attacked(subject: Subject, settings: StressSettings) -> Planned:
    count = subject.count(settings.attacked)
    if count == len(subject.data):
        return Planned()
    return Planned(notes=[f"on {count:,} of the {len(subject.data):,} images"])


def _side(subject: Subject, area: float, planned: Planned) -> int | None:
    """The side of a patch, or a note why there is none."""
    try:
        return patch_side(area, subject.size)
    except ValueError as error:
        planned.notes.append(str(error))
        return None
