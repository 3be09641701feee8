import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tessera.nn.attention import Attention
from tessera.nn.pos_embed import Rotation

DIM = 12
CASES: dict[str, dict[str, Any]] = {
    "paper": {"num_heads": 3, "head_dim": 4},
    "one head": {"num_heads": 1, "head_dim": 12},
    "wider than the tokens": {"num_heads": 3, "head_dim": 8},
    "narrower than the tokens": {"num_heads": 2, "head_dim": 3},
    "without biases": {"num_heads": 3, "head_dim": 4, "qkv_bias": False},
    "normed": {"num_heads": 3, "head_dim": 4, "qk_norm": True, "norm_eps": 0.1},
    "rms-normed": {"num_heads": 2, "head_dim": 5, "qk_norm": True, "norm": "rmsnorm"},
}
EVEN = {name: case for name, case in CASES.items() if case["head_dim"] % 2 == 0}


def make(**case: Any) -> Attention:
    """An attention whose every weight matters."""
    torch.manual_seed(0)
    attention = Attention(DIM, **case)
    for parameter in attention.parameters():
        nn.init.normal_(parameter, std=0.5)
    return attention.requires_grad_(False)


def tokens(batch: int = 2, count: int = 5) -> Tensor:
    return torch.randn(batch, count, DIM, generator=torch.Generator().manual_seed(1))


def normed(vector: Tensor, by: nn.Module) -> Tensor:
    """LayerNorm or RMSNorm of one vector, as their papers write it."""
    if isinstance(by, nn.Identity):
        return vector
    assert isinstance(by, nn.LayerNorm | nn.RMSNorm)
    assert by.eps is not None
    if isinstance(by, nn.RMSNorm):
        return vector / (vector.square().mean() + by.eps).sqrt() * by.weight
    centred = vector - vector.mean()
    return centred / (centred.square().mean() + by.eps).sqrt() * by.weight + by.bias


def rotation(patches: int, width: int) -> Rotation:
    """Any angles, the same for both channels of a pair."""
    generator = torch.Generator().manual_seed(4)
    angles = torch.randn(patches, width // 2, generator=generator).double().tile(2)
    return Rotation(sin=angles.sin(), cos=angles.cos())


def turned(vector: Tensor, by: Rotation | None, patch: int) -> Tensor:
    """One vector with its pairs of channels, i and i + e/2, turned; before the patches, none."""
    if by is None or patch < 0:
        return vector
    half, found = len(vector) // 2, vector.clone()
    for i in range(half):
        angle = math.atan2(float(by.sin[patch, i]), float(by.cos[patch, i]))
        a, b = vector[i], vector[half + i]
        found[i] = a * math.cos(angle) - b * math.sin(angle)
        found[half + i] = a * math.sin(angle) + b * math.cos(angle)
    return found


def by_the_equations(
    attention: Attention, image: Tensor, by: Rotation | None = None
) -> tuple[Tensor, Tensor]:
    """Equations 5 to 8 for one image, token by token and head by head: t d, and A as h t t."""
    before = 0 if by is None else len(image) - len(by.sin)
    count, heads = image.shape[0], attention.num_heads
    width = attention.proj.in_features // heads

    def project(token: Tensor, part: int, head: int) -> Tensor:
        start = (part * heads + head) * width
        rows = slice(start, start + width)
        vector = attention.qkv.weight[rows] @ token
        return vector if attention.qkv.bias is None else vector + attention.qkv.bias[rows]

    matrix = torch.zeros(heads, count, count, dtype=image.dtype)
    found: list[list[Tensor]] = [[] for _ in range(count)]
    for head in range(heads):
        q = [normed(project(token, 0, head), attention.q_norm) for token in image]  # equation 5
        k = [normed(project(token, 1, head), attention.k_norm) for token in image]
        q, k = ([turned(x, by, i - before) for i, x in enumerate(part)] for part in (q, k))
        v = [project(token, 2, head) for token in image]
        for i in range(count):
            scores = [math.exp(float(q[i] @ k[j]) / math.sqrt(width)) for j in range(count)]
            for j in range(count):
                matrix[head, i, j] = scores[j] / sum(scores)  # equation 6
            found[i].append(torch.stack([matrix[head, i, j] * v[j] for j in range(count)]).sum(0))
    rows = [attention.proj.weight @ torch.cat(row) + attention.proj.bias for row in found]
    return torch.stack(rows), matrix  # equations 7 and 8


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_attention_is_equations_5_to_8(case: dict[str, Any]) -> None:
    attention, x = make(**case).double(), tokens().double()
    for image, out, matrix in zip(x, attention(x), attention.weights(x), strict=True):
        wanted, a = by_the_equations(attention, image)
        # Measured in float64: 4e-15 for the output, 7e-16 for A.
        torch.testing.assert_close(out, wanted, rtol=0, atol=1e-12)
        torch.testing.assert_close(matrix, a, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_fused_attention_is_the_explicit_one(case: dict[str, Any]) -> None:
    attention, x = make(**case), tokens(count=17)
    inner = attention.proj.in_features
    values = attention.qkv(x)[..., 2 * inner :].unflatten(-1, (attention.num_heads, -1))
    explicit = torch.einsum("bhts,bshe->bthe", attention.weights(x), values).flatten(2)
    # Measured: 2e-6, on outputs of the size of 13.
    torch.testing.assert_close(attention(x), attention.proj(explicit), rtol=0, atol=2e-5)


@pytest.mark.parametrize("case", EVEN.values(), ids=EVEN)
@pytest.mark.parametrize("patches", [5, 3])
def test_a_rotation_turns_normed_queries_and_keys_of_the_patches_and_no_values(
    case: dict[str, Any], patches: int
) -> None:
    attention, x = make(**case).double(), tokens().double()
    by = rotation(patches, case["head_dim"])
    outs, matrices = attention(x, by), attention.weights(x, by)
    for image, out, matrix in zip(x, outs, matrices, strict=True):
        wanted, a = by_the_equations(attention, image, by)
        # Measured in float64: 4e-15 for the output, 7e-16 for A.
        torch.testing.assert_close(out, wanted, rtol=0, atol=1e-12)
        torch.testing.assert_close(matrix, a, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_weights_of_a_token_sum_to_one(case: dict[str, Any]) -> None:
    matrix = make(**case).weights(tokens())
    assert matrix.shape == (2, case["num_heads"], 5, 5)
    assert matrix.min() >= 0
    # Measured: 2e-7.
    torch.testing.assert_close(matrix.sum(-1), torch.ones(matrix.shape[:-1]), rtol=0, atol=1e-6)


def test_the_order_of_tokens_is_the_order_of_answers() -> None:
    attention, x = make(num_heads=3, head_dim=4), tokens(count=9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    # Measured: 2e-6, on outputs of the size of 15.
    torch.testing.assert_close(attention(x[:, order]), attention(x)[:, order], rtol=0, atol=1e-5)


def test_no_bias_means_none_in_the_projections_of_q_k_and_v() -> None:
    attention = make(num_heads=3, head_dim=4, qkv_bias=False)
    assert attention.qkv.bias is None
    assert attention.proj.bias is not None


def test_at_rate_0_training_is_evaluation() -> None:
    attention, x = make(num_heads=3, head_dim=4), tokens()
    assert torch.equal(attention.train()(x), attention.eval()(x))


def test_in_evaluation_any_rate_is_the_identity() -> None:
    x = tokens()
    wanted = make(num_heads=3, head_dim=4).eval()(x)
    dropping = make(num_heads=3, head_dim=4, attn_drop=0.9, proj_drop=0.9).eval()
    assert torch.equal(dropping(x), wanted)


def test_dropout_takes_whole_probabilities_and_rescales_the_rest() -> None:
    attention = make(num_heads=1, head_dim=DIM, attn_drop=0.5, qkv_bias=False)
    attention.qkv.weight.zero_()  # every A is 1 / t, and every value is the token
    attention.qkv.weight[2 * DIM :] = torch.eye(DIM)
    attention.proj.weight.copy_(torch.eye(DIM))
    attention.proj.bias.zero_()
    out = attention(torch.ones(64, 4, DIM))
    assert (out == out[..., :1]).all()  # a probability is dropped for all channels at once
    counts = out[..., 0] * 4 / 2  # how many of the four tokens were kept, each counted twice
    assert set(counts.flatten().tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}
    # 1,024 draws: the mean of kept tokens is 2 with a standard error of 1 / 16.
    assert abs(counts.mean().item() - 2) < 0.3


def test_dropout_of_the_output_zeroes_entries_and_rescales_the_rest() -> None:
    attention, x = make(num_heads=3, head_dim=4, proj_drop=0.75), tokens(batch=50)
    out, kept = attention.train()(x), attention.eval()(x)
    dropped = out == 0
    assert torch.equal(out[~dropped], 4 * kept[~dropped])
    # 3,000 draws: the standard error of the rate is 0.008.
    assert abs(dropped.float().mean().item() - 0.75) < 0.04


def test_weights_are_without_dropout_even_in_training() -> None:
    x = tokens()
    attention = make(num_heads=3, head_dim=4, attn_drop=0.5).train()
    assert torch.equal(attention.weights(x), make(num_heads=3, head_dim=4).weights(x))
