import ast
import dataclasses
import importlib.util
import re
from dataclasses import MISSING, fields
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import tessera.config
from tessera.config import ViTConfig
from tessera.overrides import ViTOverrides

PROPERTY = settings(max_examples=50, deadline=None, derandomize=True)

FLAWS: list[tuple[dict[str, Any], str]] = [
    *(
        ({name: 0}, f"{name}=0 must be at least 1")
        for name in ("embed_dim", "depth", "num_heads", "mlp_dim", "patch_size", "in_chans")
    ),
    ({"pos_clip": 0}, "pos_clip=0 must be at least 1"),
    ({"attention_window": 0}, "attention_window=0 must be at least 1"),
    *(
        (
            {"attention": name, "attention_window": 4},
            f"attention='{name}' needs an odd attention_window, around a patch in its middle, "
            "not 4",
        )
        for name in ("local", "neighborhood")
    ),
    (
        {"attention": "axial", "depth": 3},
        "attention='axial' makes rows and columns of two blocks, not of depth=3\n"
        "hint: an even depth",
    ),
    *(
        (
            {"attention": name, "num_heads": 1},
            f"attention='{name}' needs two heads or more, which share two masks",
        )
        for name in ("strided", "fixed")
    ),
    (
        {"pos_embed": "shaw", "pos_place": "stem"},
        "pos_embed='shaw' means nothing at pos_place='stem'\nhint: it acts at 'every' or 'shared'",
    ),
    ({"num_classes": -1}, "num_classes=-1 must not be negative"),
    ({"num_registers": -2}, "num_registers=-2 must not be negative"),
    ({"norm_eps": 0.0}, "norm_eps=0.0 must be greater than 0"),
    ({"rope_theta": 0.0}, "rope_theta=0.0 must be greater than 0"),
    ({"rope_theta": float("nan")}, "rope_theta=nan must be greater than 0"),
    ({"drop_rate": 1.0}, "drop_rate=1.0 must be in [0, 1)"),
    ({"attn_drop_rate": -0.1}, "attn_drop_rate=-0.1 must be in [0, 1)"),
    ({"drop_path_rate": float("nan")}, "drop_path_rate=nan must be in [0, 1)"),
    ({"head_dim": 0}, "head_dim=0 must be at least 1"),
    ({"representation_dim": 0}, "representation_dim=0 must be at least 1"),
    (
        {"embed_dim": 100, "num_heads": 3},
        "embed_dim=100 is no multiple of num_heads=3\nhint: change one of them, or give head_dim",
    ),
    (
        {"img_size": 225},
        "img_size=225 is no multiple of patch_size=16\nhint: the nearest size that fits is 224",
    ),
    (
        {"img_size": (32, 90), "patch_size": 14},
        "img_size=(32, 90) is no multiple of patch_size=14\n"
        "hint: the nearest size that fits is (28, 84)",
    ),
    (
        {"cls_token": False},
        "pool='cls' needs cls_token=True\nhint: use pool='avg' or pool='map'",
    ),
    ({"patch_norm": True}, "patch_norm=True needs patch_embed='linear'"),
    (
        {"dist_token": True, "cls_token": False, "pool": "avg"},
        "dist_token=True needs cls_token=True, which it stands beside",
    ),
    *(
        (
            {"dist_token": True, "dist_head": True, **flaw},
            "dist_head=True needs dist_token=True, pool='cls' and a head",
        )
        for flaw in ({"dist_token": False}, {"pool": "avg"}, {"pool": "map"}, {"num_classes": 0})
    ),
]


@pytest.fixture(scope="module")
def unchecked() -> Any:
    """The module as users import it: the type checker of the test run would speak first."""
    spec = importlib.util.spec_from_file_location("config_as_imported", tessera.config.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_defaults_are_vit_b_16_of_table_1() -> None:
    config = ViTConfig()
    numbers = (config.embed_dim, config.depth, config.num_heads, config.mlp_dim)
    assert numbers == (768, 12, 12, 3072)
    assert (config.patch_size, config.img_size, config.num_classes) == (16, 224, 1000)
    assert (config.pool, config.pos_embed, config.final_norm) == ("cls", "learned", "tokens")
    assert config.norm_eps == 1e-6
    assert (config.drop_rate, config.attn_drop_rate, config.drop_path_rate) == (0.0, 0.0, 0.0)
    assert (config.mlp, config.embed_norm, config.rope_theta) == ("gelu", False, None)
    assert (config.cls_token, config.dist_token, config.dist_head) == (True, False, False)
    assert config.num_registers == 0


@pytest.mark.parametrize("num_registers", [0, 4])
def test_class_and_distillation_token_have_positions_and_registers_have_none(
    num_registers: int,
) -> None:
    none = ViTConfig(pool="avg", num_registers=num_registers, cls_token=False)
    assert none.positioned_prefix == 0
    assert ViTConfig(num_registers=num_registers).positioned_prefix == 1
    assert ViTConfig(num_registers=num_registers, dist_token=True).positioned_prefix == 2


def test_a_distillation_token_needs_no_head_of_its_own() -> None:
    assert ViTConfig(dist_token=True, dist_head=True).dist_head
    assert not ViTConfig(dist_token=True).dist_head
    assert not ViTConfig(dist_token=True, pool="map").dist_head


@pytest.mark.parametrize(("flaw", "message"), FLAWS, ids=lambda v: str(v).split("\n")[0])
def test_what_cannot_be_built_is_refused_with_the_way_out(
    flaw: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        ViTConfig(**flaw)


@pytest.mark.parametrize(
    "field", [f for f in fields(ViTConfig) if get_origin(f.type) is Literal], ids=lambda f: f.name
)
def test_a_wrong_choice_is_answered_with_the_right_ones(
    field: "dataclasses.Field[Any]", unchecked: Any
) -> None:
    with pytest.raises(ValueError, match=f"^{field.name}='wrong' is none of ") as error:
        unchecked.ViTConfig(**{field.name: "wrong"})
    assert str(error.value).endswith(", ".join(get_args(field.type)))


def test_a_wrong_place_is_answered_with_the_right_ones(unchecked: Any) -> None:
    message = r"^pos_place='head' is none of None, stem, every, shared$"
    with pytest.raises(ValueError, match=message):
        unchecked.ViTConfig(pos_place="head")


@given(st.integers(1, 400), st.integers(1, 400), st.integers(2, 64))
@PROPERTY
def test_the_size_in_the_hint_fits_and_is_the_nearest(height: int, width: int, patch: int) -> None:
    assume(height % patch or width % patch)
    with pytest.raises(ValueError, match="hint: the nearest size that fits is ") as error:
        ViTConfig(img_size=(height, width), patch_size=patch)
    hint = ast.literal_eval(str(error.value).rpartition(" is ")[2])
    fit = ViTConfig(img_size=hint, patch_size=patch).image_shape
    for side, wanted in zip(fit, (height, width), strict=True):
        assert abs(side - wanted) <= patch / 2 or side == patch


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 32))
@PROPERTY
def test_the_grid_times_the_patch_is_the_image(rows: int, cols: int, patch: int) -> None:
    config = ViTConfig(img_size=(rows * patch, cols * patch), patch_size=patch)
    assert config.grid == (rows, cols)
    assert config.image_shape == (rows * patch, cols * patch)


def test_one_number_means_a_square() -> None:
    assert ViTConfig(img_size=96).image_shape == (96, 96)
    assert ViTConfig(img_size=96).grid == (6, 6)


def test_heads_share_the_width_unless_told_otherwise() -> None:
    assert ViTConfig(embed_dim=96, num_heads=3).attention_dim == 96
    assert ViTConfig(embed_dim=100, num_heads=3, head_dim=32).attention_dim == 96


def test_a_config_is_a_value() -> None:
    config = ViTConfig(depth=3)
    assert config == ViTConfig(depth=3)
    assert hash(config) == hash(ViTConfig(depth=3))
    assert config != ViTConfig()
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.depth = 4  # type: ignore[misc]


def test_replacing_a_field_checks_again() -> None:
    with pytest.raises(ValueError, match="depth=0"):
        dataclasses.replace(ViTConfig(), depth=0)


def test_overrides_are_the_fields_of_a_config_less_the_classes() -> None:
    wanted = {f.name: f.type | None for f in fields(ViTConfig) if f.name != "num_classes"}  # type: ignore[operator]
    assert {f.name: f.type for f in fields(ViTOverrides)} == wanted
    assert [f.name for f in fields(ViTOverrides)] == list(wanted)


def test_an_override_left_alone_overrides_nothing() -> None:
    assert all(f.default is None for f in fields(ViTOverrides))
    assert all(f.default_factory is MISSING for f in fields(ViTOverrides))
    assert ViTOverrides().given() == {}


def test_false_and_zero_are_given_and_none_is_not() -> None:
    overrides = ViTOverrides(qkv_bias=False, num_registers=0, drop_rate=0.0, head_dim=None)
    assert overrides.given() == {"qkv_bias": False, "num_registers": 0, "drop_rate": 0.0}
