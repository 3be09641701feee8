"""What a study would train, and what it refuses before any work."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from tessera.config import POS_PLACES
from tessera.data.holdout import load_data
from tessera.data.splits import DataSplits
from tessera.models.variants import parse
from tessera.recipe import Recipe, load, merge, nested
from tessera.studies.catalogue import STUDIES
from tessera.studies.design import Base
from tessera.studies.images import draw_nested
from tessera.studies.plan import Plan, find_study, make_plan, study_recipe

COUNTS = {
    "positions": 12,
    "pooling": 8,
    "patch-size": 4,
    "data-size": 12,
    "augmentation": 6,
    "drop-path": 6,
    "attention": 9,
}


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return load_data("digits")


@pytest.fixture(scope="module")
def plans(digits: DataSplits) -> dict[str, Plan]:
    names = ("pooling", "patch-size", "data-size", "augmentation", "drop-path")  # the quick ones
    return {name: make_plan(name, study_recipe(name, "digits"), digits) for name in names}


def test_every_study_has_its_variants(plans: dict[str, Plan]) -> None:
    base = Base(recipe=plans["pooling"].recipe, config=plans["patch-size"].subjects[1].config)
    assert {name: len(study.variants(base)) for name, study in STUDIES.items()} == COUNTS
    for plan in plans.values():
        names = [subject.variant.name for subject in plan.subjects]
        assert len(set(names)) == len(names)
        assert len(plan.trials()) == 3 * len(names)
        assert len({trial.key for trial in plan.trials()}) == 3 * len(names)


def test_seeds_begin_with_the_recipes_and_are_as_many_as_the_study_says(
    digits: DataSplits,
) -> None:
    recipe = replace(study_recipe("positions", "digits"), seed=7)
    plan = make_plan("positions", recipe, digits, variants=["none", "learned"])
    assert plan.seeds == (7, 8, 9, 10, 11)
    assert make_plan("positions", recipe, digits, seeds=[2], variants=["none"]).seeds == (2,)


def test_what_the_protocol_says_holds_for_any_recipe(digits: DataSplits) -> None:
    recipe = load("finetune")
    assert (recipe.weights, recipe.schedule.total_steps) == ("auto", None)
    arch = {"arch.img_size": 16, "arch.patch_size": 4, "arch.in_chans": 1, "patience": 2}
    recipe = merge(recipe, nested({**arch, "model": "vit_mu_patch4_16"}))
    plan = make_plan("data-size", recipe, digits, variants=["vit 10 %", "vit 100 %"])
    trained = [trial.recipe for trial in plan.trials()]
    assert {one.weights for one in trained} == {"none"}
    assert {one.patience for one in trained} == {None}
    assert {one.eval_every for one in trained} == {1e6}, "the last model is the one measured"
    steps = {one.schedule.total_steps for one in trained}
    assert len(steps) == 1, "as many for a tenth of the images as for all"
    assert None not in steps
    assert plan.left_out == 10


def test_patterns_are_at_equal_depth_but_for_the_one_that_says_so(digits: DataSplits) -> None:
    plan = make_plan("attention", study_recipe("attention", "digits"), digits)
    found = {s.variant.name: s.config for s in plan.subjects}
    assert {name: config.depth for name, config in found.items()} == {
        **dict.fromkeys(found, 4),
        "axial_twice": 8,
    }
    windows = {name: found[name].attention_window for name in ("local", "window")}
    assert windows == {"local": 3, "window": 2}, "on a grid of 4 x 4"
    names = {name: config.attention for name, config in found.items()}
    assert names == {**{name: name for name in found}, "axial_twice": "axial"}


def test_pooling_wants_images_that_choose_nothing(digits: DataSplits) -> None:
    splits = {name: part for name, part in digits.splits.items() if name != "test"}
    with pytest.raises(ValueError, match="has no others to measure on\nhint: give the data a"):
        make_plan("pooling", study_recipe("pooling", "digits"), replace(digits, splits=splits))


def test_variants_differ_only_in_what_they_say(plans: dict[str, Plan]) -> None:
    for plan in plans.values():
        for trial in plan.trials():
            changes = nested(dict(trial.subject.variant.changes))
            assert trial.recipe == merge(plan.recipe, {**changes, "seed": trial.seed})


def test_digits_are_not_mirrored(plans: dict[str, Plan]) -> None:
    for plan in plans.values():
        assert {trial.recipe.augment.flip for trial in plan.trials()} == {0.0}


def test_models_of_a_study_are_of_like_size(plans: dict[str, Plan]) -> None:
    """Measured: a ResNet of 0.86, a hybrid of 1.13 times the transformer's parameters."""
    whole = {s.variant.curve: s for s in plans["data-size"].subjects if s.variant.share == 1}
    own = whole["vit"].parameters
    assert all(0.8 < subject.parameters / own < 1.2 for subject in whole.values())
    assert [s.images for s in plans["data-size"].subjects[:4]] == [122, 244, 611, 1222]


def test_the_part_that_is_quadratic_is_counted(plans: dict[str, Plan]) -> None:
    """Products of queries with keys and of weights with values: 2 N^2 D in each of 4 blocks."""
    for subject in plans["patch-size"].subjects:
        products = 4 * 2 * subject.tokens**2 * 64
        assert subject.attention_share * subject.macs == pytest.approx(products)
    shares = [subject.attention_share for subject in plans["patch-size"].subjects]
    assert shares == sorted(shares)


def test_positions_at_every_place(digits: DataSplits) -> None:
    names = [
        f"{scheme} {place}".removesuffix(f" {places[0]}")
        for scheme, places in POS_PLACES.items()
        for place in places
    ]
    chosen = ["learned", "learned every", "shaw shared"]
    plan = make_plan(
        "positions", study_recipe("positions", "digits"), digits, places=True, variants=chosen
    )
    assert [subject.variant.name for subject in plan.subjects] == chosen
    configs = [subject.config for subject in plan.subjects]
    assert [config.place for config in configs] == ["stem", "every", "shared"]
    base = Base(recipe=plan.recipe, config=configs[0], places=True)
    assert [variant.name for variant in plan.study.variants(base)] == names


def test_a_recipe_for_other_data() -> None:
    recipe = study_recipe("patch-size", "photos/")
    assert recipe.arch.img_size is None
    assert recipe.model == "vit_tiny_patch4_32"
    config = parse(recipe.model, num_classes=10, **recipe.arch.given())
    found = STUDIES["patch-size"].variants(Base(recipe=recipe, config=config))
    assert [variant.changes["arch.patch_size"] for variant in found] == [16, 8, 4, 2]


def test_images_drawn_are_nested_and_stratified() -> None:
    labels = np.repeat(np.arange(4), (400, 200, 100, 3))
    order = np.random.default_rng(1).permutation(len(labels))
    labels = labels[order]
    parts = [draw_nested(labels, count, seed=3) for count in (70, 140, 350, 703)]
    for small, large in pairwise(parts):
        assert np.isin(small, large).all()
    for part in parts:
        shares = np.bincount(labels[part]) / len(part)
        assert abs(shares[:3] - np.array([400, 200, 100]) / 703).max() < 0.03
        assert shares[3] > 0
        assert (np.diff(part) > 0).all()
    assert (draw_nested(labels, 70, seed=3) == parts[0]).all()
    assert (draw_nested(labels, 70, seed=4) != parts[0]).any()


def refused(digits: DataSplits, name: str, change: dict[str, object], **more: object) -> str:
    recipe = merge(study_recipe(name, "digits"), nested(change))
    with pytest.raises(ValueError, match="\nhint: ") as error:
        make_plan(name, recipe, digits, **more)  # type: ignore[arg-type]
    return str(error.value)


def test_refusals_say_what_to_do(digits: DataSplits) -> None:
    with pytest.raises(ValueError, match="did you mean 'positions'"):
        find_study("position")
    said = refused(digits, "positions", {}, variants=["lerned"])
    assert "did you mean 'learned'?" in said
    assert "different numbers" in refused(digits, "positions", {}, seeds=[1, 1])
    assert "1,222 training images" in refused(digits, "positions", {}, train_images=5000)
    assert "is for positions" in refused(digits, "pooling", {}, places=True)
    assert "from scratch" in refused(digits, "pooling", {"weights": "vit_tiny.augreg"})
    assert "with labels alone" in refused(digits, "pooling", {"objective": "linear-probe"})
    assert "cannot show 10 classes" in refused(digits, "data-size", {}, train_images=40)


def test_a_variant_that_cannot_be_is_named(digits: DataSplits) -> None:
    """Rotary positions want a head dimension that is a multiple of 4."""
    said = refused(digits, "positions", {"arch.embed_dim": 66, "arch.num_heads": 11})
    assert "variant rope2d: " in said
    assert "--variants none learned" in said


def test_a_study_is_for_classes(digits: DataSplits) -> None:
    numbers = replace(digits["train"], task="regress", labels=digits["train"].labels * 1.0)
    splits = DataSplits("ages.csv", {"train": numbers, "val": numbers})
    with pytest.raises(ValueError, match="a study classifies"):
        make_plan("pooling", Recipe(), splits)
