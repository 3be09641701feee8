import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tessera.nn.patch_embed import (
    ConvPatchEmbed,
    LinearPatchEmbed,
    conv_to_linear,
    grid_of,
    linear_to_conv,
    patchify,
    unpatchify,
)

PROPERTY = settings(max_examples=25, deadline=None, derandomize=True)
SIDES = st.integers(1, 4)
PATCHES = st.integers(1, 5)
CHANNELS = st.integers(1, 4)


def image_like(batch: int, channels: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, height, width, generator=generator)


def pair(patch: int, channels: int, dim: int) -> tuple[ConvPatchEmbed, LinearPatchEmbed]:
    """Both forms of one embedding."""
    torch.manual_seed(0)
    conv = ConvPatchEmbed(patch, channels, dim)
    linear = LinearPatchEmbed(patch, channels, dim)
    bias = conv.proj.bias
    assert bias is not None
    with torch.no_grad():
        linear.proj.weight.copy_(conv_to_linear(conv.proj.weight))
        linear.proj.bias.copy_(bias)
    return conv, linear


@given(batch=st.integers(1, 3), channels=CHANNELS, rows=SIDES, cols=SIDES, patch=PATCHES)
@PROPERTY
def test_unpatchify_undoes_patchify(
    batch: int, channels: int, rows: int, cols: int, patch: int
) -> None:
    images = image_like(batch, channels, rows * patch, cols * patch)
    patches = patchify(images, patch)
    assert patches.shape == (batch, rows * cols, patch * patch * channels)
    assert torch.equal(unpatchify(patches, (rows, cols), patch), images)


@given(channels=CHANNELS, rows=SIDES, cols=SIDES, patch=PATCHES)
@PROPERTY
def test_patches_are_in_raster_order_and_their_pixels_by_row_column_channel(
    channels: int, rows: int, cols: int, patch: int
) -> None:
    images = image_like(2, channels, rows * patch, cols * patch)
    patches = patchify(images, patch)
    for image, found in zip(images, patches, strict=True):
        for n in range(rows * cols):
            top, left = n // cols * patch, n % cols * patch
            wanted = [
                image[channel, top + row, left + col].item()
                for row in range(patch)
                for col in range(patch)
                for channel in range(channels)
            ]
            assert found[n].tolist() == wanted


@given(channels=CHANNELS, rows=SIDES, cols=SIDES, patch=PATCHES, dim=st.integers(1, 9))
@PROPERTY
def test_a_strided_convolution_is_flatten_and_multiply(
    channels: int, rows: int, cols: int, patch: int, dim: int
) -> None:
    conv, linear = pair(patch, channels, dim)
    images = image_like(2, channels, rows * patch, cols * patch)
    # Measured: 4e-7 at most.
    torch.testing.assert_close(conv(images), linear(images), rtol=0, atol=1e-5)


def test_a_strided_convolution_is_flatten_and_multiply_at_the_papers_patch() -> None:
    conv, linear = pair(16, 3, 64)
    images = image_like(2, 3, 48, 32)
    assert conv(images).shape == (2, 6, 64)
    # Measured: 2e-6, over sums of 768 products.
    torch.testing.assert_close(conv(images), linear(images), rtol=0, atol=1e-5)


@given(channels=CHANNELS, patch=PATCHES, dim=st.integers(1, 9))
@PROPERTY
def test_weights_of_the_two_forms_convert_without_loss(channels: int, patch: int, dim: int) -> None:
    weight = image_like(dim, channels, patch, patch)
    flat = conv_to_linear(weight)
    assert flat.shape == (dim, channels * patch * patch)
    assert torch.equal(linear_to_conv(flat, patch), weight)
    assert torch.equal(conv_to_linear(linear_to_conv(flat, patch)), flat)


def test_patch_norm_is_layer_norm_before_and_after() -> None:
    torch.manual_seed(0)
    embed = LinearPatchEmbed(4, 3, 8, patch_norm=True)
    for parameter in embed.parameters():
        nn.init.normal_(parameter)
    images = image_like(2, 3, 8, 12)

    def norm(x: Tensor, by: nn.Module) -> Tensor:
        assert isinstance(by, nn.LayerNorm)
        centred = x - x.mean(dim=-1, keepdim=True)
        deviation = (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
        return centred / deviation * by.weight + by.bias

    x = norm(patchify(images, 4), embed.norm_in) @ embed.proj.weight.T + embed.proj.bias
    # Measured: 4e-7.
    torch.testing.assert_close(embed(images), norm(x, embed.norm_out), rtol=0, atol=1e-5)


@given(height=st.integers(1, 60), width=st.integers(1, 60), patch=st.integers(2, 16))
@PROPERTY
def test_an_image_that_does_not_fit_is_refused_with_a_size_that_does(
    height: int, width: int, patch: int
) -> None:
    assume(height % patch or width % patch)
    images = image_like(1, 1, height, width)
    conv, linear = pair(patch, 1, 2)
    for cut in (
        lambda: patchify(images, patch),
        lambda: grid_of(images, patch),
        lambda: conv(images),
        lambda: linear(images),
    ):
        with pytest.raises(ValueError, match=r"\nhint: resize it, for instance to ") as error:
            cut()
        message = str(error.value)
        assert message.startswith(f"an image of {height}x{width} is no multiple")
        assert f"patch_size={patch}" in message
        fit = [int(side) for side in message.rpartition(" ")[2].split("x")]
        grid = grid_of(image_like(1, 1, fit[0], fit[1]), patch)
        assert math.prod(grid) > 0


@pytest.mark.parametrize(
    ("pixels", "grid"), [(12, (2, 2)), (12, (1, 5)), (13, (2, 3))], ids=["few", "many", "pixels"]
)
def test_patches_that_do_not_fill_the_grid_are_refused(pixels: int, grid: tuple[int, int]) -> None:
    patches = torch.zeros(1, 6, pixels)
    with pytest.raises(ValueError, match=f"^6 patches of {pixels} .* {grid[0]}x{grid[1]} .* 2$"):
        unpatchify(patches, grid, 2)
