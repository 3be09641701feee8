"""What a config puts before the encoder, and how often its blocks are dropped."""

from typing import cast

from torch import nn

from tessera.config import ViTConfig
from tessera.nn.block import Block, DropPath
from tessera.nn.bottleneck import ResNetEmbed, ResNetV2
from tessera.nn.conv_tokenizer import ConvTokenizer
from tessera.nn.fractal import FractalNet, ResidualDrop, ResidualPaths
from tessera.nn.hiera import Hiera
from tessera.nn.patch_embed import ConvPatchEmbed, LinearPatchEmbed
from tessera.nn.shifted_patch import ShiftedPatchEmbed
from tessera.nn.stages import StageSpec
from tessera.nn.swin import Swin


def make_stem(c: ViTConfig) -> nn.Module:
    """Build what turns images ``b c h w`` into tokens ``b n d``, one per patch in raster order."""
    match c.patch_embed:
        case "linear":
            return LinearPatchEmbed(c.patch_size, c.in_chans, c.embed_dim, patch_norm=c.patch_norm)
        case "shifted":
            return ShiftedPatchEmbed(c.patch_size, c.in_chans, c.embed_dim)
        case "tokenizer":
            return ConvTokenizer(
                c.in_chans,
                c.embed_dim,
                layers=c.stem_layers,
                kernel_size=c.stem_kernel,
                width=c.stem_width,
            )
        case "resnet":
            return ResNetEmbed(
                c.patch_size,
                c.in_chans,
                c.embed_dim,
                blocks=c.stem_blocks,
                width=c.stem_width,
                form=c.stem_norm,
            )
        case "resnetv2":
            return ResNetV2(c.in_chans, blocks=c.stem_blocks, width=c.stem_width, form=c.stem_norm)
        case "fractal":
            return FractalNet(
                c.in_chans,
                blocks=c.stem_layers,
                width=c.stem_width,
                columns=c.stem_columns,
                path_rate=c.drop_path_rate,
                drop_rate=c.drop_rate,
            )
        case "hiera":
            return Hiera(_stage_spec(c), grid=c.grid)
        case "swin":
            return Swin(_stage_spec(c), window=c.attention_window)
    return ConvPatchEmbed(c.patch_size, c.in_chans, c.embed_dim)


def drop_path_rates(config: ViTConfig) -> list[float]:
    """Return the rate of every block: p (l / (L - 1)) for l from 0, or p (Huang et al., 2016)."""
    rate, depth = config.drop_path_rate, config.num_layers
    if config.drop_path_rule == "constant":
        return [rate] * depth
    return [rate * i / max(depth - 1, 1) for i in range(depth)]


def _stage_spec(c: ViTConfig) -> StageSpec:
    return StageSpec(
        in_chans=c.in_chans,
        patch_size=c.patch_size // c.stem_stride,
        blocks=c.stem_blocks,
        width=c.stem_width,
        num_heads=c.stem_heads,
        drop_paths=tuple(drop_path_rates(c)),
        mlp=c.mlp,
        qkv_bias=c.qkv_bias,
        norm=c.norm,
        norm_eps=c.norm_eps,
        drop=c.drop_rate,
        attn_drop=c.attn_drop_rate,
    )


def drop_by_columns(blocks: nn.ModuleList) -> ResidualPaths:
    """Let blocks drop their branches as ``ResidualPaths`` says, at the rates that they have."""
    paths = ResidualPaths(len(blocks))
    for i, block in enumerate(cast(list[Block], list(blocks))):
        rate = cast(DropPath, block.drop_path1).rate
        block.drop_path1 = ResidualDrop(rate, i, paths)
        block.drop_path2 = ResidualDrop(rate, i, paths)
    return paths
