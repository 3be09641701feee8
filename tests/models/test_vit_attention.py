"""Attention patterns in a whole model."""

import warnings
from collections.abc import Iterator
from typing import Any, cast

import jaxtyping
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.flex_attention import flex_attention

from tessera.models.variants import parse
from tessera.models.vit import ViT
from tessera.nn import block_sparse
from tessera.nn.attention_masks import PATTERNS, TokenGrid, dense_mask
from tessera.nn.block import Block
from tessera.nn.block_sparse import Blocks

CPU = torch.device("cpu")
SPARSE = sorted(set(PATTERNS) - {"global"})


def make(name: str, **arch: Any) -> ViT:
    """Two blocks on 6 x 4 patches of 8 pixels, with windows of 3, heads away from zero."""
    torch.manual_seed(0)
    fields = {"img_size": (48, 32), "num_classes": 5, "depth": 2, "attention_window": 3, **arch}
    model = ViT(parse("vit_mu_patch8", attention=name, **fields)).eval()
    nn.init.normal_(model.get_parameter("head.weight"), std=0.5)
    return model


def blocks(model: ViT) -> list[Block]:
    return cast(list[Block], list(model.blocks))


def pixels(height: int = 48, width: int = 32, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run flex_attention without compiling, and without notes that its tracer cannot follow."""
    monkeypatch.setattr(block_sparse, "fused", lambda: flex_attention)
    jaxtyping.config.update("jaxtyping_disable", True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("size", [(48, 32), (24, 56)])
@pytest.mark.parametrize("name", SPARSE)
def test_attention_is_zero_where_the_pattern_is_and_nowhere_else(
    name: str, size: tuple[int, int]
) -> None:
    model = make(name, dist_token=True, num_registers=2)
    tokens = TokenGrid((size[0] // 8, size[1] // 8), 4, 2, 3)
    for i, weights in enumerate(model.attention_weights(pixels(*size), [0, 1])):
        mask = dense_mask(name, i, tokens, CPU)
        assert mask is not None
        assert torch.equal(weights > 0, mask.expand_as(weights))
        # Measured: 3e-7.
        sums = weights.sum(-1)
        torch.testing.assert_close(sums, torch.ones_like(sums), rtol=0, atol=1e-6)


@pytest.mark.parametrize("pos_embed", ["learned", "rope2d", "shaw", "shaw_values", "bias2d"])
@pytest.mark.parametrize("name", ["neighborhood", "axial", "strided"])
def test_the_answer_is_that_of_the_attention_weights(name: str, pos_embed: str) -> None:
    model, images = make(name, pos_embed=pos_embed, num_registers=1), pixels()
    seen: list[tuple[Tensor, Tensor, Any]] = []
    for block in blocks(model):
        block.attn.register_forward_hook(
            lambda module, args, out: seen.append((args[0], out, args[2]))
        )
    model.forward_features(images)
    matrices = model.attention_weights(images, [0, 1])
    for block, (x, out, relative), a in zip(blocks(model), seen[:2], matrices, strict=True):
        v = block.attn.qkv(x).unflatten(-1, (3, 2, 16))[:, :, 2].transpose(1, 2)
        heads = a @ v
        if relative is not None and relative.values is not None:
            heads = heads + torch.einsum("bhts,tse->bhte", a, relative.values[relative.pairs])
        # Measured: 5e-7.
        found = block.attn.proj(heads.transpose(1, 2).flatten(2))
        torch.testing.assert_close(found, out, rtol=0, atol=1e-5)


@pytest.mark.parametrize("pos_embed", ["learned", "rope2d", "shaw", "shaw_values", "bias2d"])
@pytest.mark.parametrize("name", ["global", "neighborhood", "axial", "strided"])
def test_a_shorter_last_block_gives_the_same_answer(name: str, pos_embed: str) -> None:
    model, images = make(name, pos_embed=pos_embed, num_registers=1), pixels()
    every = model.forward_head(model.forward_features(images))
    torch.testing.assert_close(model(images), every, rtol=0, atol=1e-5)  # measured: 2e-6


@pytest.mark.parametrize("name", ["local", "neighborhood", "window"])
def test_a_window_over_the_whole_grid_is_global_attention(name: str) -> None:
    # Measured: equal; another machine may sum in another order.
    torch.testing.assert_close(
        make(name, attention_window=13)(pixels()), make("global")(pixels()), rtol=0, atol=1e-5
    )


def test_a_pattern_has_no_parameters_and_changes_the_answer() -> None:
    plain, images = make("global"), pixels()
    for name in SPARSE:
        model = make(name)
        assert list(model.state_dict()) == list(plain.state_dict())
        assert (model(images) - plain(images)).abs().max() > 1e-4  # measured: 0.003 at least


@pytest.mark.parametrize(
    ("name", "pos_embed"), [("local", "learned"), ("shifted_window", "shaw"), ("fixed", "bias2d")]
)
def test_a_model_in_blocks_agrees_with_the_dense_one(
    name: str, pos_embed: str, eager: None
) -> None:
    model, images = make(name, pos_embed=pos_embed), pixels()
    masks: list[Any] = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda module, args: masks.append(args[3]))
    with torch.no_grad():
        wanted = model(images)
        model.block_sparse = True
        # Measured: 4e-6, on logits of the size of 10.
        torch.testing.assert_close(model(images), wanted, rtol=0, atol=1e-5)
    assert [isinstance(mask, Blocks) for mask in masks] == [False] * 2 + [True] * 2


@pytest.mark.parametrize("why", ["gradients", "values", "dropout"])
def test_what_flex_attention_cannot_do_stays_dense(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_sparse, "fused", None)  # calling it would fail
    arch = {"pos_embed": "shaw_values"} if why == "values" else {}
    model = make("local", attn_drop_rate=0.5 if why == "dropout" else 0.0, **arch)
    model.block_sparse = True
    with torch.set_grad_enabled(why == "gradients"):
        assert model.train(why == "dropout")(pixels()).isfinite().all()


@pytest.mark.parametrize("name", PATTERNS)
def test_a_few_steps_lower_the_loss(name: str) -> None:
    torch.manual_seed(0)
    fields = {"img_size": 32, "num_classes": 5, "depth": 2, "attention_window": 3}
    model = ViT(parse("vit_mu_patch8", attention=name, pos_embed="bias2d", **fields)).train()
    images, labels = pixels(32, 32, batch=8), torch.arange(8) % 5
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(6):
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]  # measured: 0.75 of it at most


def test_pixels_can_be_the_tokens() -> None:
    torch.manual_seed(0)
    fields = {"img_size": 8, "num_classes": 5, "in_chans": 1}
    model = ViT(parse("vit_mu_patch1", attention="global", **fields))
    tokens = model.forward_features(torch.randn(2, 1, 8, 8))
    assert tokens.grid == (8, 8)
    assert tokens.patches.shape == (2, 64, 32)


@pytest.mark.parametrize("name", ["neighborhood", "strided"])
def test_a_pattern_is_exported_with_the_batch_free(name: str) -> None:
    model = make(name)
    dim = torch.export.Dim("batch", min=1, max=64)
    exported = torch.export.export(model, (pixels(),), dynamic_shapes={"images": {0: dim}})
    # Measured: equal; another machine may sum in another order.
    torch.testing.assert_close(
        exported.module()(pixels(batch=3)), model(pixels(batch=3)), rtol=0, atol=1e-5
    )
