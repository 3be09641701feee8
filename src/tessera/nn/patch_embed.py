"""From pixels to tokens: the patches of the title, and x_p E of equation 1."""

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

Grid = tuple[int, int]
"""Rows and columns of patches."""


def patchify(images: Float[Tensor, "b c h w"], patch_size: int) -> Float[Tensor, "b n p"]:
    """Lay the pixels of every patch in a row: x_p, with p = P * P * C (paper, section 3.1).

    Within a patch the order is row, column, channel; patches are in raster order.

    Raises:
        ValueError: A side of the images is no multiple of the patch.
    """
    grid_of(images, patch_size)
    return rearrange(images, "b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=patch_size, p2=patch_size)


def unpatchify(
    patches: Float[Tensor, "b n p"], grid: Grid, patch_size: int
) -> Float[Tensor, "b c h w"]:
    """Put rows of pixels back in their places; the inverse of ``patchify``.

    Raises:
        ValueError: The grid does not hold ``n`` patches, or ``p`` is no multiple of P * P.
    """
    count, pixels = patches.shape[1:]
    if grid[0] * grid[1] != count or pixels % patch_size**2:
        raise ValueError(
            f"{count} patches of {pixels} values do not fill a grid of {grid[0]}x{grid[1]} "
            f"patches of side {patch_size}"
        )
    return rearrange(
        patches,
        "b (h w) (p1 p2 c) -> b c (h p1) (w p2)",
        h=grid[0],
        p1=patch_size,
        p2=patch_size,
    )


def grid_of(images: Float[Tensor, "b c h w"], patch_size: int) -> Grid:
    """Return the rows and columns of patches that the images are cut into.

    Raises:
        ValueError: A side of the images is no multiple of the patch.
    """
    height, width = images.shape[-2:]
    if height % patch_size or width % patch_size:
        fit = "x".join(str(max(1, side // patch_size) * patch_size) for side in (height, width))
        raise ValueError(
            f"an image of {height}x{width} is no multiple of patch_size={patch_size}\n"
            f"hint: resize it, for instance to {fit}"
        )
    return height // patch_size, width // patch_size


class ConvPatchEmbed(nn.Module):
    """Cut an image into patches and project each to a token, as one strided convolution.

    A convolution whose stride is its kernel is the same map as "flatten, then multiply by E".
    It is the default because every published checkpoint stores its weight as (d, c, P, P).
    """

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        grid_of(images, self.patch_size)  # a convolution would cut the rest off in silence
        return rearrange(self.proj(images), "b d h w -> b (h w) d")


class LinearPatchEmbed(nn.Module):
    """Cut an image into patches, flatten each, and multiply it by E: equation 1 as written.

    Args:
        patch_norm: LayerNorm before and after the product, as in lucidrains' vit-pytorch.
    """

    def __init__(
        self, patch_size: int, in_chans: int, embed_dim: int, *, patch_norm: bool = False
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        pixels = patch_size**2 * in_chans
        self.norm_in = nn.LayerNorm(pixels) if patch_norm else nn.Identity()
        self.proj = nn.Linear(pixels, embed_dim)
        self.norm_out = nn.LayerNorm(embed_dim) if patch_norm else nn.Identity()

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        return self.norm_out(self.proj(self.norm_in(patchify(images, self.patch_size))))


def conv_to_linear(weight: Float[Tensor, "d c p1 p2"]) -> Float[Tensor, "d p"]:
    """Turn the weight of ``ConvPatchEmbed.proj`` into that of ``LinearPatchEmbed.proj``."""
    return rearrange(weight, "d c p1 p2 -> d (p1 p2 c)")


def linear_to_conv(weight: Float[Tensor, "d p"], patch_size: int) -> Float[Tensor, "d c p1 p2"]:
    """Turn the weight of ``LinearPatchEmbed.proj`` into that of ``ConvPatchEmbed.proj``."""
    return rearrange(weight, "d (p1 p2 c) -> d c p1 p2", p1=patch_size, p2=patch_size)
