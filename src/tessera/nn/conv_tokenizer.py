"""Overlapping convolutions in place of patches: the tokenizer of CCT."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class ConvTokenizer(nn.Module):
    """Several times convolution without bias, ReLU and a 3x3 max-pooling of stride 2.

    Hassani et al. (2021), "Escaping the Big Data Paradigm with Compact Transformers", section 3.4.

    Args:
        layers: How many of them.
        kernel_size: Side of the kernels; the stride follows from it, see ``tokenizer_stride``.
        width: Channels between them.
    """

    def __init__(
        self, in_chans: int, embed_dim: int, *, layers: int, kernel_size: int, width: int
    ) -> None:
        super().__init__()
        chans = [in_chans, *([width] * (layers - 1)), embed_dim]
        stride = conv_stride(kernel_size)
        self.convs = nn.ModuleList(
            nn.Conv2d(chans[i], chans[i + 1], kernel_size, stride, kernel_size // 2, bias=False)
            for i in range(layers)
        )

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        x = images
        for conv in self.convs:
            x = F.max_pool2d(F.relu(conv(x)), kernel_size=3, stride=2, padding=1)
        return x.flatten(2).mT


def conv_stride(kernel_size: int) -> int:
    """Return the stride that goes with a kernel in the authors' code: 1 for 3, 2 for 7."""
    return max(1, kernel_size // 2 - 1)
