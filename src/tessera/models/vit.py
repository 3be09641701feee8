"""The Vision Transformer of Dosovitskiy et al. (2020), equations 1 to 4."""

from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tessera.config import HIERARCHICAL, ViTConfig
from tessera.models.stems import drop_by_columns, drop_path_rates, make_stem
from tessera.models.variants import parse
from tessera.nn.attention_masks import TokenGrid, dense_mask
from tessera.nn.block import Block, BlockSpec
from tessera.nn.block_sparse import block_mask
from tessera.nn.init import initialise
from tessera.nn.noise import Dropout
from tessera.nn.norm import make_norm
from tessera.nn.patch_embed import Grid, grid_of
from tessera.nn.pool import AttentionPool, SeqPool
from tessera.nn.pos_embed import PosSpec, make_pos_embed
from tessera.nn.positions.base import NoPosEmbed, Placement, PosEmbed
from tessera.nn.stages import Stages


class Tokens(NamedTuple):
    """What the encoder says about an image, by kind of token, so that nobody slices by index."""

    cls: Float[Tensor, "b c d"]
    """The class token; c is 1, or 0 in a model without one."""
    dist: Float[Tensor, "b q d"]
    """The distillation token; q is 1, or 0 in a model without one."""
    registers: Float[Tensor, "b r d"]
    patches: Float[Tensor, "b n d"]
    grid: Grid
    """Rows and columns of the patches, which are in raster order."""


class ViT(nn.Module):
    """Patch embedding, position embedding, ``depth`` encoder blocks, norm, pool, head.

    Images are ``b c h w``, normalised as the model's preprocessing says; any multiple of the patch
    runs, square or not. ``grad_checkpointing = True`` trades a third more time for memory;
    ``block_sparse = True`` runs an attention pattern through torch's flex_attention, where it can.

    Args:
        init: First weights, a key of ``tessera.nn.init.INITS``.
    """

    def __init__(self, config: ViTConfig, *, init: str = "paper") -> None:
        super().__init__()
        c = self.config = config
        self.grad_checkpointing = False
        self.block_sparse = False
        self.patch_embed = make_stem(c)
        self.cls_token = _tokens(int(c.cls_token), c.embed_dim)
        self.dist_token = _tokens(int(c.dist_token), c.embed_dim)
        self.register_tokens = _tokens(c.num_registers, c.embed_dim)
        positions, every = _pos_spec(c), c.place == "every"
        self.pos_embed = NoPosEmbed(positions) if every else make_pos_embed(c.pos_embed, positions)
        own = c.patch_embed in ("fractal", *HIERARCHICAL)  # which drop inside
        self.pos_drop = Dropout(0.0 if own else c.drop_rate)
        embed_norm = make_norm(c.norm, c.embed_dim, c.norm_eps) if c.embed_norm else nn.Identity()
        self.embed_norm = embed_norm
        spec = _block_spec(c)
        self.blocks = nn.ModuleList(
            Block(
                spec,
                drop_path=rate,
                pos_embed=make_pos_embed(c.pos_embed, positions) if every else None,
            )
            for rate in drop_path_rates(c)[: c.depth]
        )
        self.paths = drop_by_columns(self.blocks) if _by_columns(c) else None
        norm = make_norm(c.norm, c.embed_dim, c.norm_eps)
        self.norm = norm if c.final_norm != "none" else nn.Identity()
        if c.pool == "map":
            self.attn_pool = AttentionPool(
                c.embed_dim, c.num_heads, c.mlp_dim, mlp=c.mlp, norm=c.norm, norm_eps=c.norm_eps
            )
        elif c.pool == "seq":
            self.seq_pool = SeqPool(c.embed_dim)
        width = c.representation_dim or c.embed_dim
        if c.representation_dim:
            self.pre_logits = nn.Linear(c.embed_dim, width)
        self.head = nn.Linear(width, c.num_classes) if c.num_classes else nn.Identity()
        if c.dist_head:
            self.head_dist = nn.Linear(c.embed_dim, c.num_classes)
        initialise(self, init)

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return logits, or what the head would get where ``num_classes`` is 0.

        The last block computes only the tokens that the head reads, which changes no logit; to
        see all tokens, ask ``forward_features``.
        """
        return self.forward_head(self._encode(images, self._read_tokens))

    def forward_features(self, images: Float[Tensor, "b c h w"]) -> Tokens:
        """Encode images into tokens, normalised where ``final_norm`` is "tokens"."""
        return self._encode(images)

    def forward_head(self, tokens: Tokens) -> Float[Tensor, "b k"]:
        """Turn tokens into logits: pool, and one dense layer or two.

        With a head for the distillation token, the mean of both (Touvron et al., 2021, "Training
        data-efficient image transformers", section 4).
        """
        logits, taught = self.forward_heads(tokens)
        return logits if taught is None else (logits + taught) / 2

    def forward_heads(
        self, tokens: Tokens
    ) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b k"] | None]:
        """Return the logits of the head, and of the distillation token's where there is one."""
        logits = self.head(self._represent(self.pool(tokens)))
        if not self.config.dist_head:
            return logits, None
        taught = tokens.dist[:, 0]
        taught = self.norm(taught) if self.config.final_norm == "pooled" else taught
        return logits, self.head_dist(taught)

    def pool(self, tokens: Tokens) -> Float[Tensor, "b d"]:
        """Reduce an image's tokens to one vector: the embedding of the image."""
        match self.config.pool:
            case "cls":
                x = tokens.cls[:, 0]  # equation 4
            case "avg":
                x = tokens.patches.mean(dim=1)
            case "map":
                x = self.attn_pool(tokens.patches)
            case "seq":
                x = self.seq_pool(tokens.patches)
        return self.norm(x) if self.config.final_norm == "pooled" else x

    def forward_intermediates(
        self, images: Float[Tensor, "b c h w"], blocks: Sequence[int], *, norm: bool = False
    ) -> list[Tokens]:
        """Return the tokens after chosen blocks, counted from 0; negative counts from the end.

        Args:
            norm: Apply the final norm to each, as dense heads usually want.

        Raises:
            ValueError: No such block.
        """
        wanted = [self._index(block) for block in blocks]
        found: dict[int, Tokens] = {}
        x, grid = self._embed(images)
        for i, (block, placement) in self._blocks_to(wanted, grid, x.device):
            x = self._run(block, x, placement)
            if i in wanted:
                found[i] = self._name(self.norm(x) if norm else x, grid)
        return [found[i] for i in wanted]

    def attention_weights(
        self, images: Float[Tensor, "b c h w"], blocks: Sequence[int]
    ) -> list[Float[Tensor, "b ... _ _"]]:
        """Return the exact A of equation 6 in chosen blocks: batch, heads, queries, keys.

        Tokens are in the order class, distillation, registers, patches. Hiera and Swin, which
        look inside of windows, answer with batch, windows, heads, queries, keys.
        Recomputed from queries and keys, so that any model can be looked into as it is.

        Raises:
            ValueError: No such block.
        """
        if isinstance(self.patch_embed, Stages):
            return self.patch_embed.attention_weights(images, blocks)
        wanted = [self._index(block) for block in blocks]
        found: dict[int, Tensor] = {}
        x, grid = self._embed(images)
        for i, (block, placement) in self._blocks_to(wanted, grid, x.device, look=True):
            if i in wanted:
                told = cast(tuple[Any, ...], placement.inside)
                found[i] = block.attention_weights(placement.enter(x), *told)
            x = self._run(block, x, placement)
        return [found[i] for i in wanted]

    @property
    def _read_tokens(self) -> int | None:
        """How many tokens, from the first, the head reads; None is all of them."""
        return self.config.positioned_prefix if self.config.pool == "cls" else None

    def _encode(self, images: Tensor, queries: int | None = None) -> Tokens:
        """Equations 1 to 4; the last block computes only the first ``queries`` tokens."""
        x, grid = self._embed(images)
        for i, (block, placement) in enumerate(self._placed(grid, x.device), start=1):
            x = self._run(block, x, placement, queries if i == self.config.depth else None)
        return self._name(self._norm_tokens(x), grid)

    def _embed(self, images: Tensor) -> tuple[Tensor, Grid]:
        """Equation 1: class token and patches, plus positions; registers join without any."""
        grid = grid_of(images, self.config.patch_size)
        if isinstance(self.patch_embed, Stages):
            self.patch_embed.grad_checkpointing = self.grad_checkpointing
        x = self.patch_embed(images)  # b n d
        batch = x.shape[0]
        if self.paths is not None and self.training:
            self.paths.draw(x)
        prefix = [
            t.expand(batch, -1, -1) for t in (self.cls_token, self.dist_token) if t is not None
        ]
        x = torch.cat([*prefix, x], dim=1)  # b n+1 d
        if self.config.place == "stem":
            x = self.pos_embed(x, grid)
        x = self.pos_drop(x)
        if self.register_tokens is not None:
            counts = [self.config.positioned_prefix, grid[0] * grid[1]]
            first, patches = x.split(counts, dim=1)
            x = torch.cat([first, self.register_tokens.expand(batch, -1, -1), patches], dim=1)
        return self.embed_norm(x), grid  # b t d

    def _placed(
        self, grid: Grid, device: torch.device, *, look: bool = False
    ) -> Iterator[tuple[Block, Placement]]:
        """Every block, and what it is told about where its tokens are.

        Args:
            look: Make dense masks in any case, to look at the attention weights.
        """
        c = self.config
        specials = c.positioned_prefix + c.num_registers
        tokens = TokenGrid(grid, specials, c.num_heads, c.attention_window)
        placement = self.pos_embed.placement(grid, device, add=c.place != "stem")
        for i, block in enumerate(cast(list[Block], list(self.blocks))):
            scheme = self.pos_embed if block.pos_embed is None else block.pos_embed
            make = dense_mask if look or not self._runs_in_blocks(scheme, device) else block_mask
            yield block, placement._replace(mask=make(c.attention, i, tokens, device))

    def _runs_in_blocks(self, scheme: PosEmbed, device: torch.device) -> bool:
        """Whether flex_attention is asked for and can: no dropout, no gradients on the CPU."""
        if not self.block_sparse or (device.type == "cpu" and torch.is_grad_enabled()):
            return False
        if self.config.locality or scheme.has_values:
            return False
        return not (self.training and self.config.attn_drop_rate)

    def _run(
        self, block: nn.Module, x: Tensor, placement: Placement, queries: int | None = None
    ) -> Tensor:
        x = placement.enter(x)
        if self.grad_checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(block, x, *placement.inside, queries=queries, use_reentrant=False)
        return block(x, *placement.inside, queries=queries)

    def _norm_tokens(self, x: Tensor) -> Tensor:
        return self.norm(x) if self.config.final_norm == "tokens" else x

    def _name(self, x: Tensor, grid: Grid) -> Tokens:
        """Tell the kinds of token apart; those that were not computed are empty."""
        c = self.config
        counts = (int(c.cls_token), int(c.dist_token), c.num_registers)
        ends = list(accumulate(counts))
        cls, dist, registers, patches = x.tensor_split(ends, dim=1)
        return Tokens(cls, dist, registers, patches, grid)

    def _represent(self, x: Tensor) -> Tensor:
        """The hidden layer of the pre-training head, where there is one (paper, section 3.1)."""
        if self.config.representation_dim is None:
            return x
        return torch.tanh(self.pre_logits(x))

    def _blocks_to(
        self, wanted: Sequence[int], grid: Grid, device: torch.device, *, look: bool = False
    ) -> Iterator[tuple[int, tuple[Block, Placement]]]:
        """The blocks up to the deepest that is wanted, with their indices."""
        count = max(wanted, default=-1) + 1
        yield from enumerate(islice(self._placed(grid, device, look=look), count))

    def _index(self, block: int) -> int:
        depth = self.config.depth
        if not -depth <= block < depth:
            raise ValueError(f"block {block} is not in a model of depth {depth}")
        return block % depth


def create_model(name: str, *, init: str = "paper", num_classes: int = 1000, **arch: Any) -> ViT:
    """Build a model by name, with first weights from the global random generator.

    Args:
        name: Such as ``vit_base_patch16_224`` or ``ViT-B/16``; `tessera models` lists them.
        arch: Fields of ``ViTConfig`` to change in it.

    Raises:
        ValueError: Unknown name or field, or sizes that do not fit together.
    """
    return ViT(parse(name, num_classes=num_classes, **arch), init=init)


def _tokens(count: int, dim: int) -> nn.Parameter | None:
    return nn.Parameter(torch.zeros(1, count, dim)) if count else None


def _by_columns(config: ViTConfig) -> bool:
    return config.drop_path_kind == "residual_fractal" and config.drop_path_rate > 0


def _pos_spec(config: ViTConfig) -> PosSpec:
    return PosSpec(
        grid=config.grid,
        embed_dim=config.embed_dim,
        head_dim=config.attention_dim // config.num_heads,
        prefix=config.positioned_prefix,
        registers=config.num_registers,
        num_heads=config.num_heads,
        clip=config.pos_clip,
        theta=config.rope_theta,
    )


def _block_spec(config: ViTConfig) -> BlockSpec:
    return BlockSpec(
        dim=config.embed_dim,
        num_heads=config.num_heads,
        head_dim=config.attention_dim // config.num_heads,
        mlp_dim=config.mlp_dim,
        mlp=config.mlp,
        qkv_bias=config.qkv_bias,
        qk_norm=config.qk_norm,
        norm=config.norm,
        norm_eps=config.norm_eps,
        layer_scale_init=config.layer_scale_init,
        drop=config.drop_rate,
        attn_drop=config.attn_drop_rate,
        locality=config.locality,
        residual_norm=config.residual_norm,
    )
