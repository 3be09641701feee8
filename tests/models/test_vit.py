import math
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tessera.models.variants import parse
from tessera.models.vit import Tokens, ViT, create_model
from tessera.nn.block import Block
from tessera.nn.patch_embed import patchify, unpatchify
from tessera.nn.pos_embed import POS_EMBEDS, Learned, PosEmbed, Rotation, SinCos2d, resample

SCHEMES = sorted(POS_EMBEDS)


def mu(**arch: Any) -> ViT:
    """The smallest model, in evaluation, with every parameter moved away from zero."""
    torch.manual_seed(0)
    model = ViT(parse("vit_mu_patch16", **{"img_size": 32, "num_classes": 5, **arch}))
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.5)
    for module in model.modules():
        if isinstance(module, PosEmbed):
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.5)
    return model.eval()


def pixels(*size: int, batch: int = 2) -> Tensor:
    height, width = size or (32, 32)
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def inputs_of_blocks(model: ViT, images: Tensor) -> list[Tensor]:
    """The tokens that go into each block."""
    seen: list[Tensor] = []
    hooks = [
        block.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        for block in model.blocks
    ]
    model(images)
    for hook in hooks:
        hook.remove()
    return seen


def assert_same(found: Tokens, wanted: Tokens) -> None:
    assert found.grid == wanted.grid
    for kind in ("cls", "dist", "registers", "patches"):
        assert torch.equal(getattr(found, kind), getattr(wanted, kind)), kind


def joined(tokens: Tokens) -> Tensor:
    """All tokens in the order in which the blocks see them."""
    return torch.cat([tokens.cls, tokens.dist, tokens.registers, tokens.patches], dim=1)


def dinov3(grid: tuple[int, int], width: int, theta: float) -> Rotation:
    """Turn of every patch, after DINOv3: axis by axis, period by period."""
    rows = []
    for y in range(grid[0]):
        for x in range(grid[1]):
            centres = (2 * (y + 0.5) / grid[0] - 1, 2 * (x + 0.5) / grid[1] - 1)
            periods = [theta ** (i / (width // 4)) for i in range(width // 4)]
            rows.append([2 * math.pi * at / period for at in centres for period in periods] * 2)
    angles = torch.tensor(rows)
    return Rotation(sin=angles.sin(), cos=angles.cos())


def blocks(model: ViT) -> Iterable[Block]:
    for block in model.blocks:
        assert isinstance(block, Block)
        yield block


# Equations 1 to 4


@pytest.mark.parametrize("size", [(32, 32), (48, 80)])
def test_the_encoder_is_equations_1_to_4(size: tuple[int, int]) -> None:
    model, images = mu(depth=3), pixels(*size)
    grid = (size[0] // 16, size[1] // 16)
    assert isinstance(model.pos_embed, Learned)
    assert isinstance(model.cls_token, Tensor)
    assert isinstance(model.head, nn.Linear)
    table = resample(model.pos_embed.table, (2, 2), grid, prefix=1)[0]
    for image, logits in zip(images, model(images), strict=True):
        patches = model.patch_embed(image[None])[0]
        z = torch.cat([model.cls_token[0], patches]) + table  # equation 1
        for block in blocks(model):
            z = block(z[None])[0]  # equations 2 and 3
        y = model.norm(z)[0]  # equation 4
        # Measured: 5e-7, on logits of the size of 7.
        torch.testing.assert_close(
            logits, model.head.weight @ y + model.head.bias, rtol=0, atol=2e-5
        )


def test_registers_come_after_the_class_token_and_have_no_position() -> None:
    model, images = mu(num_registers=3), pixels()
    (tokens,) = inputs_of_blocks(model, images)
    assert isinstance(model.pos_embed, Learned)
    assert model.cls_token is not None
    assert model.register_tokens is not None
    table = model.pos_embed.table
    assert torch.equal(tokens[:, :1], (model.cls_token + table[:, :1]).expand(2, -1, -1))
    assert torch.equal(tokens[:, 1:4], model.register_tokens.expand(2, -1, -1))
    assert torch.equal(tokens[:, 4:], model.patch_embed(images) + table[:, 1:])


def test_the_distillation_token_comes_after_the_class_token_and_has_its_own_position() -> None:
    model, images = mu(dist_token=True, num_registers=3), pixels()
    (tokens,) = inputs_of_blocks(model, images)
    assert isinstance(model.pos_embed, Learned)
    assert model.cls_token is not None
    assert model.dist_token is not None
    assert model.register_tokens is not None
    assert model.dist_token.shape == (1, 1, 32)
    table = model.pos_embed.table
    assert table.shape == (1, 4 + 2, 32)
    assert torch.equal(tokens[:, :1], (model.cls_token + table[:, :1]).expand(2, -1, -1))
    assert torch.equal(tokens[:, 1:2], (model.dist_token + table[:, 1:2]).expand(2, -1, -1))
    assert torch.equal(tokens[:, 2:5], model.register_tokens.expand(2, -1, -1))
    assert torch.equal(tokens[:, 5:], model.patch_embed(images) + table[:, 2:])


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
def test_the_norm_of_the_embedding_is_applied_to_every_token_before_the_first_block(
    norm: str,
) -> None:
    arch: dict[str, Any] = {"dist_token": True, "num_registers": 2, "norm": norm, "norm_eps": 0.1}
    model, images = mu(embed_norm=True, **arch), pixels(32, 48)
    assert isinstance(model.embed_norm, nn.LayerNorm | nn.RMSNorm)
    torch.manual_seed(5)
    for parameter in model.embed_norm.parameters():
        nn.init.normal_(parameter)
    plain = mu(**arch)
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("embed_norm.")}
    plain.load_state_dict(weights)
    (bare,), (normed,) = inputs_of_blocks(plain, images), inputs_of_blocks(model, images)
    centred = bare - bare.mean(dim=-1, keepdim=True) if norm == "layernorm" else bare
    wanted = centred / (centred.square().mean(dim=-1, keepdim=True) + 0.1).sqrt()
    wanted = wanted * model.embed_norm.weight
    if isinstance(model.embed_norm, nn.LayerNorm):
        wanted = wanted + model.embed_norm.bias
    # Measured: 5e-7.
    torch.testing.assert_close(normed, wanted, rtol=0, atol=1e-5)


def test_rotary_positions_add_nothing_and_turn_the_patches_in_every_block() -> None:
    arch: dict[str, Any] = {"depth": 3, "head_dim": 8, "dist_token": True, "num_registers": 2}
    model, images = mu(pos_embed="rope2d", rope_theta=10.0, **arch), pixels(32, 48)
    assert model.cls_token is not None
    assert model.dist_token is not None
    assert model.register_tokens is not None
    first = [model.cls_token, model.dist_token, model.register_tokens]
    z = torch.cat([*(t.expand(2, -1, -1) for t in first), model.patch_embed(images)], dim=1)
    rotation = dinov3((2, 3), 8, 10.0)
    found = model.forward_intermediates(images, range(3))
    for block, tokens in zip(blocks(model), found, strict=True):
        z = block(z, rotation)
        # Measured: 2e-6 at most, on tokens of the size of 8.
        torch.testing.assert_close(joined(tokens), z, rtol=0, atol=2e-5)
    features = joined(model.forward_features(images))
    torch.testing.assert_close(features, model.norm(z), rtol=0, atol=2e-5)


def test_an_image_does_not_see_the_others_of_its_batch() -> None:
    model, images = mu(depth=2, num_registers=1), pixels(batch=3)
    alone = torch.cat([model(image[None]) for image in images])
    # Measured: 3e-7, as a matrix product is summed in another order for another batch.
    torch.testing.assert_close(alone, model(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("pool", ["cls", "avg", "map"])
@pytest.mark.parametrize("num_registers", [0, 2])
def test_without_positions_the_order_of_patches_does_not_matter(
    pool: str, num_registers: int
) -> None:
    def change(pos_embed: str) -> float:
        arch = {"num_registers": num_registers, "pos_embed": pos_embed, "img_size": (64, 48)}
        model = mu(depth=2, pool=pool, **arch)
        return (model(shuffled) - model(images)).abs().max().item()

    images = pixels(64, 48)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    shuffled = unpatchify(patchify(images, 16)[:, order], (4, 3), 16)
    assert change("none") < 2e-5  # measured: 2e-6 at most
    for scheme in set(SCHEMES) - {"none"}:
        assert change(scheme) > 0.01, scheme  # measured: 0.07 at least


# Pools and heads


@pytest.mark.parametrize("pool", ["cls", "avg", "map"])
def test_a_pool_takes_the_tokens_it_says(pool: str) -> None:
    model, images = mu(pool=pool, num_registers=2, dist_token=True), pixels()
    tokens = model.forward_features(images)
    match pool:
        case "cls":
            wanted = tokens.cls[:, 0]
        case "avg":
            wanted = torch.stack([tokens.patches[:, n] for n in range(4)]).sum(0) / 4
        case _:
            wanted = model.attn_pool(tokens.patches)
    # Measured: equal; another machine may sum the mean in another order.
    torch.testing.assert_close(model.pool(tokens), wanted, rtol=0, atol=1e-6)
    # Measured: 5e-7, since the last block computes fewer tokens than for ``forward_features``.
    logits = model.head(model.pool(tokens))
    torch.testing.assert_close(model(images), logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pos_embed", ["learned", "rope2d"])
@pytest.mark.parametrize("final_norm", ["tokens", "pooled"])
def test_the_last_block_computes_only_what_the_head_reads(pos_embed: str, final_norm: str) -> None:
    arch: dict[str, Any] = {"num_registers": 3, "dist_token": True, "dist_head": True}
    arch |= {"depth": 3, "pos_embed": pos_embed, "final_norm": final_norm, "qk_norm": True}
    model, images, seen = mu(**arch), pixels(32, 48), list[torch.Size]()
    for block in model.blocks:
        block.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    logits, weights = model(images), list(model.parameters())
    assert [shape[1] for shape in seen] == [11, 11, 2]
    every = model.forward_head(model.forward_features(images))
    # Measured: 4e-7 for logits of up to 5, 3e-6 for gradients of up to 6.
    torch.testing.assert_close(logits, every, rtol=0, atol=1e-5)
    found, wanted = (torch.autograd.grad(x.square().mean(), weights) for x in (logits, every))
    for ours, full in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, full, rtol=0, atol=2e-5)


@pytest.mark.parametrize("pool", ["cls", "avg", "map"])
def test_the_final_norm_is_where_the_config_says(pool: str) -> None:
    images = pixels()
    plain, on_tokens, on_pooled = (
        mu(pool=pool, final_norm=where, norm_eps=0.1) for where in ("none", "tokens", "pooled")
    )
    weights = on_tokens.state_dict()
    on_pooled.load_state_dict(weights)
    plain.load_state_dict({k: v for k, v in weights.items() if not k.startswith("norm.")})
    assert not list(plain.norm.parameters())
    bare = plain.forward_features(images)
    assert_same(on_pooled.forward_features(images), bare)
    normed = on_tokens.forward_features(images)
    for found, before in zip(normed[:4], bare[:4], strict=True):
        assert torch.equal(found, on_tokens.norm(before))
    assert torch.equal(on_pooled.pool(bare), on_pooled.norm(plain.pool(bare)))
    assert torch.equal(on_tokens.pool(normed), plain.pool(normed))


@pytest.mark.parametrize("pool", ["cls", "avg", "map"])
def test_without_classes_the_model_gives_the_pooled_features(pool: str) -> None:
    model, images = mu(num_classes=0, pool=pool, final_norm="pooled"), pixels()
    features = model.pool(model.forward_features(images))
    torch.testing.assert_close(model(images), features, rtol=0, atol=1e-5)  # measured: 1e-6
    assert model(images).shape == (2, 32)


def test_the_pre_training_head_is_dense_tanh_dense() -> None:
    model, images = mu(representation_dim=7), pixels()
    assert isinstance(model.pre_logits, nn.Linear)
    assert isinstance(model.head, nn.Linear)
    x = model.pool(model.forward_features(images))
    hidden = torch.tanh(x @ model.pre_logits.weight.T + model.pre_logits.bias)
    assert hidden.shape == (2, 7)
    wanted = hidden @ model.head.weight.T + model.head.bias
    # Measured: equal; another machine may sum in another order.
    torch.testing.assert_close(model(images), wanted, rtol=0, atol=5e-6)


@pytest.mark.parametrize("representation_dim", [None, 7])
def test_a_head_for_the_distillation_token_is_averaged_with_the_other(
    representation_dim: int | None,
) -> None:
    arch: dict[str, Any] = {"representation_dim": representation_dim, "num_registers": 2}
    model, images = mu(dist_token=True, dist_head=True, **arch), pixels()
    assert isinstance(model.head_dist, nn.Linear)
    tokens = model.forward_features(images)
    x = model.pool(tokens)
    first = model.head(x if representation_dim is None else torch.tanh(model.pre_logits(x)))
    second = tokens.dist[:, 0] @ model.head_dist.weight.T + model.head_dist.bias
    assert (first - second).abs().max() > 0.1  # measured: 4 at least
    # Measured: equal; another machine may sum in another order.
    torch.testing.assert_close(model(images), 0.5 * first + 0.5 * second, rtol=0, atol=1e-5)


def test_without_a_head_of_its_own_the_distillation_token_is_only_looked_at() -> None:
    model, images = mu(dist_token=True), pixels()
    tokens = model.forward_features(images)
    assert torch.equal(model.forward_head(tokens), model.head(tokens.cls[:, 0]))
    assert not any(name.startswith("head_dist") for name in model.state_dict())
    assert model.dist_token is not None
    before = model(images)
    with torch.no_grad():
        model.dist_token.neg_()
    assert (model(images) - before).abs().max() > 0.01  # measured: 0.9


# Tokens by name, and what happens between blocks


@pytest.mark.parametrize(("cls_token", "dist_token"), [(True, False), (True, True), (False, False)])
@pytest.mark.parametrize("num_registers", [0, 3])
@pytest.mark.parametrize("size", [(32, 32), (48, 80)])
def test_tokens_are_named(
    cls_token: bool, dist_token: bool, num_registers: int, size: tuple[int, int]
) -> None:
    model = mu(cls_token=cls_token, dist_token=dist_token, num_registers=num_registers, pool="avg")
    tokens = model.forward_features(pixels(*size))
    rows, cols = size[0] // 16, size[1] // 16
    assert tokens.grid == (rows, cols)
    assert tokens.cls.shape == (2, int(cls_token), 32)
    assert tokens.dist.shape == (2, int(dist_token), 32)
    assert tokens.registers.shape == (2, num_registers, 32)
    assert tokens.patches.shape == (2, rows * cols, 32)


@pytest.mark.parametrize("pos_embed", ["learned", "rope2d"])
def test_intermediates_are_the_tokens_after_each_block(pos_embed: str) -> None:
    arch: dict[str, Any] = {"num_registers": 2, "dist_token": True, "pos_embed": pos_embed}
    model, images = mu(depth=4, **arch), pixels(32, 48)
    found = model.forward_intermediates(images, range(4))
    into = inputs_of_blocks(model, images)
    for i in range(3):  # what comes out of a block goes into the next
        assert torch.equal(joined(found[i]), into[i + 1])
        assert found[i].grid == (2, 3)
    rotation = model.pos_embed.rotation((2, 3), images.device)
    assert torch.equal(joined(found[3]), model.blocks[3](into[3], rotation))


def test_intermediates_come_in_the_order_asked_for_and_negative_counts_from_the_end() -> None:
    model, images = mu(depth=4), pixels()
    every = model.forward_intermediates(images, [0, 1, 2, 3])
    found = model.forward_intermediates(images, [2, -4, -1, 2])
    for tokens, i in zip(found, [2, 0, 3, 2], strict=True):
        assert_same(tokens, every[i])
    assert model.forward_intermediates(images, []) == []


def test_the_last_intermediate_with_norm_is_the_feature() -> None:
    model, images = mu(depth=3, num_registers=1), pixels()
    bare, normed = (model.forward_intermediates(images, [-1], norm=n)[0] for n in (False, True))
    assert_same(normed, model.forward_features(images))
    assert torch.equal(normed.patches, model.norm(bare.patches))
    assert not torch.equal(normed.patches, bare.patches)


def test_blocks_below_the_deepest_wanted_are_not_run() -> None:
    model, ran = mu(depth=3), list[int]()
    for i, block in enumerate(model.blocks):
        block.register_forward_hook(lambda module, args, out, i=i: ran.append(i))
    model.forward_intermediates(pixels(), [1])
    assert ran == [0, 1]


@pytest.mark.parametrize("num_registers", [0, 2])
@pytest.mark.parametrize("pos_embed", ["learned", "rope2d"])
def test_attention_weights_are_those_of_the_blocks(num_registers: int, pos_embed: str) -> None:
    arch: dict[str, Any] = {"num_registers": num_registers, "pos_embed": pos_embed}
    model, images = mu(depth=3, qk_norm=True, **arch), pixels(32, 48)
    found = model.attention_weights(images, [2, 0, -2])
    into = inputs_of_blocks(model, images)
    turn = model.pos_embed.rotation((2, 3), images.device)
    every = [b.attention_weights(x, turn) for b, x in zip(blocks(model), into, strict=True)]
    count = 1 + num_registers + 6
    for weights, i in zip(found, [2, 0, 1], strict=True):
        assert weights.shape == (2, 2, count, count)
        assert torch.equal(weights, every[i])
        # Measured: 2e-7.
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, count), rtol=0, atol=1e-6)


def test_attention_weights_with_rotary_positions_are_the_softmax_of_turned_products() -> None:
    arch: dict[str, Any] = {"head_dim": 8, "dist_token": True, "num_registers": 2}
    model, images = mu(depth=2, pos_embed="rope2d", rope_theta=10.0, **arch), pixels(32, 48)
    found = model.attention_weights(images, [0, 1])
    angles = dinov3((2, 3), 8, 10.0)
    turns = torch.complex(angles.cos, angles.sin)[:, :4]  # n e/2
    turns = torch.cat([torch.ones(1 + 1 + 2, 4), turns])  # class, distillation, registers, patches
    into = inputs_of_blocks(model, images)
    for block, x, weights in zip(blocks(model), into, found, strict=True):
        q, k, _ = block.attn.qkv(block.norm1(x)).unflatten(-1, (3, 2, 8)).unbind(dim=2)  # b t h e
        q, k = (torch.complex(*part.chunk(2, dim=-1)) * turns[:, None] for part in (q, k))
        scores = torch.einsum("bthe,bshe->bhts", q, k.conj()).real / math.sqrt(8)
        wanted = scores.exp() / scores.exp().sum(dim=-1, keepdim=True)
        # Measured: 5e-7.
        torch.testing.assert_close(weights, wanted, rtol=0, atol=5e-6)


@pytest.mark.parametrize("block", [3, -4])
def test_a_block_that_is_not_there_is_refused(block: int) -> None:
    model = mu(depth=3)
    for look in (model.forward_intermediates, model.attention_weights):
        with pytest.raises(ValueError, match=f"block {block} is not in a model of depth 3"):
            look(pixels(), [0, block])


# Any size, any precision, any name


@given(
    rows=st.integers(1, 4),
    cols=st.integers(1, 4),
    pos_embed=st.sampled_from(sorted(set(SCHEMES) - {"relative"})),
    form=st.sampled_from(["conv", "linear"]),
)
@settings(max_examples=25, deadline=None, derandomize=True)
def test_any_multiple_of_the_patch_runs(rows: int, cols: int, pos_embed: str, form: str) -> None:
    model = mu(pos_embed=pos_embed, num_registers=1, patch_embed=form)
    images = pixels(rows * 16, cols * 16)
    assert model(images).isfinite().all()
    assert model.forward_features(images).grid == (rows, cols)


def test_an_image_that_does_not_fit_is_refused_with_a_size_that_does() -> None:
    message = "an image of 40x33 is no multiple of patch_size=16\nhint: resize it, .* to 32x32$"
    with pytest.raises(ValueError, match=message):
        mu()(pixels(40, 33))


@pytest.mark.parametrize("pos_embed", SCHEMES)
def test_a_model_runs_in_half_precision(pos_embed: str) -> None:
    model = mu(pos_embed=pos_embed, num_registers=1, img_size=(48, 32)).bfloat16()
    assert model(pixels(48, 32).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("pos_embed", SCHEMES)
def test_a_model_built_without_memory_runs_once_it_is_given_weights(pos_embed: str) -> None:
    everything: dict[str, Any] = {
        "img_size": (48, 32),
        "dist_token": True,
        "dist_head": True,
        "num_registers": 2,
        "embed_norm": True,
        "layer_scale_init": 0.1,
        "qk_norm": True,
    }
    wanted, images = mu(pos_embed=pos_embed, **everything), pixels(48, 32)
    with torch.device("meta"):
        model = ViT(wanted.config).eval()
    model.load_state_dict(wanted.state_dict(), assign=True)
    tensors = [*model.named_parameters(), *model.named_buffers()]
    assert [name for name, tensor in tensors if tensor.is_meta] == []
    assert torch.equal(model(images), wanted(images))


def test_a_model_is_built_by_any_of_its_names() -> None:
    torch.manual_seed(0)
    model = create_model("ViT-mu/16", num_classes=3, img_size=32, pos_embed="sincos2d", init="mae")
    assert model.config == parse("vit_mu_patch16_32", num_classes=3, pos_embed="sincos2d")
    assert isinstance(model.pos_embed, SinCos2d)
    torch.manual_seed(0)
    same = ViT(model.config, init="mae").state_dict()
    assert all(torch.equal(weight, same[name]) for name, weight in model.state_dict().items())
