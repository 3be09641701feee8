"""The ResNets of BiT and of the hybrid ViT: a root, and stages of bottlenecks."""

import math

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tessera.nn.std_conv import StdConv2d, make_group_norm, pad_same


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, each with its norm, then add and ReLU: the hybrid's unit.

    Dosovitskiy et al. (2020), section 4.1; as in their code, with the stride on the 3x3.

    Args:
        width: Channels in the middle; four times as many come out.
    """

    def __init__(self, in_chans: int, width: int, *, stride: int, form: str) -> None:
        super().__init__()
        out = 4 * width
        if stride != 1 or in_chans != out:
            self.conv_proj = StdConv2d(in_chans, out, 1, stride=stride, same=True, form=form)
            self.norm_proj = make_group_norm(out, form)
        self.projects = stride != 1 or in_chans != out
        self.conv1 = StdConv2d(in_chans, width, 1, same=True, form=form)
        self.norm1 = make_group_norm(width, form)
        self.conv2 = StdConv2d(width, width, 3, stride=stride, same=True, form=form)
        self.norm2 = make_group_norm(width, form)
        self.conv3 = StdConv2d(width, out, 1, same=True, form=form)
        self.norm3 = make_group_norm(out, form)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        shortcut = self.norm_proj(self.conv_proj(x)) if self.projects else x
        x = F.relu(self.norm1(self.conv1(x)))
        x = F.relu(self.norm2(self.conv2(x)))
        return F.relu(shortcut + self.norm3(self.conv3(x)))


class PreActBottleneck(nn.Module):
    """Norm and ReLU before each of 1x1, 3x3 and 1x1, and nothing after the sum: BiT's unit.

    He et al. (2016), "Identity Mappings in Deep Residual Networks"; Kolesnikov et al. (2019).

    Args:
        width: Channels in the middle; four times as many come out.
    """

    def __init__(self, in_chans: int, width: int, *, stride: int, form: str) -> None:
        super().__init__()
        out = 4 * width
        self.projects = stride != 1 or in_chans != out
        if self.projects:
            self.conv_proj = StdConv2d(in_chans, out, 1, stride=stride, form=form)
        self.norm1 = make_group_norm(in_chans, form)
        self.conv1 = StdConv2d(in_chans, width, 1, form=form)
        self.norm2 = make_group_norm(width, form)
        self.conv2 = StdConv2d(width, width, 3, stride=stride, form=form)
        self.norm3 = make_group_norm(width, form)
        self.conv3 = StdConv2d(width, out, 1, form=form)

    def forward(self, x: Float[Tensor, "b i h w"]) -> Float[Tensor, "b o h2 w2"]:
        preactivated = F.relu(self.norm1(x))
        shortcut = self.conv_proj(preactivated) if self.projects else x
        x = self.conv1(preactivated)
        x = self.conv2(F.relu(self.norm2(x)))
        return shortcut + self.conv3(F.relu(self.norm3(x)))


class ResNetEmbed(nn.Module):
    """A ResNet, and a projection of its feature map: the stem of a hybrid ViT.

    Args:
        blocks: Bottlenecks per stage; empty leaves the root alone, which shrinks images by 4.
        width: Channels of the root.
        patch_size: Side of a patch in pixels of the image, a multiple of what the ResNet shrinks.
        form: A key of ``tessera.nn.std_conv.EPSILONS``.
    """

    def __init__(
        self,
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        *,
        blocks: tuple[int, ...],
        width: int,
        form: str,
    ) -> None:
        super().__init__()
        self.conv_root = StdConv2d(in_chans, width, 7, stride=2, same=True, form=form)
        self.norm_root = make_group_norm(width, form)
        self.stages = _stages(Bottleneck, blocks, width, form)
        channels = 4 * width * 2 ** (len(blocks) - 1) if blocks else width
        side = patch_size // resnet_stride(blocks)
        self.proj = nn.Conv2d(channels, embed_dim, kernel_size=side, stride=side)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        x = F.relu(self.norm_root(self.conv_root(images)))
        x = F.max_pool2d(pad_same(x, 3, 2, value=-math.inf), kernel_size=3, stride=2)
        x = self.proj(self.stages(x))  # b d h w
        return x.flatten(2).mT


class ResNetV2(nn.Module):
    """The whole of BiT's ResNet but pooling and head: root, stages, norm and ReLU.

    Its tokens are the places of the last feature map; their mean is what BiT's head reads.
    """

    def __init__(self, in_chans: int, *, blocks: tuple[int, ...], width: int, form: str) -> None:
        super().__init__()
        self.conv_root = StdConv2d(in_chans, width, 7, stride=2, form=form)
        self.stages = _stages(PreActBottleneck, blocks, width, form)
        self.norm = make_group_norm(4 * width * 2 ** (len(blocks) - 1), form)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        x = F.pad(self.conv_root(images), [1, 1, 1, 1])  # by zeros, which the pooling sees
        x = self.stages(F.max_pool2d(x, kernel_size=3, stride=2))
        return F.relu(self.norm(x)).flatten(2).mT


def resnet_stride(blocks: tuple[int, ...]) -> int:
    """Return by how much a ResNet with so many stages shrinks each side."""
    return 4 * 2 ** max(len(blocks) - 1, 0)


def _stages(
    unit: type[Bottleneck] | type[PreActBottleneck], blocks: tuple[int, ...], width: int, form: str
) -> nn.Sequential:
    """Stage i has units of width * 2^i, and all but the first stage begin with stride 2."""
    stages, chans = [], width
    for i, count in enumerate(blocks):
        middle, units = width * 2**i, []
        for j in range(count):
            stride = 2 if i and not j else 1
            units.append(unit(chans, middle, stride=stride, form=form))
            chans = 4 * middle
        stages.append(nn.Sequential(*units))
    return nn.Sequential(*stages)
