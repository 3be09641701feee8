import math

import pytest
import torch
from torch import Tensor, nn

from tessera.nn.block import Mlp, SwiGlu
from tessera.nn.pool import AttentionPool

DIM, HEADS = 12, 3


def make(norm: str = "layernorm", mlp: str = "gelu") -> AttentionPool:
    """A pool whose every weight matters."""
    torch.manual_seed(0)
    pool = AttentionPool(DIM, HEADS, 20, mlp=mlp, norm=norm, norm_eps=0.1)
    for parameter in pool.parameters():
        nn.init.normal_(parameter, std=0.5)
    return pool.requires_grad_(False)


def tokens(count: int = 6) -> Tensor:
    return torch.randn(2, count, DIM, generator=torch.Generator().manual_seed(1))


def by_hand(pool: AttentionPool, image: Tensor) -> tuple[Tensor, Tensor]:
    """``x = MHA(probe, tokens); x = x + MLP(norm(x))``, head by head: d, and weights h t."""
    width = DIM // HEADS
    q = pool.q.weight @ pool.latent[0, 0] + pool.q.bias
    parts, rows = [], []
    for head in range(HEADS):
        at = slice(head * width, (head + 1) * width)
        after = slice(DIM + head * width, DIM + (head + 1) * width)
        k = [pool.kv.weight[at] @ token + pool.kv.bias[at] for token in image]
        v = [pool.kv.weight[after] @ token + pool.kv.bias[after] for token in image]
        scores = [math.exp(float(q[at] @ key) / math.sqrt(width)) for key in k]
        row = [score / sum(scores) for score in scores]
        parts.append(torch.stack([a * value for a, value in zip(row, v, strict=True)]).sum(0))
        rows.append(row)
    x = pool.proj.weight @ torch.cat(parts) + pool.proj.bias
    assert isinstance(pool.norm, nn.LayerNorm | nn.RMSNorm)
    if isinstance(pool.norm, nn.LayerNorm):
        centred = x - x.mean()
        normed = centred / (centred.square().mean() + 0.1).sqrt() * pool.norm.weight
        normed = normed + pool.norm.bias
    else:
        normed = x / (x.square().mean() + 0.1).sqrt() * pool.norm.weight
    return x + mlp_by_hand(pool.mlp, normed), torch.tensor(rows, dtype=x.dtype)


def mlp_by_hand(mlp: Mlp | SwiGlu, x: Tensor) -> Tensor:
    """Linear, GELU, linear; or the gated form."""
    if isinstance(mlp, Mlp):
        hidden = mlp.fc1.weight @ x + mlp.fc1.bias
        hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
        return mlp.fc2.weight @ hidden + mlp.fc2.bias
    gate, value = (mlp.w12.weight @ x + mlp.w12.bias).chunk(2)
    return mlp.w3.weight @ (gate / (1 + torch.exp(-gate)) * value) + mlp.w3.bias


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize("mlp", ["gelu", "swiglu"])
def test_a_probe_attends_to_all_tokens_and_an_mlp_follows(norm: str, mlp: str) -> None:
    pool, x = make(norm, mlp).double(), tokens().double()
    assert isinstance(pool.mlp, Mlp if mlp == "gelu" else SwiGlu)
    for image, out, weights in zip(x, pool(x), pool.weights(x), strict=True):
        wanted, rows = by_hand(pool, image)
        # Measured in float64: 3e-15 for the output, 2e-16 for the weights.
        torch.testing.assert_close(out, wanted, rtol=0, atol=1e-12)
        torch.testing.assert_close(weights, rows, rtol=0, atol=1e-12)


def test_the_weights_of_the_probe_sum_to_one() -> None:
    weights = make().weights(tokens(9))
    assert weights.shape == (2, HEADS, 9)
    assert weights.min() >= 0
    # Measured: 1e-7.
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, HEADS), rtol=0, atol=1e-6)


def test_the_pool_does_not_mind_the_order_of_tokens() -> None:
    pool, x = make(), tokens(9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(2))
    # Measured: 6e-7, on outputs of the size of 6.
    torch.testing.assert_close(pool(x[:, order]), pool(x), rtol=0, atol=2e-5)
