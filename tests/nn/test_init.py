import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tessera.config import ViTConfig
from tessera.models.vit import ViT
from tessera.nn.attention import Attention
from tessera.nn.block import LayerScale, Mlp, SwiGlu
from tessera.nn.init import INITS, initialise
from tessera.nn.patch_embed import ConvPatchEmbed, LinearPatchEmbed
from tessera.nn.pos_embed import Learned

D, M = 256, 4096
EVERYTHING: list[dict[str, Any]] = [
    {},
    {
        "patch_embed": "linear",
        "patch_norm": True,
        "num_registers": 2,
        "dist_token": True,
        "embed_norm": True,
        "pool": "map",
        "representation_dim": 9,
        "qk_norm": True,
        "mlp": "swiglu",
        "norm": "rmsnorm",
        "layer_scale_init": 0.1,
    },
    {"qkv_bias": False, "head_dim": 3, "final_norm": "pooled", "pool": "avg", "num_registers": 1},
    {"dist_token": True, "dist_head": True, "pos_embed": "rope2d", "head_dim": 4},
]
IDS = ["plain", "everything", "rest", "distilled"]


def wide(init: str, **arch: Any) -> ViT:
    """One block of 256 channels: enough numbers for a standard deviation to be known to 1 %."""
    torch.manual_seed(0)
    config = ViTConfig(embed_dim=D, depth=1, num_heads=4, mlp_dim=M, num_classes=50, **arch)
    return ViT(config, init=init)


def narrow(**arch: Any) -> ViT:
    defaults = {"embed_dim": 12, "depth": 2, "num_heads": 2, "mlp_dim": 8, "img_size": 32}
    return ViT(ViTConfig(**{**defaults, **arch}))


def only(model: nn.Module, kind: type[nn.Module]) -> Any:
    """The one module of a kind."""
    (found,) = (module for module in model.modules() if isinstance(module, kind))
    return found


def assert_uniform(weight: Tensor, bound: float) -> None:
    """All within the bound, right up to it, with the deviation of a uniform distribution."""
    assert weight.abs().max() <= bound
    assert weight.abs().max() > 0.99 * bound
    assert_std(weight, bound / math.sqrt(3))


def assert_std(weight: Tensor, std: float) -> None:
    """Measured: within 1.1 % for every tensor below; a missing correction would be 12 % off."""
    assert weight.std().item() == pytest.approx(std, rel=0.03)
    assert abs(weight.mean().item()) < 4 * std / math.sqrt(weight.numel())


def is_zero(parameter: Tensor) -> bool:
    return not parameter.any()


# The paper's scheme


def test_the_paper_starts_with_zero_heads_and_a_zero_class_token() -> None:
    model = wide("paper", dist_token=True, dist_head=True)
    assert isinstance(model.head, nn.Linear)
    assert model.cls_token is not None
    assert model.dist_token is not None
    for parameter in (*model.head.parameters(), *model.head_dist.parameters()):
        assert is_zero(parameter)
    assert is_zero(model.cls_token)
    assert not is_zero(model.dist_token)  # else it could stay a twin of the class token


@pytest.mark.parametrize("init", INITS)
def test_registers_are_drawn_from_a_normal_distribution(init: str) -> None:
    registers = wide(init, num_registers=64).register_tokens
    assert registers is not None
    assert_std(registers, 0.02)
    assert registers.abs().max() > 3.5 * 0.02  # not cut off at two sigma


def test_the_paper_draws_positions_from_a_normal_distribution() -> None:
    table = only(wide("paper"), Learned).table
    assert_std(table, 0.02)
    assert table.abs().max() > 3.5 * 0.02  # not cut off at two sigma


def test_the_paper_bounds_query_key_and_value_each_by_its_own_shape() -> None:
    attention = only(wide("paper"), Attention)
    for weight in attention.qkv.weight.split(D):
        assert_uniform(weight, math.sqrt(6 / (D + D)))
    assert_uniform(attention.proj.weight, math.sqrt(6 / (D + D)))
    assert is_zero(attention.qkv.bias)
    assert is_zero(attention.proj.bias)


def test_the_bound_knows_the_width_of_all_heads() -> None:
    attention = only(wide("paper", head_dim=16), Attention)
    for weight in attention.qkv.weight.split(64):
        assert_uniform(weight, math.sqrt(6 / (D + 64)))
    assert_uniform(attention.proj.weight, math.sqrt(6 / (64 + D)))


def test_the_paper_draws_the_mlp_xavier_uniform_with_tiny_biases() -> None:
    mlp = only(wide("paper"), Mlp)
    assert_uniform(mlp.fc1.weight, math.sqrt(6 / (D + M)))
    assert_uniform(mlp.fc2.weight, math.sqrt(6 / (M + D)))
    assert_std(torch.cat([mlp.fc1.bias, mlp.fc2.bias]), 1e-6)


def test_the_two_halves_of_swiglu_are_bounded_each_by_its_own_shape() -> None:
    mlp = only(wide("paper", mlp="swiglu"), SwiGlu)
    for weight in mlp.w12.weight.split(M):
        assert_uniform(weight, math.sqrt(6 / (D + M)))
    assert_uniform(mlp.w3.weight, math.sqrt(6 / (M + D)))
    assert_std(torch.cat([mlp.w12.bias, mlp.w3.bias]), 1e-6)


@pytest.mark.parametrize("form", ["conv", "linear"])
def test_the_paper_draws_the_patch_kernel_lecun_normal_cut_off_at_two_sigma(form: str) -> None:
    kind = ConvPatchEmbed if form == "conv" else LinearPatchEmbed
    projection = only(wide("paper", patch_embed=form), kind).proj
    fan_in = 16 * 16 * 3
    assert_std(projection.weight, math.sqrt(1 / fan_in))
    cut = 2 * math.sqrt(1 / fan_in) / 0.87962566103423978  # flax's correction
    assert 0.99 * cut < projection.weight.abs().max() <= cut
    assert is_zero(projection.bias)


def test_the_paper_draws_the_hidden_layer_of_the_head_lecun_normal() -> None:
    model = wide("paper", representation_dim=512)
    assert_std(model.pre_logits.weight, math.sqrt(1 / D))
    assert is_zero(model.pre_logits.bias)


def test_the_paper_draws_the_probe_and_its_projections_xavier_uniform() -> None:
    pool = wide("paper", pool="map").attn_pool
    # flax takes the last two axes of (1, 1, d) as in and out, so the bound is sqrt(6 / (1 + d)).
    assert 0.9 * math.sqrt(6 / (1 + D)) < pool.latent.abs().max() <= math.sqrt(6 / (1 + D))
    for weight in (pool.q.weight, *pool.kv.weight.split(D), pool.proj.weight):
        assert_uniform(weight, math.sqrt(6 / (D + D)))
    assert all(is_zero(layer.bias) for layer in (pool.q, pool.kv, pool.proj))


# The other schemes


def test_timm_draws_linear_maps_from_one_normal_distribution() -> None:
    model = wide("timm")
    attention, mlp = only(model, Attention), only(model, Mlp)
    for layer in (attention.qkv, attention.proj, mlp.fc1, mlp.fc2):
        assert_std(layer.weight, 0.02)
        assert is_zero(layer.bias)
    assert_std(only(model, Learned).table, 0.02)
    assert model.cls_token is not None
    # 256 numbers: their deviation is known to 4.4 %; measured 3.5 %.
    assert model.cls_token.std().item() == pytest.approx(1e-6, rel=0.15)


def test_mae_draws_linear_maps_xavier_uniform_as_they_are_stored() -> None:
    model = wide("mae", dist_token=True)
    attention, mlp = only(model, Attention), only(model, Mlp)
    assert_uniform(attention.qkv.weight, math.sqrt(6 / (D + 3 * D)))  # packed, as its code has it
    assert_uniform(attention.proj.weight, math.sqrt(6 / (D + D)))
    assert_uniform(mlp.fc1.weight, math.sqrt(6 / (D + M)))
    assert all(is_zero(layer.bias) for layer in (attention.qkv, attention.proj, mlp.fc1, mlp.fc2))
    projection = only(model, ConvPatchEmbed).proj
    assert_uniform(projection.weight, math.sqrt(6 / (D + 16 * 16 * 3)))
    assert is_zero(projection.bias)
    for token in (model.cls_token, model.dist_token):
        assert token is not None
        # 256 numbers: their deviation is known to 4.4 %; measured 1.5 %.
        assert token.std().item() == pytest.approx(0.02, rel=0.15)


# What every scheme must do


@pytest.mark.parametrize("arch", EVERYTHING, ids=IDS)
@pytest.mark.parametrize("scheme", INITS)
def test_a_scheme_overwrites_every_parameter(scheme: str, arch: dict[str, Any]) -> None:
    model = narrow(**arch)
    for parameter in model.parameters():
        nn.init.constant_(parameter, 123.0)
    initialise(model, scheme)
    kept = [name for name, p in model.named_parameters() if (p == 123).any()]
    assert [name for name in kept if not name.endswith(".gamma")] == []


@pytest.mark.parametrize("scheme", INITS)
def test_a_scheme_starts_layer_scale_at_its_first_value(scheme: str) -> None:
    with torch.device("meta"):
        model = narrow(layer_scale_init=0.1)
    model.to_empty(device="cpu")
    for parameter in model.parameters():  # what memory without a content might hold
        nn.init.constant_(parameter, 123.0)
    initialise(model, scheme)
    gammas = [m.gamma.tolist() for m in model.modules() if isinstance(m, LayerScale)]
    assert gammas == [torch.full((12,), 0.1).tolist()] * 4  # two a block


@pytest.mark.parametrize("scheme", INITS)
def test_every_scheme_prefers_no_class_and_leaves_norms_alone(scheme: str) -> None:
    for arch in EVERYTHING:
        model = narrow(**arch)
        for parameter in model.parameters():
            nn.init.constant_(parameter, 123.0)
        initialise(model, scheme)
        assert is_zero(model(torch.randn(2, 3, 32, 32)))
        for module in model.modules():
            if isinstance(module, nn.LayerNorm | nn.RMSNorm):
                assert torch.equal(module.weight, torch.ones_like(module.weight))
            if isinstance(module, nn.LayerNorm):
                assert is_zero(module.bias)


@pytest.mark.parametrize("scheme", INITS)
def test_registers_can_learn_to_differ(scheme: str) -> None:
    torch.manual_seed(0)
    model = ViT(narrow(num_registers=3).config, init=scheme)
    assert isinstance(model.head, nn.Linear)
    nn.init.normal_(model.head.weight)
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert model.register_tokens is not None
    assert model.register_tokens.grad is not None
    first, *others = model.register_tokens.grad[0]
    assert not any(torch.equal(first, other) for other in others)


@pytest.mark.parametrize("scheme", INITS)
def test_the_seed_decides_every_bit(scheme: str) -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return dict(ViT(narrow(**EVERYTHING[1]).config, init=scheme).named_parameters())

    first, again, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name, weight in first.items() if weight.dim() > 1 and weight.std() > 0]
    assert "patch_embed.proj.weight" in drawn
    assert not any(torch.equal(first[name], other[name]) for name in drawn)


def test_an_unknown_scheme_is_answered_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^unknown init='xavier'\nhint: known are ") as error:
        ViT(ViTConfig(embed_dim=8, num_heads=2, depth=1, mlp_dim=8), init="xavier")
    assert str(error.value).endswith(", ".join(INITS))
