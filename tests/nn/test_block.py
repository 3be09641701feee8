import math
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar, get_args, get_type_hints

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tessera.config import ViTConfig
from tessera.nn.block import (
    ACTIVATIONS,
    Block,
    BlockSpec,
    DropPath,
    LayerScale,
    Mlp,
    SwiGlu,
    make_mlp,
)
from tessera.nn.norm import make_norm
from tessera.nn.pos_embed import Rotation

PROPERTY = settings(max_examples=25, deadline=None, derandomize=True)
M = TypeVar("M", bound=nn.Module)
SPEC = BlockSpec(dim=8, num_heads=2, head_dim=4, mlp_dim=16)
FORMULAS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": lambda x: x * 0.5 * (1 + torch.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: (
        x * 0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "quick_gelu": lambda x: x / (1 + torch.exp(-1.702 * x)),
}


def tokens(batch: int = 2, count: int = 5, dim: int = 8) -> Tensor:
    return torch.randn(batch, count, dim, generator=torch.Generator().manual_seed(1))


def filled(module: M) -> M:
    """The module with random numbers in every parameter."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


def linear(x: Tensor, layer: nn.Linear) -> Tensor:
    return x @ layer.weight.T + layer.bias


# The parts of a block


@pytest.mark.parametrize("kind", FORMULAS)
def test_mlp_is_linear_activation_linear(kind: str) -> None:
    mlp, x = filled(make_mlp(kind, 8, 20)), tokens()
    assert isinstance(mlp, Mlp)
    hidden = FORMULAS[kind](linear(x, mlp.fc1))
    # Measured: 1e-6, on outputs of the size of 5.
    torch.testing.assert_close(mlp(x), linear(hidden, mlp.fc2), rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", FORMULAS)
def test_an_activation_is_its_formula(kind: str) -> None:
    x = torch.linspace(-6, 6, 97, dtype=torch.float64)
    # Measured: 9e-16; the three are up to 0.02 and 0.0005 apart.
    torch.testing.assert_close(ACTIVATIONS[kind](x), FORMULAS[kind](x), rtol=0, atol=1e-12)


def test_every_mlp_that_a_config_can_name_is_built() -> None:
    kinds = get_args(get_type_hints(ViTConfig)["mlp"])
    assert set(kinds) == {*FORMULAS, "swiglu"} == {*ACTIVATIONS, "swiglu"}
    for kind in kinds:
        mlp = make_mlp(kind, 8, 20, drop=0.25)
        assert isinstance(mlp, SwiGlu if kind == "swiglu" else Mlp)
        assert mlp.drop1.rate == mlp.drop2.rate == 0.25


def test_a_plain_mlp_is_the_papers() -> None:
    mlp, x = filled(Mlp(8, 20)), tokens()
    assert torch.equal(mlp(x), filled(make_mlp("gelu", 8, 20))(x))


def test_swiglu_is_the_gated_form_of_shazeer() -> None:
    mlp, x = filled(SwiGlu(8, 20)), tokens()
    w1, w2 = mlp.w12.weight[:20], mlp.w12.weight[20:]
    b1, b2 = mlp.w12.bias[:20], mlp.w12.bias[20:]
    gate = x @ w1.T + b1
    wanted = linear(gate / (1 + torch.exp(-gate)) * (x @ w2.T + b2), mlp.w3)
    # Measured: equal; another machine may sum in another order.
    torch.testing.assert_close(mlp(x), wanted, rtol=0, atol=3e-5)


@pytest.mark.parametrize("kind", [Mlp, SwiGlu])
def test_an_mlp_drops_after_each_of_its_linear_maps(kind: type[Mlp] | type[SwiGlu]) -> None:
    torch.manual_seed(0)
    mlp = kind(1, 1, drop=0.5)
    for parameter in mlp.parameters():
        nn.init.ones_(parameter)
    last = mlp.fc2 if isinstance(mlp, Mlp) else mlp.w3
    nn.init.zeros_(last.bias)
    x = torch.ones(4000, 1)
    kept = mlp.eval()(x)[0].item()
    out = mlp.train()(x)
    assert {round(v, 4) for v in out.unique().tolist()} == {0.0, round(4 * kept, 4)}
    # 4,000 draws: the standard error of the rate is 0.007.
    assert abs((out == 0).float().mean().item() - 0.75) < 0.03


def test_layer_scale_is_one_factor_a_channel() -> None:
    scale, x = LayerScale(8, 0.1), tokens()
    assert torch.equal(scale.gamma, torch.full((8,), 0.1))
    scale = filled(scale)
    wanted = torch.stack([x[..., c] * scale.gamma[c] for c in range(8)], dim=-1)
    assert torch.equal(scale(x), wanted)


@pytest.mark.parametrize("eps", [1e-6, 0.1])
def test_norms_are_those_of_their_papers(eps: float) -> None:
    x = tokens() * 0.1  # small, so that eps matters
    layer = filled(make_norm("layernorm", 8, eps))
    rms = filled(make_norm("rmsnorm", 8, eps))
    assert isinstance(layer, nn.LayerNorm)
    assert isinstance(rms, nn.RMSNorm)
    centred = x - x.mean(dim=-1, keepdim=True)
    variance = centred.square().mean(dim=-1, keepdim=True)
    wanted = centred / (variance + eps).sqrt() * layer.weight + layer.bias
    # Measured: 2e-7 for both.
    torch.testing.assert_close(layer(x), wanted, rtol=0, atol=5e-6)
    wanted = x / (x.square().mean(dim=-1, keepdim=True) + eps).sqrt() * rms.weight
    torch.testing.assert_close(rms(x), wanted, rtol=0, atol=5e-6)


# Stochastic depth


@given(rate=st.floats(0, 0.99), batch=st.integers(1, 5))
@PROPERTY
def test_drop_path_in_evaluation_is_the_identity_at_any_rate(rate: float, batch: int) -> None:
    x = tokens(batch)
    assert torch.equal(DropPath(rate).eval()(x), x)


def test_drop_path_at_rate_0_is_the_identity_in_training() -> None:
    x = tokens()
    assert torch.equal(DropPath(0.0).train()(x), x)


@given(rate=st.floats(0.05, 0.95), seed=st.integers(0, 1000))
@PROPERTY
def test_drop_path_drops_an_image_as_a_whole_or_rescales_it_as_a_whole(
    rate: float, seed: int
) -> None:
    torch.manual_seed(seed)
    x = tokens(batch=16)
    out = DropPath(rate).train()(x)
    for before, after in zip(x, out, strict=True):
        if after.any():
            # Measured: one rounding error of float32, 1e-7 of the value.
            torch.testing.assert_close(after, before / (1 - rate), rtol=1e-6, atol=0)
        else:
            assert before.all()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_drop_path_keeps_the_expectation(rate: float) -> None:
    torch.manual_seed(0)
    out = DropPath(rate).train()(torch.ones(20_000, 1, 1))
    error = math.sqrt(rate / (1 - rate) / 20_000)  # standard deviation of the mean
    assert abs(out.mean().item() - 1) < 4 * error
    dropped = (out == 0).float().mean().item()
    assert abs(dropped - rate) < 4 * math.sqrt(rate * (1 - rate) / 20_000)


# The block


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("mlp", [*FORMULAS, "swiglu"])
@pytest.mark.parametrize("layer_scale_init", [None, 0.5])
def test_a_block_is_equations_2_and_3(norm: str, mlp: str, layer_scale_init: float | None) -> None:
    spec = replace(SPEC, norm=norm, mlp=mlp, layer_scale_init=layer_scale_init, norm_eps=0.1)
    block, x = filled(Block(spec)), tokens()
    scales = [torch.ones(8)] * 2
    if layer_scale_init is not None:
        scales = [p for name, p in block.named_parameters() if name in ("ls1.gamma", "ls2.gamma")]
    z = x + block.attn(block.norm1(x)) * scales[0]
    wanted = z + block.mlp(block.norm2(z)) * scales[1]
    assert torch.equal(block(x), wanted)
    for layer in (block.norm1, block.norm2):
        assert isinstance(layer, nn.LayerNorm if norm == "layernorm" else nn.RMSNorm)
        assert layer.eps == 0.1
    assert isinstance(block.mlp, SwiGlu if mlp == "swiglu" else Mlp)
    same = filled(make_mlp(mlp, 8, 16))
    assert torch.equal(filled(block.mlp)(x), same(x))


def test_a_blocks_attention_weights_are_those_of_its_normed_tokens() -> None:
    block, x = filled(Block(replace(SPEC, qk_norm=True))), tokens()
    seen: list[Tensor] = []
    block.attn.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    block(x)
    assert torch.equal(block.attention_weights(x), block.attn.weights(seen[0]))


def test_a_block_hands_the_rotation_to_its_attention() -> None:
    block, x = filled(Block(SPEC)), tokens()
    angles = torch.tensor([0.5, -1.0]).tile(3, 2) * torch.arange(1, 4)[:, None]
    rotation = Rotation(sin=angles.sin(), cos=angles.cos())
    z = x + block.attn(block.norm1(x), rotation)
    assert torch.equal(block(x, rotation), z + block.mlp(block.norm2(z)))
    weights = block.attention_weights(x, rotation)
    assert torch.equal(weights, block.attn.weights(block.norm1(x), rotation))
    assert (weights - block.attention_weights(x)).abs().max() > 0.01  # measured: 0.5
    assert (block(x, rotation) - block(x)).abs().max() > 0.01  # measured: 1.5


def test_every_part_of_a_block_gets_its_numbers() -> None:
    block = Block(
        replace(
            SPEC, head_dim=3, qkv_bias=False, qk_norm=True, norm_eps=0.7, drop=0.2, attn_drop=0.3
        ),
        drop_path=0.4,
    )
    assert block.attn.qkv.weight.shape == (18, 8)
    assert block.attn.qkv.bias is None
    for layer in (block.attn.q_norm, block.attn.k_norm):
        assert isinstance(layer, nn.LayerNorm)
        assert (layer.normalized_shape, layer.eps) == ((3,), 0.7)
    assert (block.attn.attn_drop.rate, block.attn.proj_drop.rate) == (0.3, 0.2)
    assert block.mlp.drop1.rate == block.mlp.drop2.rate == 0.2
    assert block.drop_path1.rate == 0.4


def test_at_rate_0_a_block_trains_as_it_evaluates() -> None:
    block, x = filled(Block(SPEC)), tokens()
    assert torch.equal(block.train()(x), block.eval()(x))


def test_in_evaluation_the_rates_of_a_block_do_nothing() -> None:
    x = tokens()
    block = filled(Block(replace(SPEC, drop=0.5, attn_drop=0.5), drop_path=0.5)).eval()
    assert torch.equal(block(x), filled(Block(SPEC)).eval()(x))


def test_a_dropped_branch_leaves_the_image_as_it_was() -> None:
    torch.manual_seed(0)
    block = filled(Block(SPEC, drop_path=0.5))
    x = tokens(batch=64)
    torch.manual_seed(0)
    same = (block(x) == x).flatten(1).all(dim=1)
    assert 0 < same.sum() < 64  # both branches dropped: 16 expected of 64
    torch.manual_seed(0)
    kept = [torch.rand(64) >= 0.5 for _ in range(2)]
    assert torch.equal(same, ~kept[0] & ~kept[1])  # each branch draws for itself
