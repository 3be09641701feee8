"""Changes to a Vision Transformer of a name: every field of its config, or nothing."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from tessera.config import Place, Size2d, Stem


@dataclass(frozen=True, kw_only=True, slots=True)
class ViTOverrides:
    """Fields of ``ViTConfig`` to change in the named model; None keeps what the name says."""

    embed_dim: int | None = None
    depth: int | None = None
    num_heads: int | None = None
    head_dim: int | None = None
    mlp_dim: int | None = None
    patch_size: int | None = None
    img_size: int | Size2d | None = None
    in_chans: int | None = None
    patch_embed: Stem | None = None
    stem_blocks: tuple[int, ...] | None = None
    stem_layers: int | None = None
    stem_width: int | None = None
    stem_kernel: int | None = None
    stem_columns: int | None = None
    stem_norm: Literal["paper", "bit", "timm"] | None = None
    patch_norm: bool | None = None
    cls_token: bool | None = None
    dist_token: bool | None = None
    dist_head: bool | None = None
    num_registers: int | None = None
    pos_embed: str | None = None
    """Position scheme: none, learned, learned2d, sincos1d, sincos2d, rope2d, rope2d_mixed, shaw,
    shaw_values, shaw_bias, relative, bias2d."""
    pos_place: Place | None = None
    """Where it acts: added once at the stem, at every block with tables of its own, or with one
    table shared by all blocks; None is the scheme's usual place."""
    pos_clip: int | None = None
    """Largest offset that shaw, shaw_values and shaw_bias tell apart."""
    rope_theta: float | None = None
    embed_norm: bool | None = None
    pool: Literal["cls", "avg", "map", "seq"] | None = None
    final_norm: Literal["tokens", "pooled", "none"] | None = None
    representation_dim: int | None = None
    qkv_bias: bool | None = None
    qk_norm: bool | None = None
    locality: bool | None = None
    residual_norm: bool | None = None
    mlp: Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu"] | None = None
    norm: Literal["layernorm", "rmsnorm"] | None = None
    norm_eps: float | None = None
    layer_scale_init: float | None = None
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
    attn_drop_rate: float | None = None
    drop_path_rate: float | None = None
    drop_path_rule: Literal["linear", "constant"] | None = None
    drop_path_kind: Literal["stochastic_depth", "residual_fractal"] | None = None

    def given(self) -> dict[str, Any]:
        """Return the fields that are set, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None}
