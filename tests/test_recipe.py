"""A recipe is data: it is read, narrowed, written and read again without loss."""

import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tessera.models.variants import parse
from tessera.overrides import ViTOverrides
from tessera.recipe import (
    Augment,
    Data,
    Optim,
    Recipe,
    Schedule,
    default_recipe,
    dumps,
    load,
    merge,
    nested,
    shipped,
)

SHIPPED = sorted(shipped())


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_loads_and_names_a_model_that_exists(name: str) -> None:
    recipe = load(name)
    assert parse(recipe.model, **recipe.arch.given()).depth > 0


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_begins_with_command_hardware_and_result(name: str) -> None:
    lines = shipped()[name].read_text(encoding="utf-8").splitlines()
    header = [line for line in lines[:3] if line.startswith("#")]
    assert len(header) == 3, "the first three lines are a comment"
    verb = "study" if name == "study" else "train"
    assert any(f"tessera {verb}" in line for line in lines if line.startswith("#"))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_is_the_one_that_dumps_writes_back(name: str, tmp_path: Path) -> None:
    file = tmp_path / "resolved.toml"
    file.write_text(dumps(load(name)), encoding="utf-8")
    assert load(file) == load(name)


def test_the_default_recipe_fits_the_data() -> None:
    assert default_recipe("digits") == load("digits")
    assert default_recipe("photos/") == load("finetune")
    assert default_recipe("photos/", "none") == load("scratch")


positive = st.floats(min_value=1e-9, max_value=1e9)
share = st.floats(min_value=0, max_value=1)
decay = st.floats(min_value=0, max_value=1, exclude_max=True)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=20)
overrides = st.builds(
    ViTOverrides,
    depth=st.none() | st.integers(1, 99),
    img_size=st.none() | st.integers(1, 999) | st.tuples(st.integers(1, 999), st.integers(1, 999)),
    pos_embed=st.none() | st.sampled_from(["none", "learned", "sincos2d"]),
    final_norm=st.none() | st.sampled_from(["tokens", "pooled", "none"]),
    cls_token=st.none() | st.booleans(),
    norm_eps=st.none() | positive,
)
recipes = st.builds(
    Recipe,
    model=texts,
    weights=texts,
    seed=st.integers(0, 2**63),
    precision=st.sampled_from(["auto", "float32", "bfloat16", "float16"]),
    label_smoothing=st.floats(0, 0.99),
    grad_checkpointing=st.booleans(),
    eval_every=positive,
    data=st.builds(
        Data,
        batch_size=st.just("auto") | st.integers(1, 10**6),
        micro_batch_size=st.none() | st.integers(1, 10**6),
        workers=st.none() | st.integers(0, 64),
        val_fraction=st.floats(1e-6, 0.999),
    ),
    augment=st.builds(
        Augment,
        crop_scale=st.none() | st.just((0.08, 1.0)) | st.just((1.0, 1.0)),
        crop_ratio=st.tuples(positive, positive).map(lambda pair: (min(pair), max(pair))),
        flip=share,
    ),
    optim=st.builds(
        Optim, lr=positive, betas=st.tuples(decay, decay), clip_grad_norm=st.none() | positive
    ),
    schedule=st.builds(
        Schedule,
        epochs=positive,
        total_steps=st.none() | st.integers(1, 10**9),
        shape=st.sampled_from(["cosine", "linear", "constant"]),
    ),
    arch=overrides,
)


# Beartype looks at random elements of tuples while hypothesis builds the recipe.
@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")
@given(recipes)
def test_what_is_written_is_read_back_to_an_equal_recipe(recipe: Recipe) -> None:
    assert merge(Recipe(), tomllib.loads(dumps(recipe))) == recipe


@pytest.mark.parametrize("character", ["\n", "\r", "\t", "\x00", "\x1b", "\x7f", "\x85"])
def test_a_control_character_in_a_name_is_read_back_too(character: str) -> None:
    recipe = Recipe(weights=f"a{character}b")
    assert merge(Recipe(), tomllib.loads(dumps(recipe))) == recipe


def test_a_file_written_by_dumps_is_read_back_by_load(tmp_path: Path) -> None:
    recipe = Recipe(
        weights='C:\\models\\"mine"',
        optim=Optim(clip_grad_norm=None),
        arch=ViTOverrides(pos_embed="none", img_size=(64, 32)),
    )
    file = tmp_path / "recipe.toml"
    file.write_text(dumps(recipe), encoding="utf-8")
    assert load(file) == recipe


def test_dumps_writes_defaults_too() -> None:
    written = tomllib.loads(dumps(Recipe()))
    assert written["optim"]["lr"] == Optim().lr
    assert written["seed"] == 0


def test_the_word_none_switches_off_what_may_be_off_and_is_a_name_elsewhere() -> None:
    recipe = merge(
        Recipe(),
        {
            "weights": "none",
            "optim": {"clip_grad_norm": "none"},
            "arch": {"pos_embed": "none", "final_norm": "none", "depth": "none"},
        },
    )
    assert recipe.optim.clip_grad_norm is None
    assert recipe.arch.depth is None
    assert (recipe.weights, recipe.arch.pos_embed, recipe.arch.final_norm) == ("none",) * 3


def test_whole_numbers_and_lists_become_what_the_field_wants() -> None:
    changes = {"augment": {"crop_scale": [1, 1]}, "arch": {"img_size": [64, 32]}, "eval_every": 2}
    recipe = merge(Recipe(), changes)
    assert recipe.augment.crop_scale == (1.0, 1.0)
    assert recipe.arch.img_size == (64, 32)
    assert type(recipe.eval_every) is float


def test_merge_changes_what_is_named_and_nothing_else() -> None:
    base = Recipe(seed=3, optim=Optim(lr=0.5))
    assert merge(base, {"optim": {"weight_decay": 0.25}}) == replace(
        base, optim=Optim(lr=0.5, weight_decay=0.25)
    )


def test_a_file_lies_over_the_base_that_is_given(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text("[optim]\nlr = 0.25\n", encoding="utf-8")
    assert load(file, base=Recipe(seed=3)) == Recipe(seed=3, optim=Optim(lr=0.25))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": {"weight_decy": 0}}, r"no 'optim.weight_decy'\nhint: .*'optim.weight_decay'"),
        ({"sed": 1}, r"no 'sed'\nhint: did you mean 'seed'"),
        ({"xyzzy": 1}, r"no 'xyzzy'\nhint: known are model, weights, offline"),
        ({"arch": {"num_classes": 3}}, r"no 'arch.num_classes'"),
    ],
)
def test_an_unknown_key_names_the_nearest(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        merge(Recipe(), changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": {"lr": "fast"}}, r"optim.lr = 'fast' .*\nhint: it wants float"),
        ({"optim": {"lr": True}}, r"optim.lr = True .*\nhint: it wants float"),
        ({"data": {"batch_size": 64.0}}, r"data.batch_size = 64.0 .*\nhint: it wants int or auto"),
        ({"data": {"batch_size": True}}, r"data.batch_size = True .*\nhint: it wants int or auto"),
        (
            {"data": {"batch_size": "none"}},
            r"data.batch_size = .none. .*\nhint: it wants int or auto",
        ),
        ({"augment": {"crop_scale": [0.5]}}, r"augment.crop_scale = \[0.5\] .*tuple"),
        ({"augment": {"crop_scale": ["a", 1]}}, r"augment.crop_scale = \['a', 1\] .*tuple"),
        ({"schedule": {"shape": "cosin"}}, r"schedule.shape = 'cosin' .*cosine.*linear"),
        ({"grad_checkpointing": 1}, r"grad_checkpointing = 1 .*\nhint: it wants bool"),
        ({"seed": [1]}, r"seed = \[1\] .*\nhint: it wants int"),
        ({"optim": 3}, r"'optim' is a table, not 3"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_what_is_wanted(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=r"(?s)" + message):
        merge(Recipe(), changes)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"data": {"batch_size": 0}}, "data.batch_size=0"),
        ({"data": {"eval_batch_size": 0}}, "data.eval_batch_size=0"),
        ({"data": {"micro_batch_size": -1}}, "data.micro_batch_size=-1"),
        ({"data": {"val_fraction": 0}}, "data.val_fraction=0"),
        ({"data": {"val_fraction": 1}}, "data.val_fraction=1"),
        ({"schedule": {"total_steps": 0}}, "schedule.total_steps=0"),
        ({"schedule": {"epochs": 0}}, "schedule.epochs=0"),
        ({"optim": {"lr": 0}}, "optim.lr=0"),
        ({"optim": {"lr": -1e-3}}, "optim.lr=-0.001"),
        ({"optim": {"lr": float("nan")}}, "optim.lr=nan"),
        ({"eval_every": 0}, "eval_every=0"),
        ({"label_smoothing": 1}, "label_smoothing=1"),
        ({"label_smoothing": -0.1}, "label_smoothing=-0.1"),
    ],
)
def test_a_number_out_of_range_is_refused_by_name(changes: dict[str, Any], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        merge(Recipe(), changes)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"data": {"micro_batch_size": 0}}, "data.micro_batch_size"),
        ({"data": {"workers": -1}}, "data.workers"),
        ({"seed": -1}, "seed"),
        ({"optim": {"weight_decay": -1.0}}, "optim.weight_decay"),
        ({"optim": {"betas": [0.9, 1.5]}}, "optim.betas"),
        ({"augment": {"mixup": -1.0}}, "augment.mixup"),
        ({"augment": {"zoom": -1.0}}, "augment.zoom"),
        ({"augment": {"crop_scale": [-0.5, 1.0]}}, "augment.crop_scale"),
        ({"augment": {"crop_ratio": [0.0, 1.0]}}, "augment.crop_ratio"),
    ],
)
def test_a_number_that_would_break_a_run_later_is_refused_before_it(
    changes: dict[str, Any], name: str
) -> None:
    with pytest.raises(ValueError, match=name):
        merge(Recipe(), changes)


def test_a_misspelt_recipe_lists_the_shipped() -> None:
    with pytest.raises(ValueError, match=r"no recipe 'digts'\nhint: shipped are .*digits.*scratch"):
        load("digts")


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no recipe"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"seed = ", b"seed = 1\nseed = 2\n", b"\xff\xfe\x00"])
def test_a_file_that_is_no_toml_is_named(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "broken.toml"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken\.toml is no valid TOML"):
        load(file)


def test_nested_opens_up_dotted_names() -> None:
    flat = {"optim.lr": 3e-4, "optim.weight_decay": 0.1, "seed": 1, "a.b.c": 2}
    assert nested(flat) == {
        "optim": {"lr": 3e-4, "weight_decay": 0.1},
        "seed": 1,
        "a": {"b": {"c": 2}},
    }


def test_nested_overrides_reach_their_fields() -> None:
    recipe = merge(Recipe(), nested({"optim.lr": 3e-4, "arch.depth": 2}))
    assert (recipe.optim.lr, recipe.arch.depth) == (3e-4, 2)


def test_nested_leaves_what_it_is_given_as_it_was() -> None:
    given_: dict[str, Any] = {"optim": {"lr": 0.5}, "optim.weight_decay": 0.1}
    assert nested(given_) == {"optim": {"lr": 0.5, "weight_decay": 0.1}}
    assert given_ == {"optim": {"lr": 0.5}, "optim.weight_decay": 0.1}


def test_a_name_that_is_a_value_and_a_table_at_once_is_refused() -> None:
    with pytest.raises(ValueError, match="optim"):
        nested({"optim": 3, "optim.lr": 1})


def test_a_recipe_is_a_tree_of_plain_values() -> None:
    assert tomllib.loads(dumps(Recipe()))["model"] == asdict(Recipe())["model"]
