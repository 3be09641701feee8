"""All trainings of a study, made and checked before the first of them begins."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache, cached_property

import torch

from tessera.benchmarking.counts import count_macs
from tessera.config import NETWORKS, ViTConfig
from tessera.data.splits import DataSplits
from tessera.models.variants import parse
from tessera.models.vit import ViT
from tessera.optim.schedule import total_steps
from tessera.recipe import Recipe, default_recipe_name, merge, nested
from tessera.recipe import load as load_recipe
from tessera.report.facts import count_parameters
from tessera.studies.catalogue import STUDIES
from tessera.studies.design import Base, Study, Variant

STEP_OVERHEAD = 1e6
"""What reading and augmenting an image costs, counted in multiply-accumulates."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A variant with the facts of its model."""

    variant: Variant
    config: ViTConfig
    parameters: int
    macs: int
    """Multiply-accumulates of one image."""
    images: int
    """Training images."""

    @property
    def tokens(self) -> int:
        """Tokens in the encoder; of a network without one, places of its last feature map."""
        height, width = self.config.grid
        specials = self.config.positioned_prefix + self.config.num_registers
        return height * width + (specials if self.config.depth else 0)

    @property
    def attention_share(self) -> float:
        """Share of the multiply-accumulates that grows with the square of the tokens.

        Queries with keys and weights with values: 2 N^2 D in every block, for all pairs.
        """
        products = 2 * self.tokens**2 * self.config.attention_dim * self.config.depth
        return products / self.macs


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training."""

    subject: Subject
    seed: int
    recipe: Recipe

    @property
    def key(self) -> str:
        """What the journal calls it."""
        return f"{self.subject.variant.name}/seed {self.seed}"

    @property
    def text(self) -> str:
        """What a person calls it."""
        return f"{self.subject.variant.name}, seed {self.seed}"

    @cached_property
    def cost(self) -> float:
        """How long it takes, in units of no meaning."""
        recipe = self.recipe
        batch = recipe.data.images_per_step
        steps = total_steps(recipe.schedule, self.subject.images, batch)
        return steps * batch * (self.subject.macs + STEP_OVERHEAD)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A study on some data: what is trained, in this order."""

    name: str
    study: Study
    recipe: Recipe
    """Of which the variants are changes."""
    seeds: tuple[int, ...]
    subjects: tuple[Subject, ...]
    train_images: int
    """Drawn from the training split, of which variants may take a part."""
    left_out: int
    """Variants of the study that are not trained."""

    def trials(self) -> list[Trial]:
        """Return every training: all variants with the first seed, then with the next."""
        return [
            Trial(
                subject=subject,
                seed=seed,
                recipe=subject.variant.recipe(self.recipe, seed),
            )
            for seed in self.seeds
            for subject in self.subjects
        ]


def find_study(name: str) -> Study:
    """Return a study by its name.

    Raises:
        ValueError: There is none of this name.
    """
    if name not in STUDIES:
        close = get_close_matches(name, STUDIES, n=1, cutoff=0.5)
        guess = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"no study {name!r}\nhint: {guess}studies are {', '.join(STUDIES)}")
    return STUDIES[name]


def study_recipe(name: str, data: str, ref: str | None = None) -> Recipe:
    """Return the recipe of a study, before any flag: the one named, or the one for such data."""
    study = find_study(name)
    ref = ref or study_recipe_name(data)
    return merge(load_recipe(ref), nested(dict(study.settings.get(ref, {}))))


def study_recipe_name(data: str) -> str:
    """Return the name of the shipped recipe for a study on such data."""
    usual = default_recipe_name(data)
    return usual if usual == data else "study"


def make_plan(
    name: str,
    recipe: Recipe,
    splits: DataSplits,
    *,
    variants: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    train_images: int | None = None,
    places: bool = False,
) -> Plan:
    """Make every training of a study.

    Args:
        variants: Names of those to train; all by default.
        seeds: The recipe's seed and those after it by default, as many as the study says.
        train_images: How many to draw from the training images; all by default.

    Raises:
        ValueError: Some training cannot be; the message says which, and what to do.
    """
    study = find_study(name)
    _check_recipe(recipe, splits)
    seeds = _checked_seeds(seeds, recipe.seed, study.seeds)
    have = len(splits["train"])
    count = have if train_images is None else train_images
    classes = len(splits.class_names)
    if not classes <= count <= have:
        raise ValueError(
            f"--train-images {count}: {splits.spec} has {have:,} training images of {classes} "
            f"classes\nhint: give a number from {classes} to {have}"
        )
    recipe = _as_the_protocol_says(recipe, count)
    config = parse(recipe.model, num_classes=classes, **recipe.arch.given())
    if config.patch_embed in NETWORKS:
        raise ValueError(
            f"{recipe.model} has no encoder, and a study changes one\n"
            "hint: give a Vision Transformer with --model or --recipe"
        )
    if places and name != "positions":
        raise ValueError(f"--places is for positions, and {name} has none\nhint: leave it out")
    if study.chooses and "test" not in splits.splits:
        raise ValueError(
            f"{name} chooses by the validation images, and {splits.spec} has no others to measure "
            "on\nhint: give the data a test split"
        )
    found = study.variants(Base(recipe=recipe, config=config, places=places))
    subjects = _subjects(_chosen(found, variants), recipe, classes, count)
    return Plan(
        name=name,
        study=study,
        recipe=recipe,
        seeds=seeds,
        subjects=subjects,
        train_images=count,
        left_out=len(found) - len(subjects),
    )


def _check_recipe(recipe: Recipe, splits: DataSplits) -> None:
    if splits.task != "classify":
        raise ValueError(f"{splits.spec} is labelled for {splits.task}, and a study classifies")
    if recipe.weights not in ("none", "auto"):
        raise ValueError(
            f"--weights {recipe.weights}: a study trains from scratch\nhint: --weights none"
        )
    if recipe.objective != "classify" or recipe.distill.teacher is not None:
        raise ValueError(
            "a study trains with labels alone\nhint: leave --objective and --distill.teacher out"
        )
    recipe.data.images_per_step  # noqa: B018 (refuses auto)


def _as_the_protocol_says(recipe: Recipe, images: int) -> Recipe:
    """From scratch, equally long for all, without validation images choosing when to stop."""
    steps = total_steps(recipe.schedule, images, recipe.data.images_per_step)
    schedule = replace(recipe.schedule, total_steps=steps)
    return replace(recipe, weights="none", eval_every=1e6, patience=None, schedule=schedule)


def _checked_seeds(seeds: Sequence[int] | None, first: int, count: int) -> tuple[int, ...]:
    found = tuple(range(first, first + count)) if seeds is None else tuple(seeds)
    if not found or min(found) < 0 or len(set(found)) < len(found):
        raise ValueError(
            f"seeds {', '.join(map(str, found)) or 'none'} must be different numbers from 0\n"
            "hint: such as --seeds 0 1 2"
        )
    return found


def _chosen(found: Sequence[Variant], names: Sequence[str] | None) -> list[Variant]:
    """Return the variants of these names, in the order of the study."""
    if names is None:
        return list(found)
    known = [variant.name for variant in found]
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            guess = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(
                f"the study has no variant {name!r}\nhint: {guess}variants are {', '.join(known)}"
            )
    if not names:
        raise ValueError("no variants are left\nhint: leave --variants out for all")
    return [variant for variant in found if variant.name in names]


def _subjects(
    variants: Sequence[Variant], recipe: Recipe, classes: int, images: int
) -> tuple[Subject, ...]:
    """Build every model, without numbers in it, so that what cannot be is said now.

    Raises:
        ValueError: Some cannot; one message names every such variant.
    """
    found, problems = [], []
    for variant in variants:
        count = max(1, round(variant.share * images))
        try:
            if count < classes:
                raise ValueError(
                    f"variant {variant.name}: {count} images cannot show {classes} classes\n"
                    "hint: more with --train-images"
                )
            found.append(_subject(variant, recipe, classes, count))
        except ValueError as error:
            problems.append(str(error))
    if problems:
        names = [v.name for v in variants if not any(f"variant {v.name}:" in p for p in problems)]
        way = f"\nhint: or leave these out with --variants {' '.join(names)}" if names else ""
        raise ValueError("\n".join(problems) + way)
    return tuple(found)


def _subject(variant: Variant, recipe: Recipe, classes: int, images: int) -> Subject:
    config = variant.config(recipe, classes)
    try:
        parameters, macs = _counts(config)
    except ValueError as error:
        raise ValueError(f"variant {variant.name}: {error}") from error
    return Subject(variant=variant, config=config, parameters=parameters, macs=macs, images=images)


@cache
def _counts(config: ViTConfig) -> tuple[int, int]:
    """Return parameters and multiply-accumulates of a model, which variants may have in common."""
    with torch.device("meta"):
        parameters = count_parameters(ViT(config))
    return parameters, count_macs(config)
