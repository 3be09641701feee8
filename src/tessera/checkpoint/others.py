"""The layouts of the paper's own code, of torchvision and of lucidrains' vit-pytorch."""

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from tessera.checkpoint.layout import Fields, Hints, Layout, count_blocks, heads_of, square_side
from tessera.checkpoint.resnets import google_stem, google_stem_rules
from tessera.checkpoint.rules import Drop, Rule, State, pair, pairs

# Google: .npz files of google-research/vision_transformer (ViT, AugReg) ---------------------------

_BLOCK = "Transformer/encoderblock_{i}"
_MSA = f"{_BLOCK}/MultiHeadDotProductAttention_1"


def _configure_google(theirs: State, hints: Hints) -> tuple[Fields, tuple[str, ...]]:
    patch, _, chans, width = theirs["embedding/kernel"].shape
    stem = google_stem(theirs)
    patch = stem.get("patch_size", patch)
    _, heads, head_dim = theirs[f"{_MSA.replace('{i}', '0')}/query/kernel"].shape
    positions = theirs["Transformer/posembed_input/pos_embedding"].shape[1]
    cls = "cls" in theirs
    fields: Fields = {
        "embed_dim": width,
        "depth": count_blocks(theirs, f"{_BLOCK}/"),
        "num_heads": heads,
        "head_dim": None if heads * head_dim == width else head_dim,
        "mlp_dim": theirs[f"{_BLOCK.replace('{i}', '0')}/MlpBlock_3/Dense_0/bias"].shape[0],
        "patch_size": patch,
        "img_size": square_side(positions - cls, patch, hints),
        "in_chans": chans,
        "cls_token": cls,
        "pool": "cls" if cls else "avg",
        "num_classes": theirs["head/bias"].shape[0] if "head/bias" in theirs else 0,
        **stem,
    }
    if "pre_logits/bias" in theirs:
        fields["representation_dim"] = theirs["pre_logits/bias"].shape[0]
    return fields, ()


def _dense(ours: str, theirs: str) -> tuple[Rule, Rule]:
    """A layer whose kernel is (in, out)."""
    return (
        Rule(
            (f"{ours}.weight",),
            (f"{theirs}/kernel",),
            lambda k: (rearrange(k, "i o -> o i"),),
            lambda w: (rearrange(w, "o i -> i o"),),
        ),
        Rule((f"{ours}.bias",), (f"{theirs}/bias",)),
    )


def _norm(ours: str, theirs: str) -> tuple[Rule, Rule]:
    return (
        Rule((f"{ours}.weight",), (f"{theirs}/scale",)),
        Rule((f"{ours}.bias",), (f"{theirs}/bias",)),
    )


def _google_rules(fields: Fields) -> tuple[Rule, ...]:
    heads = fields["num_heads"]

    def read_qkv(*kernels: Tensor) -> Sequence[Tensor]:
        return (torch.cat([rearrange(kernel, "d h e -> (h e) d") for kernel in kernels]),)

    def write_qkv(weight: Tensor) -> Sequence[Tensor]:
        return [rearrange(part, "(h e) d -> d h e", h=heads) for part in weight.chunk(3)]

    def read_bias(*biases: Tensor) -> Sequence[Tensor]:
        return (torch.cat([bias.flatten() for bias in biases]),)

    def write_bias(bias: Tensor) -> Sequence[Tensor]:
        return [rearrange(part, "(h e) -> h e", h=heads) for part in bias.chunk(3)]

    qkv = [f"{_MSA}/{part}" for part in ("query", "key", "value")]
    return (
        Rule(
            ("patch_embed.proj.weight",),
            ("embedding/kernel",),
            lambda k: (rearrange(k, "p1 p2 c d -> d c p1 p2"),),
            lambda w: (rearrange(w, "d c p1 p2 -> p1 p2 c d"),),
        ),
        Rule(("patch_embed.proj.bias",), ("embedding/bias",)),
        Rule(("cls_token",), ("cls",)),
        Rule(("pos_embed.table",), ("Transformer/posembed_input/pos_embedding",)),
        Rule(
            ("blocks.{i}.attn.qkv.weight",), tuple(f"{p}/kernel" for p in qkv), read_qkv, write_qkv
        ),
        Rule(("blocks.{i}.attn.qkv.bias",), tuple(f"{p}/bias" for p in qkv), read_bias, write_bias),
        Rule(
            ("blocks.{i}.attn.proj.weight",),
            (f"{_MSA}/out/kernel",),
            lambda k: (rearrange(k, "h e d -> d (h e)"),),
            lambda w: (rearrange(w, "d (h e) -> h e d", h=heads),),
        ),
        Rule(("blocks.{i}.attn.proj.bias",), (f"{_MSA}/out/bias",)),
        *_norm("blocks.{i}.norm1", f"{_BLOCK}/LayerNorm_0"),
        *_norm("blocks.{i}.norm2", f"{_BLOCK}/LayerNorm_2"),
        *_dense("blocks.{i}.mlp.fc1", f"{_BLOCK}/MlpBlock_3/Dense_0"),
        *_dense("blocks.{i}.mlp.fc2", f"{_BLOCK}/MlpBlock_3/Dense_1"),
        *_norm("norm", "Transformer/encoder_norm"),
        *_dense("pre_logits", "pre_logits"),
        *_dense("head", "head"),
        *google_stem_rules(fields),
    )


GOOGLE = Layout(
    title="Google's own .npz",
    signature=("embedding/kernel", "Transformer/encoderblock_0/LayerNorm_0/scale"),
    configure=_configure_google,
    rules=_google_rules,
)

# torchvision ------------------------------------------------------------------------------------

_TV = "encoder.layers.encoder_layer_{i}"


def _configure_torchvision(theirs: State, hints: Hints) -> tuple[Fields, tuple[str, ...]]:
    kernel = theirs["conv_proj.weight"]
    width, chans, patch = kernel.shape[:3]
    present, older = f"{_at0(_TV)}.mlp.0.bias", f"{_at0(_TV)}.mlp.linear_1.bias"
    first = older if older in theirs else present
    fields: Fields = {
        "embed_dim": width,
        "depth": count_blocks(theirs, f"{_TV}."),
        "num_heads": heads_of(width, hints),
        "mlp_dim": theirs[first].shape[0],
        "patch_size": patch,
        "img_size": square_side(theirs["encoder.pos_embedding"].shape[1] - 1, patch, hints),
        "in_chans": chans,
        "num_classes": theirs["heads.head.bias"].shape[0] if "heads.head.bias" in theirs else 0,
    }
    if "heads.pre_logits.bias" in theirs:
        fields["representation_dim"] = theirs["heads.pre_logits.bias"].shape[0]
    return fields, ()


def _at0(name: str) -> str:
    return name.replace("{i}", "0")


_TORCHVISION_RULES = (
    Rule(("cls_token",), ("class_token",)),
    Rule(("pos_embed.table",), ("encoder.pos_embedding",)),
    Rule(("blocks.{i}.attn.qkv.weight",), (f"{_TV}.self_attention.in_proj_weight",)),
    Rule(("blocks.{i}.attn.qkv.bias",), (f"{_TV}.self_attention.in_proj_bias",)),
    *pairs(
        {
            "patch_embed.proj": "conv_proj",
            "blocks.{i}.attn.proj": f"{_TV}.self_attention.out_proj",
            "blocks.{i}.norm1": f"{_TV}.ln_1",
            "blocks.{i}.norm2": f"{_TV}.ln_2",
            "blocks.{i}.mlp.fc1": f"{_TV}.mlp.0",
            "blocks.{i}.mlp.fc2": f"{_TV}.mlp.3",
            "norm": "encoder.ln",
            "pre_logits": "heads.pre_logits",
            "head": "heads.head",
        }
    ),
    # The published files are older than the present names.
    *pair("blocks.{i}.mlp.fc1", f"{_TV}.mlp.linear_1"),
    *pair("blocks.{i}.mlp.fc2", f"{_TV}.mlp.linear_2"),
)

TORCHVISION = Layout(
    title="torchvision",
    signature=("conv_proj.weight", "encoder.layers.encoder_layer_0.ln_1.weight"),
    configure=_configure_torchvision,
    rules=lambda _: _TORCHVISION_RULES,
)

# lucidrains -------------------------------------------------------------------------------------

_LUCID = "transformer.layers.{i}"


def _configure_lucidrains(theirs: State, hints: Hints) -> tuple[Fields, tuple[str, ...]]:
    width, pixels = theirs["to_patch_embedding.2.weight"].shape
    chans = int(hints.overrides.get("in_chans", 3))
    patch = round((pixels / chans) ** 0.5)
    tokens = theirs["cls_token"].reshape(-1, width).shape[0] if "cls_token" in theirs else 0
    inner = theirs[f"{_at0(_LUCID)}.0.to_qkv.weight"].shape[0] // 3
    head_dim = int(hints.overrides.get("head_dim") or 64)  # their default, which no shape tells
    positions = theirs["pos_embedding"].reshape(-1, width).shape[0]
    note = (
        ()
        if hints.overrides.get("head_dim")
        else (
            "no tensor tells the width of a head: 64 assumed, vit-pytorch's default; "
            "else say --arch.head-dim",
        )
    )
    fields: Fields = {
        "embed_dim": width,
        "depth": count_blocks(theirs, f"{_LUCID}."),
        "num_heads": inner // head_dim,
        "head_dim": head_dim,
        "mlp_dim": theirs[f"{_at0(_LUCID)}.1.net.1.weight"].shape[0],
        "patch_size": patch,
        "img_size": square_side(positions - tokens, patch, hints),
        "in_chans": chans,
        "num_classes": theirs["mlp_head.weight"].shape[0] if "mlp_head.weight" in theirs else 0,
        "patch_embed": "linear",
        "patch_norm": True,
        "cls_token": bool(tokens),
        "pool": "cls" if tokens else "avg",
        "qkv_bias": False,
        "norm_eps": 1e-5,
    }
    return fields, note


def _add_axis(table: Tensor) -> Sequence[Tensor]:
    return (table.reshape(1, -1, table.shape[-1]),)


_LUCIDRAINS_RULES = (
    Rule(("cls_token",), ("cls_token",), _add_axis, lambda t: (t[0],)),
    Rule(("pos_embed.table",), ("pos_embedding",), _add_axis, lambda t: (t[0],)),
    Rule(("blocks.{i}.attn.qkv.weight",), (f"{_LUCID}.0.to_qkv.weight",)),
    *pairs(
        {
            "patch_embed.norm_in": "to_patch_embedding.1",
            "patch_embed.proj": "to_patch_embedding.2",
            "patch_embed.norm_out": "to_patch_embedding.3",
            "blocks.{i}.norm1": f"{_LUCID}.0.norm",
            "blocks.{i}.attn.proj": f"{_LUCID}.0.to_out.0",
            "blocks.{i}.norm2": f"{_LUCID}.1.net.0",
            "blocks.{i}.mlp.fc1": f"{_LUCID}.1.net.1",
            "blocks.{i}.mlp.fc2": f"{_LUCID}.1.net.4",
            "norm": "transformer.norm",
            "head": "mlp_head",
        }
    ),
)

LUCIDRAINS = Layout(
    title="lucidrains' vit-pytorch",
    signature=("to_patch_embedding.2.weight", "transformer.layers.0.0.to_qkv.weight"),
    configure=_configure_lucidrains,
    rules=lambda _: _LUCIDRAINS_RULES,
    drops=(Drop(r"cls_token", "it is empty: the model averages its patches"),),
)
