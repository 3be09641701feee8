"""Stems of small pieces, each against a slow computation written from its formula."""

import math
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tessera.nn.attention import Attention
from tessera.nn.bottleneck import ResNetEmbed, ResNetV2, resnet_stride
from tessera.nn.conv_tokenizer import ConvTokenizer, conv_stride
from tessera.nn.pool import SeqPool
from tessera.nn.shifted_patch import ShiftedPatchEmbed, shifted
from tessera.nn.std_conv import EPSILONS, StdConv2d, pad_same, standardise


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("form", EPSILONS)
def test_every_filter_is_standardised_over_inputs_and_places(form: str) -> None:
    scales = torch.tensor([1.0, 0.1, 1e-2, 1e-3])[:, None, None, None]
    weight = (randn(4, 3, 5, 5) * scales + 2).double()
    inside, outside, _ = EPSILONS[form]
    found = standardise(weight, EPSILONS[form]).numpy()
    for o, kernel in enumerate(weight.numpy()):
        count = kernel.size
        mean = sum(kernel.flatten()) / count
        variance = sum((v - mean) ** 2 for v in kernel.flatten()) / count
        wanted = (kernel - mean) / (math.sqrt(variance + inside) + outside)
        # Measured: at most 5.3e-13 in double precision.
        np.testing.assert_allclose(found[o], wanted, rtol=0, atol=1e-9)


def test_the_small_numbers_are_those_of_three_codes() -> None:
    weight = torch.tensor([-1e-5, 1e-5]).reshape(1, 2, 1, 1)  # mean 0, deviation 1e-5
    values = {form: standardise(weight, e)[0, 1, 0, 0].item() for form, e in EPSILONS.items()}
    assert values["paper"] == pytest.approx(1e-5 / 2e-5)
    assert values["bit"] == pytest.approx(1e-5 / math.sqrt(1e-10 + 1e-10))
    assert values["timm"] == pytest.approx(1e-5 / math.sqrt(1e-10 + 1e-8))
    assert [e.norm for e in EPSILONS.values()] == [1e-6, 1e-5, 1e-5]


@given(
    side=st.integers(1, 20), kernel=st.sampled_from([1, 3, 7]), stride=st.sampled_from([1, 2, 3])
)
def test_same_padding_fits_as_many_windows_as_xla_says(side: int, kernel: int, stride: int) -> None:
    padded = pad_same(torch.ones(1, 1, side, side), kernel, stride)
    wanted = math.ceil(side / stride)
    total = max((wanted - 1) * stride + kernel - side, 0)
    assert padded.shape == (1, 1, side + total, side + total)
    assert (padded.shape[2] - kernel) // stride + 1 == wanted
    assert padded[0, 0, total // 2 :, total // 2 :][:side, :side].all()
    assert padded.sum() == side * side


@torch.no_grad()
@pytest.mark.parametrize("same", [True, False])
def test_a_standardised_convolution_is_a_sum_over_its_window(same: bool) -> None:
    conv = StdConv2d(2, 3, 3, stride=2, same=same)
    images = randn(1, 2, 6, 6)
    kernel = standardise(conv.weight, conv.epsilons).detach()
    padded = torch.zeros(2, 8, 8)
    first = 0 if same else 1  # XLA puts the odd pixel at the end
    padded[:, first : first + 6, first : first + 6] = images[0]
    wanted = torch.stack(
        [
            torch.stack(
                [
                    (kernel * padded[:, 2 * y : 2 * y + 3, 2 * x : 2 * x + 3]).sum(dim=(1, 2, 3))
                    for x in range(3)
                ],
                dim=-1,
            )
            for y in range(3)
        ],
        dim=-2,
    )
    # Measured: 1.9e-6, where values are of order 5.
    torch.testing.assert_close(conv(images)[0], wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("blocks", "stride"), [((), 4), ((2,), 4), ((1, 1), 8), ((1, 1, 1), 16)])
def test_a_resnet_leaves_one_token_per_patch(blocks: tuple[int, ...], stride: int) -> None:
    assert resnet_stride(blocks) == stride
    stem = ResNetEmbed(2 * stride, 3, 8, blocks=blocks, width=32, form="paper")
    assert stem(randn(1, 3, 4 * stride, 6 * stride)).shape == (1, 6, 8)
    if blocks:
        whole = ResNetV2(3, blocks=blocks, width=32, form="bit")
        width = 128 * 2 ** (len(blocks) - 1)
        assert whole(randn(1, 3, 4 * stride, 6 * stride)).shape == (1, 24, width)


@torch.no_grad()
def test_the_tokenizer_is_convolution_relu_and_pooling() -> None:
    tokenizer = ConvTokenizer(2, 5, layers=2, kernel_size=3, width=4)
    image = randn(2, 8, 8)
    x = image
    for conv in tokenizer.convs:
        kernel = cast(nn.Conv2d, conv).weight  # o i 3 3
        side = x.shape[-1]
        padded = torch.zeros(x.shape[0], side + 2, side + 2)
        padded[:, 1:-1, 1:-1] = x
        seen = torch.zeros(kernel.shape[0], side, side)
        for r in range(side):
            for c in range(side):
                seen[:, r, c] = (kernel * padded[:, r : r + 3, c : c + 3]).sum(dim=(1, 2, 3))
        seen = seen.clamp(min=0)
        x = torch.zeros(seen.shape[0], side // 2, side // 2)
        for r in range(side // 2):
            for c in range(side // 2):
                top, left = max(2 * r - 1, 0), max(2 * c - 1, 0)
                x[:, r, c] = seen[:, top : 2 * r + 2, left : 2 * c + 2].amax(dim=(1, 2))
    # Measured: 9.7e-8, where values are of order 1.
    torch.testing.assert_close(tokenizer(image[None])[0], x.flatten(1).T, rtol=0, atol=1e-5)
    assert [conv_stride(k) for k in (3, 5, 7)] == [1, 1, 2]


@torch.no_grad()
def test_sequence_pooling_is_a_weighted_mean() -> None:
    pool = SeqPool(6)
    tokens = randn(2, 5, 6)
    for image, found, shares in zip(tokens, pool(tokens), pool.weights(tokens), strict=True):
        scores = [float(pool.score.weight[0] @ token + pool.score.bias[0]) for token in image]
        total = sum(math.exp(score) for score in scores)
        wanted = sum(math.exp(s) / total * t for s, t in zip(scores, image, strict=True))
        # Measured: 3.0e-8.
        torch.testing.assert_close(found, torch.as_tensor(wanted), rtol=0, atol=1e-5)
        assert shares.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_shifted_copies_hold_what_lies_diagonally_beside_a_pixel(shift: int) -> None:
    image = randn(2, 5, 6)
    found = shifted(image[None], shift)[0].reshape(5, 2, 5, 6)
    steps = [(0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1)]  # where each copy looks
    for copy, (down, right) in zip(found, steps, strict=True):
        for r in range(5):
            for c in range(6):
                y, x = r + down * shift, c + right * shift
                inside = 0 <= y < 5 and 0 <= x < 6
                wanted = image[:, y, x] if inside else torch.zeros(2)
                assert torch.equal(copy[:, r, c], wanted)


@torch.no_grad()
def test_a_shifted_patch_is_normalised_and_projected() -> None:
    embed = ShiftedPatchEmbed(2, 3, 7)
    with torch.no_grad():
        embed.norm.weight.copy_(randn(60, seed=1))
        embed.norm.bias.copy_(randn(60, seed=2))
    image = randn(3, 4, 6)
    copies = shifted(image[None], 1)[0]
    found = embed(image[None])[0]
    for token, (r, c) in zip(found, [(r, c) for r in (0, 2) for c in (0, 2, 4)], strict=True):
        pixels = torch.stack([copies[:, r + y, c + x] for y in (0, 1) for x in (0, 1)]).flatten()
        centred = pixels - pixels.mean()
        normal = centred / (centred.square().mean() + 1e-5).sqrt()
        wanted = embed.proj.weight @ (normal * embed.norm.weight + embed.norm.bias)
        # Measured: 3.6e-7, where values are of order 1.
        torch.testing.assert_close(token, wanted + embed.proj.bias, rtol=0, atol=1e-5)


def local_attention() -> Attention:
    torch.manual_seed(0)
    attention = Attention(6, 2, 4, locality=True)
    assert attention.locality is not None
    with torch.no_grad():
        attention.locality.temperature.copy_(torch.tensor([0.7, 3.0]))
    return attention


@torch.no_grad()
def test_local_attention_divides_by_its_temperature_and_skips_the_diagonal() -> None:
    attention, x = local_attention(), randn(1, 5, 6)
    qkv = (attention.qkv.weight @ x[0].T).T + attention.qkv.bias
    q, k, v = qkv.reshape(5, 3, 2, 4).unbind(1)  # t h e
    heads = []
    for h, temperature in enumerate((0.7, 3.0)):
        rows = []
        for i in range(5):
            others = [j for j in range(5) if j != i]
            scores = [math.exp(float(q[i, h] @ k[j, h]) / temperature) for j in others]
            rows.append(sum(s / sum(scores) * v[j, h] for s, j in zip(scores, others, strict=True)))
        heads.append(torch.stack([torch.as_tensor(row) for row in rows]))
    wanted = torch.cat(heads, dim=1) @ attention.proj.weight.T + attention.proj.bias
    # Measured: 6.0e-8, where values are of order 1.
    torch.testing.assert_close(attention(x)[0], wanted, rtol=0, atol=1e-5)
    weights = attention.weights(x)
    assert not weights.diagonal(dim1=-2, dim2=-1).any()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(1, 2, 5))


def test_local_attention_starts_as_plain_attention_without_the_diagonal() -> None:
    attention = Attention(6, 2, 4, locality=True)
    assert attention.locality is not None
    assert attention.locality.temperature.tolist() == [2.0, 2.0]  # sqrt(4)


@torch.no_grad()
def test_a_token_that_is_alone_attends_to_itself() -> None:
    attention = local_attention()
    alone = randn(1, 1, 6)
    assert attention(alone).isfinite().all()
    assert torch.equal(attention.weights(alone), torch.ones(1, 2, 1, 1))
