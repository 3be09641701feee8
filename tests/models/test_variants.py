from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tessera.config import ViTConfig
from tessera.models.variants import (
    LETTERS,
    PATCH_SIZES,
    SIZES,
    count_parameters,
    list_hybrids,
    list_models,
    list_vits,
    paper_name,
    parse,
)
from tessera.models.vit import ViT

# As google-research/vision_transformer and big_vision count them, for 1000 classes at 224 pixels.
COUNTS = {
    "vit_mu_patch16": 76_712,
    "vit_tiny_patch16": 5_717_416,
    "vit_small_patch32": 22_878_952,
    "vit_small_patch16": 22_050_664,
    "vit_medium_patch16": 38_837_736,
    "vit_base_patch32": 88_224_232,
    "vit_base_patch16": 86_567_656,
    "vit_large_patch16": 304_326_632,
    "vit_so400m_patch14": 413_597_656,
    "vit_huge_patch14": 632_045_800,
    "vit_giant_patch14": 1_012_611_432,
    "vit_gigantic_patch14": 1_844_440_680,
    "vit_enormous_patch14": 3_807_214_312,
}
HEADS = {  # the count does not depend on them; big_vision's vit.py and the paper's Table 1
    "mu": 2,
    "tiny": 3,
    "small": 6,
    "medium": 8,
    "base": 12,
    "large": 16,
    "so400m": 16,
    "huge": 16,
    "giant": 16,
    "gigantic": 16,
    "enormous": 16,
}


HYBRIDS = {  # as google-research/vision_transformer's models_test.py counts them
    "vit_tiny_r_s16_p8": 6_337_704,
    "vit_small_r26_s32": 36_431_912,
    "vit_base_r26_s32": 101_383_976,
    "vit_base_r50_s16": 98_659_112,
    "vit_large_r50_s32": 328_994_856,
    # As timm 1.0.31 counts BiT's ResNets.
    "resnetv2_50x1": 25_549_352,
    "resnetv2_50x3": 217_319_080,
    "resnetv2_101x1": 44_541_480,
    "resnetv2_101x3": 387_934_888,
    "resnetv2_152x2": 236_335_208,
    "resnetv2_152x4": 936_533_224,
}
MILLIONS = {  # as the authors of CCT count them, for ten classes
    "cct_2_3x2_32": 0.284,
    "cct_4_3x2_32": 0.482,
    "cct_6_3x1_32_sine": 3.168,
    "cct_6_3x2_32": 3.327,
    "cct_7_3x1_32": 3.760,
    "cct_7_3x2_32": 3.853,
}


def built(config: ViTConfig) -> int:
    """Parameters of the model itself, built without memory for them."""
    with torch.device("meta"):
        return sum(p.numel() for p in ViT(config).parameters())


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_a_size_has_as_many_parameters_as_the_papers(name: str, count: int) -> None:
    assert built(parse(name)) == count
    assert count_parameters(parse(name)) == count


@pytest.mark.parametrize(("name", "count"), HYBRIDS.items())
def test_a_hybrid_or_a_resnet_has_as_many_parameters_as_its_authors(name: str, count: int) -> None:
    assert built(parse(name)) == count


@pytest.mark.parametrize(("name", "millions"), MILLIONS.items())
def test_a_compact_transformer_has_as_many_parameters_as_its_authors(
    name: str, millions: float
) -> None:
    assert round(built(parse(name, num_classes=10)) / 1e6, 3) == millions


@pytest.mark.parametrize("name", list_hybrids())
def test_what_is_listed_is_counted_as_it_is_built(name: str) -> None:
    assert count_parameters(parse(name)) == built(parse(name))
    assert count_parameters(parse(name, num_classes=3, in_chans=1)) == built(
        parse(name, num_classes=3, in_chans=1)
    )


@pytest.mark.parametrize(
    ("spellings", "blocks", "patch_size"),
    [
        (("R50+ViT-B/16", "R50+B/16", "R50+ViT-B_16", "vit_base_r50_s16_224"), (3, 4, 9), 16),
        (("R50+L/32", "vit_large_r50_s32"), (3, 4, 6, 3), 32),
        (("R26+S/32", "R26+ViT-S/32", "vit_small_r26_s32_224"), (2, 2, 2, 2), 32),
        (("R26+B/32", "vit_base_r26_s32"), (2, 2, 2, 2), 32),
        (("R+Ti/16", "R+ViT-Ti_16", "vit_tiny_r_s16_p8_224"), (), 32),
        (("R50x1", "BiT-M-R50x1", "resnetv2_50x1_bit", "resnetv2_50x1_224"), (3, 4, 6, 3), 32),
    ],
)
def test_the_spellings_of_a_hybrid_agree(
    spellings: tuple[str, ...], blocks: tuple[int, ...], patch_size: int
) -> None:
    found = {parse(name) for name in spellings}
    assert len(found) == 1
    (config,) = found
    assert (config.stem_blocks, config.patch_size, config.img_size) == (blocks, patch_size, 224)


def test_papers_have_their_own_names_and_those_of_hybrids_parse() -> None:
    assert paper_name("vit_base_patch16") == "ViT-B/16"
    assert paper_name("resnetv2_152x2") == "BiT-R152x2"
    assert paper_name("cct_7_3x1_32") == "CCT-7/3x1"
    assert paper_name("fractalnet_20_32") == "FractalNet-20"
    for name in list_hybrids()[:13]:  # hybrids and ResNets
        assert parse(paper_name(name)) == parse(name)


def test_what_follows_from_a_stem_follows_the_changes_to_it() -> None:
    config = parse("R50x1", stem_blocks=(1, 1), stem_width=32, img_size=64)
    assert (config.embed_dim, config.patch_size, config.depth) == (256, 8, 0)
    assert parse("cct_2_3x2_32", stem_layers=1).patch_size == 2
    config = parse("fractalnet_20", stem_layers=3, stem_width=8)
    assert (config.embed_dim, config.patch_size) == (32, 8)


def test_every_size_has_a_known_count() -> None:
    assert {name.split("_")[1] for name in COUNTS} == set(SIZES)


def test_every_size_has_the_papers_heads() -> None:
    assert {word: size.num_heads for word, size in SIZES.items()} == HEADS


def test_without_a_head_the_huge_model_has_the_count_that_timm_names() -> None:
    config = parse("vit_huge_patch14", num_classes=0)
    assert built(config) == count_parameters(config) == 630_764_800


@given(
    heads=st.integers(1, 3),
    depth=st.integers(0, 2).map(lambda n: n + 1),
    mlp_dim=st.integers(1, 9),
    patch=st.integers(1, 5),
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    in_chans=st.integers(1, 4),
    num_classes=st.integers(0, 5),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_counting_agrees_with_building(
    heads: int,
    depth: int,
    mlp_dim: int,
    patch: int,
    grid: tuple[int, int],
    in_chans: int,
    num_classes: int,
) -> None:
    config = ViTConfig(
        embed_dim=4 * heads,
        num_heads=heads,
        depth=depth,
        mlp_dim=mlp_dim,
        patch_size=patch,
        img_size=(grid[0] * patch, grid[1] * patch),
        in_chans=in_chans,
        num_classes=num_classes,
    )
    assert count_parameters(config) == built(config)


@pytest.mark.parametrize("word", SIZES)
@pytest.mark.parametrize("patch", PATCH_SIZES)
def test_the_three_spellings_agree(word: str, patch: int) -> None:
    letter = SIZES[word].letter
    config = parse(f"vit_{word}_patch{patch}")
    assert config == parse(f"ViT-{letter}/{patch}") == parse(f"vit_{word}_patch{patch}_224")
    size = (config.embed_dim, config.depth, config.num_heads, config.mlp_dim)
    assert size == SIZES[word][1:]
    assert config.patch_size == patch


def test_no_two_sizes_share_a_letter() -> None:
    assert len(LETTERS) == len(SIZES)
    assert parse("ViT-g/14") != parse("ViT-G/14")


def test_the_default_config_is_vit_b_16() -> None:
    assert parse("ViT-B/16") == ViTConfig()


def test_every_listed_name_parses() -> None:
    names = list_models()
    assert len(names) == len(set(names))
    assert all(parse(name) for name in names)
    plain = list_vits()
    assert len(plain) == len(SIZES) * len(PATCH_SIZES)
    assert {(parse(name).embed_dim, parse(name).patch_size) for name in plain} == {
        (size.embed_dim, patch) for size in SIZES.values() for patch in PATCH_SIZES
    }


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("vit_base_patch16_384", {"img_size": 384}),
        ("vit_large_patch14_reg4", {"num_registers": 4}),
        ("vit_large_patch14_reg4_518", {"num_registers": 4, "img_size": 518}),
        ("vit_tiny_patch4_32", {"img_size": 32}),
        ("ViT-S/7", {}),
    ],
)
def test_the_name_says_registers_and_resolution(name: str, changes: dict[str, Any]) -> None:
    config = parse(name)
    assert config.num_registers == changes.get("num_registers", 0)
    assert config.img_size == changes.get("img_size", 224)


def test_what_is_given_wins_over_the_name() -> None:
    config = parse("vit_base_patch16_reg4_224", img_size=96, num_registers=1, num_classes=10)
    assert (config.img_size, config.num_registers, config.num_classes) == (96, 1, 10)
    assert config.embed_dim == 768


@pytest.mark.parametrize(
    "name",
    [
        "",
        "resnet50",
        "vit_base",
        "vit_bas_patch16",
        "vit_B_patch16",
        "vit_base_patch0",
        "vit_base_patch16_",
        "vit_base_patch16_224 ",
        "vit_base_patch16_reg_224",
        "ViT-base/16",
        "ViT-X/16",
        "vit-B/16",
        "R50+ViT-X/16",
        "R34+B/16",
        "R50+B/8",
        "vit_base_r50_s16_p8",
        "resnetv2_51x1",
        "cct_3_3x1_32",
        "fractalnet_7",
    ],
)
def test_an_unknown_name_is_answered_with_the_grammar(name: str) -> None:
    with pytest.raises(ValueError, match=r"^unknown model ") as error:
        parse(name)
    first, hint = str(error.value).split("\n")
    assert repr(name) in first
    assert hint.startswith("hint: ")
    assert "vit_<size>_patch<n>[_<side>]" in hint
    assert all(word in hint for word in SIZES)


def test_a_slip_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'vit_base_patch16'\?"):
        parse("vit_bas_patch16")
    with pytest.raises(ValueError, match=r"did you mean 'num_registers'\?"):
        parse("vit_base_patch16", num_register=4)


def test_an_unknown_field_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^a model has no field 'zzz'\nhint: known are embed_dim"):
        parse("vit_base_patch16", zzz=4)


def test_mlp_ratio_is_answered_with_mlp_dim() -> None:
    with pytest.raises(ValueError, match="mlp_ratio") as error:
        parse("vit_base_patch16", mlp_ratio=4)
    assert "hint: mlp_dim is the width itself: mlp_ratio * embed_dim" in str(error.value)


def test_a_resolution_that_does_not_fit_is_answered_with_one_that_does() -> None:
    with pytest.raises(ValueError, match=r"img_size=225 .*\nhint: .* 224$"):
        parse("vit_base_patch16_225")
