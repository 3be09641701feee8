"""Position schemes in a whole model: their places, their parameters, and that they learn."""

from dataclasses import asdict
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tessera.config import POS_PLACES, ViTConfig
from tessera.fields import build
from tessera.models.variants import parse
from tessera.models.vit import ViT
from tessera.nn.block import Block
from tessera.nn.pos_embed import POS_EMBEDS
from tessera.nn.positions.base import PosEmbed
from tessera.optim.groups import layer_of, parameter_groups

PLACED = [(name, place) for name, places in POS_PLACES.items() for place in places]
IN_BLOCKS = [(name, place) for name, place in PLACED if place != "stem"]


def make(name: str, place: str | None = None, **arch: Any) -> ViT:
    """Two blocks of 32 channels on 2 x 3 patches, with positions away from zero."""
    torch.manual_seed(0)
    fields = {"img_size": (32, 48), "num_classes": 5, "depth": 2, "pos_clip": 3, **arch}
    model = ViT(parse("vit_mu_patch16", pos_embed=name, pos_place=place, **fields)).eval()
    for module in model.modules():
        if isinstance(module, PosEmbed):
            for parameter in module.parameters():
                nn.init.normal_(parameter, std=0.5)
    nn.init.normal_(model.get_parameter("head.weight"), std=0.5)
    return model


def pixels(height: int = 32, width: int = 48, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def blocks(model: ViT) -> list[Block]:
    return cast(list[Block], list(model.blocks))


def encoded(model: ViT, images: Tensor, schemes: list[PosEmbed]) -> tuple[Tensor, list[Tensor]]:
    """The encoder, one block after the other, with a scheme for each; and A of each block."""
    c = model.config
    grid = (images.shape[2] // 16, images.shape[3] // 16)
    tokens = [model.cls_token, model.register_tokens]
    x = model.patch_embed(images)
    x = torch.cat([*(t.expand(len(x), -1, -1) for t in tokens if t is not None), x], dim=1)
    matrices = []
    for block, scheme in zip(blocks(model), schemes, strict=True):
        if c.num_registers:  # class token and patches, then the registers back in between
            first, registers, patches = x.split([1, c.num_registers, x.shape[1] - 1 - 2], dim=1)
            added = scheme(torch.cat([first, patches], dim=1), grid)
            x = torch.cat([added[:, :1], registers, added[:, 1:]], dim=1)
        else:
            x = scheme(x, grid)
        told = (scheme.rotation(grid, x.device), scheme.relative(grid, x.device))
        matrices.append(block.attn.weights(block.norm1(x), *told))
        x = x + block.attn(block.norm1(x), *told)
        x = x + block.mlp(block.norm2(x))
    return model.norm(x), matrices


def test_the_table_of_places_knows_every_scheme() -> None:
    assert set(POS_PLACES) == set(POS_EMBEDS)
    assert ViTConfig().place == "stem"
    assert ViTConfig(pos_embed="rope2d").place == "shared"
    assert ViTConfig(pos_embed="bias2d").place == "every"


@pytest.mark.parametrize("num_registers", [0, 2])
@pytest.mark.parametrize(("name", "place"), IN_BLOCKS)
def test_a_place_is_the_tables_of_that_place_at_every_block(
    name: str, place: str, num_registers: int
) -> None:
    model, images = make(name, place, num_registers=num_registers), pixels()
    schemes = [block.pos_embed or model.pos_embed for block in blocks(model)]
    if place == "every":
        assert schemes[0] is not schemes[1]
        assert not list(model.pos_embed.parameters())
    else:
        assert schemes[0] is schemes[1] is model.pos_embed
    wanted, matrices = encoded(model, images, schemes)
    tokens = model.forward_features(images)
    found = torch.cat([tokens.cls, tokens.registers, tokens.patches], dim=1)
    # Measured: equal, both; another machine may sum in another order.
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    for a, b in zip(model.attention_weights(images, [0, 1]), matrices, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    last = model.forward_intermediates(images, [1], norm=True)[0]
    assert torch.equal(last.patches, tokens.patches)


@pytest.mark.parametrize(("name", "place"), PLACED)
def test_attention_weights_are_what_forward_uses(name: str, place: str) -> None:
    """A v, projected, of the explicit A is what attention adds, but for vectors on values."""
    model, images = make(name, place, num_registers=1), pixels()
    seen: list[tuple[Tensor, Tensor, Any]] = []
    for block in blocks(model):
        block.attn.register_forward_hook(
            lambda module, args, out: seen.append((args[0], out, args[2]))
        )
    model.forward_features(images)
    for (x, out, relative), a in zip(seen, model.attention_weights(images, [0, 1]), strict=False):
        attn = blocks(model)[0].attn if x is seen[0][0] else blocks(model)[1].attn
        v = attn.qkv(x).unflatten(-1, (3, 2, 16))[:, :, 2].transpose(1, 2)
        heads = a @ v
        if relative is not None and relative.values is not None:
            heads = heads + torch.einsum("bhts,tse->bhte", a, relative.values[relative.pairs])
        # Measured: 7e-7, on numbers of the size of 1.
        torch.testing.assert_close(
            attn.proj(heads.transpose(1, 2).flatten(2)), out, rtol=0, atol=1e-5
        )


@pytest.mark.parametrize(
    ("name", "place"),
    [
        (name, place)
        for name in POS_EMBEDS
        for place in ("stem", "every", "shared")
        if place not in POS_PLACES[name]
    ],
)
def test_a_place_where_a_scheme_means_nothing_is_refused(name: str, place: Any) -> None:
    message = rf"pos_embed='{name}' means nothing at pos_place='{place}'\nhint: it acts at '"
    with pytest.raises(ValueError, match=message):
        ViTConfig(pos_embed=name, pos_place=place)


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("none", 0),
        ("learned", 197 * 768),
        ("learned2d", 768 + (14 + 14) * 384),
        ("shaw", 33 * 64),
        ("shaw_values", 2 * 33 * 64),
        ("shaw_bias", 33 * 12),
        ("relative", 12 * (2 * 197 - 1) * 64),
        ("bias2d", 12 * (27 * 27 + 3)),
        ("rope2d", 0),
        ("rope2d_mixed", 2 * 12 * 32),
    ],
)
def test_vit_b_16_has_the_papers_numbers_and_those_of_its_positions(
    name: str, numbers: int
) -> None:
    bare = 86_567_656 - 197 * 768  # ViT-B/16 of the paper's code, without its positions
    for place in POS_PLACES[name]:
        with torch.device("meta"):
            model = ViT(ViTConfig(pos_embed=name, pos_place=place))
        tables = 12 if place == "every" else 1
        assert sum(p.numel() for p in model.parameters()) == bare + tables * numbers


def test_without_a_place_state_and_answer_are_those_of_the_stem() -> None:
    plain, named = make("learned"), make("learned", "stem")
    assert list(plain.state_dict()) == list(named.state_dict())
    assert "pos_embed.table" in plain.state_dict()
    assert torch.equal(plain(pixels()), named(pixels()))


def test_a_config_from_before_there_were_places_is_the_same() -> None:
    new = {"pos_place", "pos_clip", "attention", "attention_window"}
    for config in (ViTConfig(), ViTConfig(pos_embed="rope2d", rope_theta=7.0)):
        old = {name: value for name, value in asdict(config).items() if name not in new}
        assert build(ViTConfig, old) == config
    assert [k for k, _ in make("rope2d").named_parameters() if "pos" in k] == []


@pytest.mark.parametrize(("name", "place"), PLACED)
def test_positions_do_not_decay_and_belong_to_their_layer(name: str, place: str) -> None:
    model = make(name, place)
    decaying = {
        id(p) for g in parameter_groups(model, 0.1) if g["weight_decay"] for p in g["params"]
    }
    positions = {n: p for n, p in model.named_parameters() if "pos_embed" in n.split(".")}
    assert bool(positions) == (name not in ("none", "sincos1d", "sincos2d", "rope2d"))
    for key, parameter in positions.items():
        assert id(parameter) not in decaying
        layer = int(key.split(".")[1]) + 1 if place == "every" else 0
        assert layer_of(key, 2) == layer


@pytest.mark.parametrize(("name", "place"), PLACED)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_few_steps_lower_the_loss(name: str, place: str, checkpointing: bool) -> None:
    torch.manual_seed(0)
    fields = {"img_size": (32, 48), "num_classes": 5, "depth": 2, "num_registers": 1}
    model = ViT(parse("vit_mu_patch16", pos_embed=name, pos_place=place, **fields)).train()
    model.grad_checkpointing = checkpointing
    before = {n: p.clone() for n, p in model.named_parameters() if "pos_embed" in n}
    images, labels = pixels(batch=8), torch.arange(8) % 5
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(6):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]  # measured: 0.79 of it at most
    assert not any(torch.equal(model.get_parameter(n), p) for n, p in before.items())


@pytest.mark.parametrize(("name", "place"), [("learned", "every"), ("shaw", "shared")])
def test_a_model_in_blocks_is_exported_with_the_batch_free(name: str, place: str) -> None:
    model = make(name, place, num_registers=1)
    dim = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (pixels(),), dynamic_shapes={"images": {0: dim}})
    # Measured: equal; another machine may sum in another order.
    torch.testing.assert_close(
        exported.module()(pixels(batch=3)), model(pixels(batch=3)), rtol=0, atol=1e-5
    )
