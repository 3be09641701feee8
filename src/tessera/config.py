"""What a Vision Transformer is, as data."""

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin

Size2d = tuple[int, int]
"""Height and width, in that order, in pixels."""

Place = Literal["stem", "every", "shared"]
"""Where positions act: once before the blocks, at every block with tables of its own, or at every
block with the same table (paper, D.4)."""

_ADDED: tuple[Place, ...] = ("stem", "every", "shared")
_IN_BLOCKS: tuple[Place, ...] = ("every", "shared")
POS_PLACES: dict[str, tuple[Place, ...]] = {
    "none": ("stem",),
    "learned": _ADDED,
    "learned2d": _ADDED,
    "sincos1d": _ADDED,
    "sincos2d": _ADDED,
    "rope2d": ("shared", "every"),
    "rope2d_mixed": _IN_BLOCKS,
    "shaw": _IN_BLOCKS,
    "shaw_values": _IN_BLOCKS,
    "shaw_bias": _IN_BLOCKS,
    "relative": _IN_BLOCKS,
    "bias2d": _IN_BLOCKS,
}
"""The places where each position scheme means something, its usual one first."""

Stem = Literal[
    "conv", "linear", "shifted", "tokenizer", "resnet", "resnetv2", "fractal", "hiera", "swin"
]
"""What stands before the encoder; the last four are whole networks, which have no encoder."""

HIERARCHICAL = ("hiera", "swin")
NETWORKS = ("resnetv2", "fractal", *HIERARCHICAL)
EXACT = ("resnetv2", "fractal", "tokenizer")
"""Stems whose every place is a token; a hybrid may gather several into one."""

BLOCK_EXTRAS = (
    *("qk_norm", "locality", "residual_norm", "layer_scale_init", "attention"),
    "drop_path_kind",
)
"""What only the encoder's own blocks can have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ViTConfig:
    """Everything needed to rebuild a model, and nothing about how to train it.

    The defaults are ViT-B/16 of Dosovitskiy et al. (2020), Table 1, with the fine-tuning head.
    """

    embed_dim: int = 768
    """Width of a token: D in the paper, ``d`` in shape annotations."""
    depth: int = 12
    """Number of encoder blocks: L in the paper."""
    num_heads: int = 12
    """Attention heads per block: k in equation 8."""
    head_dim: int | None = None
    """Width of one head: D_h in equation 5; None is embed_dim / num_heads."""
    mlp_dim: int = 3072
    """Hidden width of the MLP; an integer, because So400m's 4304 is no round multiple."""
    patch_size: int = 16
    """Side of a square patch in pixels: P in the paper."""
    img_size: int | Size2d = 224
    """Side, or height and width, of the position table; any multiple of the patch runs."""
    in_chans: int = 3
    """Colour channels of an image: C in the paper."""
    num_classes: int = 1000
    """Outputs of the head; 0 leaves the head out."""
    patch_embed: Stem = "conv"
    """Strided convolution, or flatten and multiply: the same map, weights convert. Or shifted
    patches (SPT), CCT's tokenizer, a hybrid's ResNet; or, with depth 0, BiT's, FractalNet, Hiera,
    Swin."""
    stem_blocks: tuple[int, ...] = ()
    """Bottlenecks in each stage of "resnet" and "resnetv2", () being the root alone; blocks in each
    stage of "hiera" and "swin"."""
    stem_layers: int = 1
    """Convolutions of "tokenizer", or blocks of "fractal"."""
    stem_width: int = 64
    """Channels of the first convolution, or of a tokenizer's convolutions but the last; width of
    the first stage of "hiera" and "swin", which doubles from stage to stage."""
    stem_heads: int = 1
    """Heads in the first stage of "hiera" and "swin", which double from stage to stage."""
    stem_kernel: int = 3
    """Side of a tokenizer's kernels: 3 goes with stride 1, 7 with stride 2."""
    stem_columns: int = 3
    """Columns of a fractal block: C in Larsson et al. (2017); its depth is 2^(C - 1)."""
    stem_norm: Literal["paper", "bit", "timm"] = "paper"
    """Whose small numbers a ResNet adds when it divides: a key of ``std_conv.EPSILONS``."""
    patch_norm: bool = False
    """LayerNorm before and after the linear projection, as in lucidrains' vit-pytorch."""
    cls_token: bool = True
    """Prepend the learned class token: x_class in equation 1."""
    dist_token: bool = False
    """A second learned token, after the class token, to be taught by another model (DeiT)."""
    dist_head: bool = False
    """A head of its own for that token; the answer is then the mean of both heads' logits."""
    num_registers: int = 0
    """Extra learned tokens without positions (Darcet et al., 2023), dropped at the output."""
    pos_embed: str = "learned"
    """Position scheme: a key of ``tessera.nn.pos_embed.POS_EMBEDS``."""
    pos_place: Place | None = None
    """Where it acts; None is its usual place: "stem" if it adds, else in the blocks."""
    pos_clip: int = 16
    """Largest offset that the schemes "shaw..." tell apart: k of Shaw et al. (2018)."""
    rope_theta: float | None = None
    """Longest period of rotary positions, in units of the shortest; None is their source's: 100
    for "rope2d" (DINOv3), 10 for "rope2d_mixed"."""
    embed_norm: bool = False
    """A norm on the tokens before the first block, as in CLIP."""
    pool: Literal["cls", "avg", "map", "seq"] = "cls"
    """How tokens become one vector: class token, mean of the patches, attention pooling, or the
    mean that CCT weights by learned scores."""
    final_norm: Literal["tokens", "pooled", "none"] = "tokens"
    """Where the last norm goes: on every token before pooling, on the pooled vector, or nowhere."""
    representation_dim: int | None = None
    """Width of the dense + tanh layer before the head, as in pre-training (paper, section 3.1)."""
    qkv_bias: bool = True
    """Biases in the query, key and value projections."""
    qk_norm: bool = False
    """Normalise queries and keys per head before their product (Dehghani et al., 2023)."""
    locality: bool = False
    """No token attends to itself, and each head learns its temperature (LSA, Lee et al., 2021)."""
    residual_norm: bool = False
    """The norm before the MLP also takes the residual's place, as in the code of CCT."""
    mlp: Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu"] = "gelu"
    """Linear, GELU (exact, by tanh, or x sigmoid(1.702 x)), linear; or gated (Shazeer, 2020)."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """Normalisation of blocks and of the output."""
    norm_eps: float = 1e-6
    """Added to the variance in every norm; the paper's code has 1e-6, PyTorch's default is 1e-5."""
    layer_scale_init: float | None = None
    """Start value of LayerScale (Touvron et al., 2021); None leaves it out."""
    attention: Literal[
        "global", "local", "neighborhood", "window", "shifted_window", "axial", "strided", "fixed"
    ] = "global"
    """Which patches a patch may look at: a key of ``tessera.nn.attention_masks.PATTERNS``."""
    attention_window: int = 7
    """Side, in patches, of the window of "local", "neighborhood", "window", "shifted_window"; in
    tokens of each stage, of "swin"."""
    drop_rate: float = 0.0
    """Dropout after the positions and after every dense layer but q, k, v (paper, B.1)."""
    attn_drop_rate: float = 0.0
    """Dropout on the attention probabilities."""
    drop_path_rate: float = 0.0
    """Stochastic depth (Huang et al., 2016) at the last block; in "fractal", FractalNet's local
    drop of a path."""
    drop_path_rule: Literal["linear", "constant"] = "linear"
    """The rate of the blocks before: growing linearly from 0, or the same."""
    drop_path_kind: Literal["stochastic_depth", "residual_fractal"] = "stochastic_depth"
    """Drop a branch of an image and rescale the others; or ours after FractalNet, local for one
    half of the mini-batch and global for the other."""

    def __post_init__(self) -> None:
        self._check_sizes()
        self._check_choices()
        self._check_attention()
        self._check_stem()

    def _check_sizes(self) -> None:
        positive = ("embed_dim", "num_heads", "mlp_dim", "patch_size", "in_chans")
        stem = ("stem_layers", "stem_width", "stem_heads", "stem_kernel", "stem_columns")
        blocks = () if self.patch_embed in NETWORKS else ("depth",)
        for name in (*positive, *stem, *blocks, "pos_clip", "attention_window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("num_classes", "num_registers", "depth"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        for name in ("norm_eps", "rope_theta"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} must be greater than 0")
        for name in ("drop_rate", "attn_drop_rate", "drop_path_rate"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be in [0, 1)")
        for name in ("head_dim", "representation_dim"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if self.head_dim is None and self.embed_dim % self.num_heads:
            raise ValueError(
                f"embed_dim={self.embed_dim} is no multiple of num_heads={self.num_heads}\n"
                "hint: change one of them, or give head_dim"
            )
        if not isinstance(self.img_size, int) and len(self.img_size) != 2:
            raise ValueError(f"img_size={self.img_size} must be a side, or a height and a width")
        height, width = self.image_shape
        if min(height, width) < 1:
            raise ValueError(f"img_size={self.img_size} must be at least 1")
        if height % self.patch_size or width % self.patch_size:
            p = self.patch_size
            fit = tuple(max(1, round(side / p)) * p for side in (height, width))
            raise ValueError(
                f"img_size={self.img_size} is no multiple of patch_size={self.patch_size}\n"
                f"hint: the nearest size that fits is {fit[0] if fit[0] == fit[1] else fit}"
            )

    def _check_choices(self) -> None:
        for field in fields(self):
            value, choices = getattr(self, field.name), get_args(field.type)
            if field.name == "pos_place":
                choices = (None, *get_args(Place))
            elif get_origin(field.type) is not Literal:
                continue
            if value not in choices:
                raise ValueError(
                    f"{field.name}={value!r} is none of {', '.join(map(str, choices))}"
                )
        places = POS_PLACES.get(self.pos_embed, _ADDED)
        if self.pos_place not in (None, *places):
            raise ValueError(
                f"pos_embed={self.pos_embed!r} means nothing at pos_place={self.pos_place!r}\n"
                f"hint: it acts at {' or '.join(map(repr, places))}"
            )
        if self.pool == "cls" and not self.cls_token:
            raise ValueError("pool='cls' needs cls_token=True\nhint: use pool='avg' or pool='map'")
        if self.dist_token and not self.cls_token:
            raise ValueError("dist_token=True needs cls_token=True, which it stands beside")
        if self.dist_head and not (self.dist_token and self.pool == "cls" and self.num_classes):
            raise ValueError("dist_head=True needs dist_token=True, pool='cls' and a head")
        if self.pool == "map" and self.embed_dim % self.num_heads:
            raise ValueError(
                f"pool='map' needs embed_dim={self.embed_dim} to be a multiple of "
                f"num_heads={self.num_heads}\nhint: change one of them, or use pool='avg'"
            )
        if self.patch_norm and self.patch_embed != "linear":
            raise ValueError("patch_norm=True needs patch_embed='linear'")

    def _check_attention(self) -> None:
        name = self.attention
        if name in ("local", "neighborhood") and self.attention_window % 2 == 0:
            raise ValueError(
                f"attention={name!r} needs an odd attention_window, around a patch in its middle, "
                f"not {self.attention_window}"
            )
        if name == "axial" and self.depth % 2:
            raise ValueError(
                f"attention='axial' makes rows and columns of two blocks, not of depth={self.depth}"
                "\nhint: an even depth"
            )
        if name in ("strided", "fixed") and self.num_heads < 2:
            raise ValueError(f"attention={name!r} needs two heads or more, which share two masks")

    def _check_stem(self) -> None:
        """What stands before the encoder must leave one token per patch."""
        limits = {"stem_layers": 16, "stem_columns": 8, "stem_width": 2**16}
        for name, limit in limits.items():  # a file may say anything
            if getattr(self, name) > limit or len(self.stem_blocks) > 8:
                raise ValueError(f"{name}={getattr(self, name)} or stem_blocks is too large")
        kind, stride = self.patch_embed, self.stem_stride
        if kind in ("resnet", "resnetv2") and (
            self.stem_width % 32 or min(self.stem_blocks, default=1) < 1
        ):
            raise ValueError(
                f"stem_width={self.stem_width} and stem_blocks={self.stem_blocks}: a ResNet "
                "wants a multiple of 32, for GroupNorm, and no empty stage"
            )
        if kind == "resnetv2" and not self.stem_blocks:
            raise ValueError("patch_embed='resnetv2' needs stem_blocks, such as (3, 4, 6, 3)")
        if kind in HIERARCHICAL:
            self._check_stages()
        if kind == "tokenizer" and not self.stem_kernel % 2:
            raise ValueError(f"stem_kernel={self.stem_kernel} must be odd")
        if self.patch_size % stride or (kind in EXACT and self.patch_size != stride):
            raise ValueError(
                f"patch_embed={kind!r} shrinks images by {stride}, which does not fit "
                f"patch_size={self.patch_size}\nhint: say patch_size={stride}"
            )
        if kind in NETWORKS:
            self._check_network()

    def _check_stages(self) -> None:
        """A hierarchical network has stages of blocks, and heads that divide their width."""
        if min(self.stem_blocks, default=0) < 1:
            raise ValueError(
                f"patch_embed={self.patch_embed!r} needs stem_blocks of 1 or more, such as "
                f"(2, 2, 6, 2), not {self.stem_blocks}"
            )
        if self.stem_width % self.stem_heads:
            raise ValueError(
                f"stem_width={self.stem_width} is no multiple of stem_heads={self.stem_heads}\n"
                "hint: change one of them"
            )
        if self.attention_window > 64:  # a file may say anything
            raise ValueError(f"attention_window={self.attention_window} is too large")

    def _check_network(self) -> None:
        """A network without an encoder has nothing that an encoder has."""
        match self.patch_embed:
            case "resnetv2":
                channels = 4 * self.stem_width * 2 ** (len(self.stem_blocks) - 1)
            case "fractal":
                channels = self.stem_width * min(2 ** (self.stem_layers - 1), 8)
            case _:
                channels = self.stem_width * 2 ** (len(self.stem_blocks) - 1)
        wanted: dict[str, Any] = {
            "depth": 0,
            "embed_dim": channels,
            "cls_token": False,
            "num_registers": 0,
            "pos_embed": "none",
            "pool": "avg",
            "final_norm": "none",
        }
        if self.patch_embed in HIERARCHICAL:
            wanted |= {name: ViTConfig.__dataclass_fields__[name].default for name in BLOCK_EXTRAS}
            wanted["final_norm"] = "pooled" if self.patch_embed == "hiera" else "tokens"
        for name, value in wanted.items():
            if getattr(self, name) != value:
                flag = f"--arch.{name.replace('_', '-')} None"
                raise ValueError(
                    f"patch_embed={self.patch_embed!r} is a network of its own, which wants "
                    f"{name}={value!r}, not {getattr(self, name)!r}\n"
                    f"hint: leave it out; `{flag}` undoes what a recipe says of it"
                )

    @property
    def stem_stride(self) -> int:
        """By how much the layers before the patches shrink an image; 1 where there are none."""
        match self.patch_embed:
            case "resnet" | "resnetv2":
                return 4 * 2 ** max(len(self.stem_blocks) - 1, 0)
            case "tokenizer":
                return (2 * max(1, self.stem_kernel // 2 - 1)) ** self.stem_layers
            case "fractal":
                return 2**self.stem_layers
            case "hiera" | "swin":  # from the first stage to the last
                return 2 ** max(len(self.stem_blocks) - 1, 0)
        return 1

    @property
    def num_layers(self) -> int:
        """Blocks that come one after the other: of the encoder, or of all stages."""
        return sum(self.stem_blocks) if self.patch_embed in HIERARCHICAL else self.depth

    @property
    def image_shape(self) -> Size2d:
        """Height and width of ``img_size`` in pixels."""
        size = self.img_size
        return (size, size) if isinstance(size, int) else size

    @property
    def grid(self) -> Size2d:
        """Rows and columns of patches at ``img_size``; their product is N in the paper."""
        height, width = self.image_shape
        return height // self.patch_size, width // self.patch_size

    @property
    def place(self) -> Place:
        """Where positions act: ``pos_place``, or the usual place of the scheme."""
        return self.pos_place or POS_PLACES.get(self.pos_embed, _ADDED)[0]

    @property
    def positioned_prefix(self) -> int:
        """Tokens before the patches that have a position: class and distillation token."""
        return int(self.cls_token) + int(self.dist_token)

    @property
    def attention_dim(self) -> int:
        """Width of all heads together: k D_h in equation 8."""
        return self.num_heads * (self.head_dim or self.embed_dim // self.num_heads)
