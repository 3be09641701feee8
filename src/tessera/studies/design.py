"""What a study is, as data: a question, variants of a recipe, and claims with their rules."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tessera.config import ViTConfig
from tessera.models.variants import parse
from tessera.recipe import Recipe, merge, nested
from tessera.studies.rules import Outcomes, Verdict


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train, compared with the others of its study."""

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the recipe, such as ``{"arch.pos_embed": "none"}``."""
    share: float = 1.0
    """Of the training images."""
    curve: str = ""
    """Which curve of the plot it is a point of."""
    x: float | None = None
    """Where on the axis of the plot; None where the study has no axis."""

    def recipe(self, base: Recipe, seed: int) -> Recipe:
        """Return the recipe that this variant is trained by.

        Raises:
            ValueError: The base recipe cannot be changed so.
        """
        try:
            return merge(base, {**nested(dict(self.changes)), "seed": seed})
        except ValueError as error:
            raise ValueError(f"variant {self.name}: {error}") from error

    def config(self, base: Recipe, classes: int) -> ViTConfig:
        """Return the model that this variant trains.

        Raises:
            ValueError: There can be no such model.
        """
        recipe = self.recipe(base, 0)
        try:
            return parse(recipe.model, num_classes=classes, **recipe.arch.given())
        except ValueError as error:
            raise ValueError(f"variant {self.name}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Base:
    """What the variants of a study are changes of."""

    recipe: Recipe
    config: ViTConfig
    """Of the recipe's own model."""
    places: bool = False
    """Whether positions are compared at every place that they have."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What somebody found elsewhere, and the rule that says whether it holds here."""

    text: str
    source: str
    rule: str
    """The rule in words."""
    decide: Callable[[Outcomes], Verdict]
    is_about_all: bool = False
    """Whether it cannot hold unless every variant of the study is trained."""


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The horizontal axis of the plot."""

    label: str
    is_log: bool = True


@dataclass(frozen=True, kw_only=True)
class Study:
    """A question, what varies, and what is claimed."""

    title: str
    question: str
    varies: str
    variants: Callable[[Base], Sequence[Variant]]
    claims: tuple[Claim, ...]
    seeds: int = 3
    """How many, where nobody says which."""
    chooses: bool = False
    """Whether a rule chooses by the validation images, so that others must be measured."""
    axis: Axis | None = None
    shows: Literal["accuracy", "cost"] = "accuracy"
    """Whether the plot shows time and memory as well."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Changes of a shipped recipe, by its name, before any flag."""
