"""From a config to a model: whatever is accepted runs, and every field has its effect."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tessera.config import ViTConfig
from tessera.models.variants import parse
from tessera.models.vit import ViT
from tessera.nn.attention_masks import PATTERNS
from tessera.nn.block import ACTIVATIONS, Block, Mlp
from tessera.nn.noise import Dropout
from tessera.nn.pos_embed import POS_EMBEDS, Rope2d

CONFIGS = st.fixed_dictionaries(
    {
        "embed_dim": st.sampled_from([8, 12, 15]),
        "depth": st.integers(1, 2),
        "num_heads": st.integers(1, 4),
        "mlp_dim": st.sampled_from([1, 16]),
        "patch_size": st.sampled_from([4, 5]),
        "img_size": st.sampled_from([20, (20, 40)]),
        "in_chans": st.sampled_from([1, 3]),
        "num_classes": st.sampled_from([0, 3]),
    },
    optional={
        "head_dim": st.sampled_from([1, 4]),
        "patch_embed": st.just("linear"),
        "patch_norm": st.booleans(),
        "cls_token": st.booleans(),
        "dist_token": st.booleans(),
        "dist_head": st.booleans(),
        "num_registers": st.integers(0, 2),
        "pos_embed": st.sampled_from(sorted(POS_EMBEDS)),
        "pos_place": st.sampled_from(["stem", "every", "shared"]),
        "pos_clip": st.integers(1, 3),
        "attention": st.sampled_from(sorted(PATTERNS)),
        "attention_window": st.integers(1, 4),
        "rope_theta": st.sampled_from([1.0, 1e4]),
        "embed_norm": st.booleans(),
        "pool": st.sampled_from(["cls", "avg", "map"]),
        "final_norm": st.sampled_from(["tokens", "pooled", "none"]),
        "representation_dim": st.sampled_from([1, 6]),
        "qkv_bias": st.booleans(),
        "qk_norm": st.booleans(),
        "mlp": st.sampled_from(["gelu", "gelu_tanh", "quick_gelu", "swiglu"]),
        "norm": st.sampled_from(["layernorm", "rmsnorm"]),
        "layer_scale_init": st.sampled_from([1e-5, 1.0]),
        "drop_rate": st.just(0.5),
        "drop_path_rate": st.just(0.9),
    },
)


REASONS = (  # each has a test of its own
    "is no multiple of num_heads",
    "needs cls_token=True",
    "needs patch_embed='linear'",
    "needs an even embed_dim",
    "needs embed_dim to be a multiple of",
    "needs heads of a width that 4 divides",
    "needs an odd attention_window",
    "of two blocks",
    "needs two heads or more",
    "which it stands beside",
    "means nothing at pos_place=",
    "dist_head=True needs",
    "pool='map' needs",
)


@given(arch=CONFIGS)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_a_model_that_can_be_built_runs(arch: dict[str, Any]) -> None:
    refusal, model = "", None
    try:
        model = ViT(ViTConfig(**arch))
    except ValueError as error:
        refusal = str(error)
    if model is None:
        assert any(reason in refusal for reason in REASONS)
        return
    c = model.config
    width = c.num_classes or c.representation_dim or c.embed_dim
    found = model(torch.randn(2, c.in_chans, *c.image_shape))
    assert found.shape == (2, width)
    assert found.isfinite().all()


def test_attention_pooling_needs_heads_that_share_the_width() -> None:
    arch: dict[str, Any] = {"embed_dim": 20, "num_heads": 3, "head_dim": 8, "pool": "map"}
    with pytest.raises(ValueError, match=r"(?s)embed_dim=20.*num_heads=3.*\nhint: "):
        parse("vit_mu_patch16", **arch)


def test_every_number_of_a_config_reaches_its_part() -> None:
    config = parse(
        "vit_mu_patch16",
        depth=2,
        head_dim=8,
        mlp="swiglu",
        mlp_dim=24,
        pool="map",
        pos_embed="rope2d",
        rope_theta=7.0,
        embed_norm=True,
        norm="rmsnorm",
        norm_eps=0.25,
        qkv_bias=False,
        qk_norm=True,
        layer_scale_init=0.5,
        drop_rate=0.1,
        attn_drop_rate=0.2,
    )
    model = ViT(config)
    norms = [m for m in model.modules() if isinstance(m, nn.LayerNorm | nn.RMSNorm)]
    assert len(norms) == 2 * 4 + 3  # two and one for each of q and k in a block; first, last, pool
    assert all(isinstance(norm, nn.RMSNorm) and norm.eps == 0.25 for norm in norms)
    assert {m.rate for m in model.modules() if isinstance(m, Dropout)} == {0.0, 0.1, 0.2}  # pool: 0
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    for i, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        assert block.attn.attn_drop.rate == 0.2
        assert shapes[f"blocks.{i}.attn.qkv.weight"] == (3 * 2 * 8, 32)
        assert f"blocks.{i}.attn.qkv.bias" not in shapes
        assert shapes[f"blocks.{i}.mlp.w12.weight"] == (2 * 24, 32)
        assert shapes[f"blocks.{i}.ls1.gamma"] == shapes[f"blocks.{i}.ls2.gamma"] == (32,)
    assert shapes["attn_pool.mlp.w12.weight"] == (2 * 24, 32)
    assert isinstance(model.pos_embed, Rope2d)
    spec = model.pos_embed.spec
    assert (spec.grid, spec.embed_dim, spec.head_dim) == ((14, 14), 32, 8)
    assert (spec.prefix, spec.theta) == (1, 7.0)


@pytest.mark.parametrize("mlp", ["gelu", "gelu_tanh", "quick_gelu"])
def test_the_activation_reaches_the_blocks_and_the_pool(mlp: str) -> None:
    model = ViT(parse("vit_mu_patch16", depth=2, mlp=mlp, pool="map"))
    found = [m.activation for m in model.modules() if isinstance(m, Mlp)]
    assert found == [ACTIVATIONS[mlp]] * 3


def test_a_head_for_the_distillation_token_takes_tokens_and_not_the_hidden_layer() -> None:
    arch: dict[str, Any] = {"dist_token": True, "dist_head": True, "representation_dim": 7}
    model = ViT(parse("vit_mu_patch16", num_classes=5, **arch))
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert (shapes["head.weight"], shapes["head_dist.weight"]) == ((5, 7), (5, 32))
    assert shapes["pos_embed.table"] == (1, 14 * 14 + 2, 32)
