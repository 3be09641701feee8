"""Changes to a Vision Transformer of a name: every field of its config, or nothing."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from tessera.config import Place, Size2d, Stem


@dataclass(frozen=True, kw_only=True, slots=True)
class ViTOverrides:
    """Fields of ``ViTConfig`` to change in the named model; None keeps what the name says."""

    embed_dim: int | None = None
    """Width of a token: D."""
    depth: int | None = None
    """Encoder blocks: L."""
    num_heads: int | None = None
    """Attention heads of a block."""
    head_dim: int | None = None
    """Width of a head; embed_dim / num_heads unless given."""
    mlp_dim: int | None = None
    """Hidden width of the MLP."""
    patch_size: int | None = None
    """Side of a patch, in pixels."""
    img_size: int | Size2d | None = None
    """Side of the images, or height and width, in pixels."""
    in_chans: int | None = None
    """Colour channels: 3, or 1 for grey."""
    patch_embed: Stem | None = None
    """How an image becomes tokens: convolution, flatten and multiply, shifted patches (SPT), CCT's
    tokenizer, a hybrid's ResNet; resnetv2, fractal, hiera and swin are whole networks."""
    stem_blocks: tuple[int, ...] | None = None
    """Bottlenecks in each stage of a ResNet; blocks in each stage of Hiera or Swin."""
    stem_layers: int | None = None
    """Convolutions of a tokenizer, or blocks of a FractalNet."""
    stem_width: int | None = None
    """Channels of the first convolution; width of the first stage of Hiera or Swin."""
    stem_heads: int | None = None
    """Heads in the first stage of Hiera or Swin."""
    stem_kernel: int | None = None
    """Side of a tokenizer's kernels."""
    stem_columns: int | None = None
    """Columns of a fractal block."""
    stem_norm: Literal["paper", "bit", "timm"] | None = None
    """Whose epsilons a ResNet has."""
    patch_norm: bool | None = None
    """Norms around the linear patch projection, as in vit-pytorch."""
    cls_token: bool | None = None
    """A learned class token."""
    dist_token: bool | None = None
    """DeiT's distillation token."""
    dist_head: bool | None = None
    """A head of its own for that token."""
    num_registers: int | None = None
    """Extra learned tokens without positions."""
    pos_embed: str | None = None
    """Position scheme: none, learned, learned2d, sincos1d, sincos2d, rope2d, rope2d_mixed, shaw,
    shaw_values, shaw_bias, relative, bias2d."""
    pos_place: Place | None = None
    """Where it acts: added once at the stem, at every block with tables of its own, or with one
    table shared by all blocks; None is the scheme's usual place."""
    pos_clip: int | None = None
    """Largest offset that shaw, shaw_values and shaw_bias tell apart."""
    rope_theta: float | None = None
    """Longest period of rotary positions."""
    embed_norm: bool | None = None
    """A norm before the first block, as in CLIP."""
    pool: Literal["cls", "avg", "map", "seq"] | None = None
    """How tokens become one vector: class token, mean, attention pooling, CCT's weighted mean."""
    final_norm: Literal["tokens", "pooled", "none"] | None = None
    """Where the last norm goes."""
    representation_dim: int | None = None
    """Width of the dense + tanh layer before the head."""
    qkv_bias: bool | None = None
    """Biases of queries, keys and values."""
    qk_norm: bool | None = None
    """Normalise queries and keys."""
    locality: bool | None = None
    """Locality self-attention (LSA), for small data."""
    residual_norm: bool | None = None
    """CCT's residual, which starts from the normed tokens."""
    mlp: Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu"] | None = None
    """Activation of the MLP, or the gated MLP."""
    norm: Literal["layernorm", "rmsnorm"] | None = None
    """Kind of norm."""
    norm_eps: float | None = None
    """Added to the variance in every norm."""
    layer_scale_init: float | None = None
    """Start value of LayerScale."""
    attention: (
        Literal[
            "global",
            "local",
            "neighborhood",
            "window",
            "shifted_window",
            "axial",
            "strided",
            "fixed",
        ]
        | None
    ) = None
    """Which patches a patch may look at: all, a window around it (cut off at the border, or moved
    inwards), tiles, tiles and shifted tiles in turn, rows and columns in turn, or sparse."""
    attention_window: int | None = None
    """Side, in patches, of the window of local, neighborhood, window and shifted_window."""
    drop_rate: float | None = None
    """Dropout after positions and dense layers."""
    attn_drop_rate: float | None = None
    """Dropout on attention probabilities."""
    drop_path_rate: float | None = None
    """Stochastic depth of the last block."""
    drop_path_rule: Literal["linear", "constant"] | None = None
    """How that rate grows from the first block."""
    drop_path_kind: Literal["stochastic_depth", "residual_fractal"] | None = None
    """Stochastic depth, or our analogue of FractalNet's drop-path."""

    def given(self) -> dict[str, Any]:
        """Return the fields that are set, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None}
