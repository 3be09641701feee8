"""Every formula against a slow obvious version, for every kind of architecture."""

from typing import Any, cast

import kinds
import numpy as np
import pytest
import torch
from kinds import KINDS, SMALL, image_for
from torch import Tensor

from tessera.config import ViTConfig
from tessera.explain.attention import attention, watched
from tessera.explain.gradients import grad_cam, integrated_gradients, shortfall
from tessera.explain.methods import METHODS, check_method, default_method
from tessera.explain.occlusion import occlusion, window, windows
from tessera.explain.question import Question, answer
from tessera.explain.rollout import gradient_rollout, relevance, rollout
from tessera.models.variants import parse
from tessera.models.vit import ViT

QUESTION = Question(target=2)


def make(kind: str) -> ViT:
    return kinds.make(KINDS[kind])


def eager(model: ViT, x: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """A of every block by explicit softmax, the pool's weights, and the logits, in one graph."""
    kept: dict[int, Tensor] = {}
    with watched(model, kept.__setitem__):
        logits = model.forward_head(model.forward_features(x))
    depth = model.config.depth
    pool = [kept[depth]] if depth in kept else []
    return [kept[i] for i in range(depth)], pool, logits


@pytest.mark.parametrize("kind", KINDS)
def test_attention_in_the_graph_is_that_of_the_model_and_changes_no_logit(kind: str) -> None:
    model = make(kind)
    x = image_for(model)
    with torch.no_grad():
        weights, _, logits = eager(model, x)
        plain = model(x)
        reference = model.attention_weights(x, range(3))
    # Measured: 2.4e-7.
    assert (logits - plain).abs().max() <= 1e-5
    for a, b in zip(weights, reference, strict=True):
        assert (a - b).abs().max() <= 1e-5
        assert (a.sum(dim=-1) - 1).abs().max() <= 1e-5


def test_attention_equals_softmax_of_queries_and_keys() -> None:
    model = make("class token")
    x = image_for(model)
    with torch.no_grad():
        (a,) = model.attention_weights(x, [0])
        block = cast(Any, model.blocks[0])
        first = cast(Tensor, model.cls_token)
        t = model.pos_embed(torch.cat([first, model.patch_embed(x)], 1), (4, 5))
        q, k, _ = block.attn.qkv(block.norm1(t)).chunk(3, dim=-1)
        for head in range(2):
            own = slice(12 * head, 12 * head + 12)
            logits = q[0, :, own] @ k[0, :, own].T / 12**0.5
            expected = logits.exp() / logits.exp().sum(dim=1, keepdim=True)
            # Measured: 2.2e-8.
            assert (a[0, head] - expected).abs().max() <= 1e-5


def reading(model: ViT, pool: list[Tensor], count: int) -> np.ndarray:
    """How the head reads the last tokens, said again by hand."""
    specials = model.config.positioned_prefix + model.config.num_registers
    row = np.zeros(specials + count)
    match model.config.pool:
        case "cls":
            row[: 2 if model.config.dist_head else 1] = 0.5 if model.config.dist_head else 1
        case "avg":
            row[specials:] = 1 / count
        case _:
            row[specials:] = pool[0][0].detach().numpy().mean(axis=0)
    return row


@pytest.mark.parametrize("kind", KINDS)
def test_rollout_by_loops(kind: str) -> None:
    model = make(kind)
    x = image_for(model)
    weights, pool, _ = eager(model, x)
    size = weights[0].shape[-1]
    product = np.eye(size)
    for a in weights:
        mean = a[0].detach().numpy().mean(axis=0)
        with_residual = 0.5 * mean + 0.5 * np.eye(size)
        with_residual /= with_residual.sum(axis=1, keepdims=True)
        product = with_residual @ product
    expected = (reading(model, pool, 20) @ product)[-20:].reshape(4, 5)
    found = rollout(model, x, QUESTION)
    assert found.shape == (4, 5)
    # Measured: 6e-9.
    assert np.abs(found.numpy() - expected).max() <= 1e-6


@pytest.mark.parametrize("kind", KINDS)
def test_relevance_by_loops(kind: str) -> None:
    model = make(kind)
    x = image_for(model).requires_grad_()
    weights, pool, logits = eager(model, x)
    gradients = torch.autograd.grad(logits[0, 2], [*weights, *pool], retain_graph=True)
    size = weights[0].shape[-1]
    r = np.eye(size)
    for a, gradient in zip(weights, gradients, strict=False):
        mean = np.zeros((size, size))
        for head in range(a.shape[1]):
            product = (a[0, head] * gradient[0, head]).detach().numpy()
            mean += np.maximum(product, 0) / a.shape[1]
        r = r + mean @ r
    row = reading(model, pool, 20)
    if pool:
        row[-20:] = (gradients[-1] * pool[0]).clamp(min=0)[0].detach().numpy().mean(axis=0)
    expected = (row @ r)[-20:].reshape(4, 5)
    found = relevance(model, x.detach(), QUESTION).numpy()
    # Measured: 3e-9.
    assert np.abs(found - expected).max() <= 1e-6 * max(1, np.abs(expected).max())


def test_gradient_rollout_by_loops() -> None:
    model = make("class token")
    x = image_for(model).requires_grad_()
    weights, _, logits = eager(model, x)
    gradients = torch.autograd.grad(logits[0, 2], weights)
    product = np.eye(21)
    for a, gradient in zip(weights, gradients, strict=True):
        mean = (a * gradient).detach().clamp(min=0)[0].mean(dim=0).numpy()
        for i in range(21):
            mean[i] = mean[i] / mean[i].sum() if mean[i].sum() > 0 else np.eye(21)[i]
        product = (mean + np.eye(21)) / 2 @ product
    found = gradient_rollout(model, x.detach(), QUESTION).numpy()
    # Measured: 5e-9.
    assert np.abs(found - product[0, 1:].reshape(4, 5)).max() <= 1e-5


@pytest.mark.parametrize("kind", ["class token", "hybrid", "distilled", "locality"])
def test_grad_cam_of_a_class_token_by_loops(kind: str) -> None:
    model = make(kind)
    x = image_for(model)
    attn = cast(Any, model.blocks[-1]).attn
    seen: dict[str, Tensor] = {}

    def values(module: Any, args: Any, made: Tensor) -> None:
        seen["v"] = made[0, -20:, -24:]

    def summed(module: Any, args: tuple[Tensor]) -> None:
        seen["sum"] = args[0]

    handles = [attn.qkv.register_forward_hook(values), attn.proj.register_forward_pre_hook(summed)]
    y = model.forward_head(model.forward_features(x))[0, 2]
    (gradient,) = torch.autograd.grad(y, seen["sum"])
    for handle in handles:
        handle.remove()
    a = model.attention_weights(x, [-1])[0][0].detach()
    expected = np.zeros(20)
    for n in range(20):
        for reader in range(model.config.positioned_prefix):
            for d in range(24):
                added = float(a[d // 12, reader, n - 20]) * float(seen["v"][n, d].detach())
                expected[n] += float(gradient[0, reader, d]) * added
    found = grad_cam(model, x, QUESTION).numpy()
    # Measured: 6e-9.
    assert np.abs(found - np.maximum(expected, 0).reshape(4, 5)).max() <= 1e-5


@pytest.mark.parametrize("kind", ["registers and mean", "final norm on the pooled"])
def test_grad_cam_of_a_mean_by_loops_with_slopes_by_differences(kind: str) -> None:
    model = make(kind).double()
    x = image_for(model).double()
    after = model.forward_intermediates(x, [-1])[0].patches[0].detach()

    def moved(step: float) -> Tensor:
        """Logits of copies of the image, in each of which one number of one patch is moved."""

        def hook(module: Any, args: Any, made: Tensor) -> Tensor:
            made = made.clone()
            made[:, -20:] += step * torch.eye(480).double().reshape(480, 20, 24)
            return made

        handle = model.blocks[-1].register_forward_hook(hook)
        with torch.no_grad():
            found = model.forward_head(model.forward_features(x.repeat(480, 1, 1, 1)))[:, 2]
        handle.remove()
        return found

    slopes = ((moved(1e-4) - moved(-1e-4)) / 2e-4).reshape(20, 24).T.numpy()
    expected = np.maximum(after.numpy() @ slopes.mean(axis=1), 0).reshape(4, 5)
    # Measured: 1e-11.
    assert np.abs(grad_cam(model, x, QUESTION).numpy() - expected).max() <= 1e-6


@pytest.mark.parametrize("kind", ["class token", "map", "CCT", "rotary, qk norm, swiglu"])
def test_integrated_gradients_are_complete(kind: str) -> None:
    model = make(kind)
    x = image_for(model)
    with torch.no_grad():
        change = float(model(x)[0, 2] - model(torch.zeros_like(x))[0, 2])
    found = integrated_gradients(model, x, Question(target=2, steps=128))
    assert found.shape == (16, 20)
    assert abs(float(found.sum()) - change) <= 0.02 * max(abs(change), 0.1)
    assert shortfall(model, x, found, QUESTION) <= 0.2


def test_gradients_that_miss_what_happens_are_found_out() -> None:
    model = make("hybrid")  # group norm undoes any scaling: all happens close to the baseline
    x = image_for(model)
    found = integrated_gradients(model, x, Question(target=2, steps=32))
    assert shortfall(model, x, found, QUESTION) > 0.9  # measured: 0.9999


def test_occlusion_by_loops() -> None:
    model = make("class token")
    x = image_for(model)
    expected = torch.zeros(4, 5)
    with torch.no_grad():
        for row in range(4):
            for column in range(5):
                covered = x.clone()
                covered[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] = 0
                expected[row, column] = model(x)[0, 2] - model(covered)[0, 2]
    found = occlusion(model, x, QUESTION)
    # Measured: 1.5e-7.
    assert (found - expected).abs().max() <= 1e-5


def test_windows_of_occlusion_cover_any_grid() -> None:
    assert [window(grid) for grid in ((4, 5), (14, 14), (15, 3), (32, 32))] == [1, 1, 2, 3]
    assert windows((15, 3)) == 8 * 2


def test_attention_of_a_block_and_a_head() -> None:
    model = make("class token")
    x = image_for(model)
    a = model.attention_weights(x, [1])[0][0]
    found = attention(model, x, Question(block=1, head=0))
    assert torch.allclose(found.flatten(), a[0, 0, 1:], atol=1e-6)
    assert torch.allclose(
        attention(model, x, Question(block=-2)).flatten(), a.mean(dim=0)[0, 1:], atol=1e-6
    )
    with pytest.raises(ValueError, match="block 3 is not in a model of depth 3"):
        attention(model, x, Question(block=3))
    with pytest.raises(ValueError, match="head 2 is not in an attention of 2 heads"):
        attention(model, x, Question(head=2))


def test_attention_of_a_pool_is_what_reads_the_patches() -> None:
    model = make("map")
    x = image_for(model)
    with torch.no_grad():
        weights = model.attn_pool.weights(model.forward_features(x).patches)
    found = attention(model, x, Question(head=1))
    assert torch.allclose(found.flatten(), weights[0, 1], atol=1e-6)


def test_the_pools_give_what_they_gave() -> None:
    for kind, name in (("map", "attn_pool"), ("CCT", "seq_pool")):
        model = make(kind)
        pool, x = getattr(model, name), torch.randn(2, 7, 24)
        pooled, weights = pool.attend(x)
        # Measured: 6e-8.
        assert (pooled - pool(x)).abs().max() <= 1e-5
        assert torch.allclose(weights.squeeze(1), pool.weights(x), atol=1e-6)


def network() -> ViT:
    torch.manual_seed(0)
    config = ViTConfig(
        embed_dim=256,
        depth=0,
        num_heads=1,
        mlp_dim=1,
        patch_size=8,
        img_size=32,
        num_classes=5,
        patch_embed="resnetv2",
        stem_blocks=(1, 1),
        stem_width=32,
        cls_token=False,
        pos_embed="none",
        pool="avg",
        final_norm="none",
    )
    model = ViT(config, init="timm").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def hierarchy(name: str) -> ViT:
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "stem_blocks": (1, 1)}
    small = {**sizes, "stem_width": 16, "stem_heads": 2}
    return ViT(parse(name, num_classes=5, **small), init="timm").eval()


@pytest.mark.parametrize("kind", ["resnetv2", "swin_tiny_patch4_window7_224", "hiera_tiny_224"])
def test_a_network_without_encoder_has_the_methods_that_mean_something_there(kind: str) -> None:
    model = network() if kind == "resnetv2" else hierarchy(kind)
    x = image_for(model)
    assert default_method(model) == "grad-cam"
    for name in ("grad-cam", "integrated-gradients", "occlusion", "pca"):
        found = check_method(name, model).make(model, x, Question(target=1, steps=2))
        assert found.isfinite().all()
    for name in ("relevance", "rollout", "gradient-rollout"):
        with pytest.raises(
            ValueError,
            match=r"(none|grids)\nhint: for this model there are ",
        ):
            check_method(name, model)
    if kind == "resnetv2":
        with pytest.raises(ValueError, match=r"attention looks into blocks .* has none\nhint: "):
            check_method("attention", model)


def test_grad_cam_of_a_network_with_a_mean_is_its_class_activation_map() -> None:
    model = network()  # Zhou et al. (2016): the head's weights on the features
    x = image_for(model)
    with torch.no_grad():
        features = model.patch_embed(x)[0]
        expected = (features @ cast(Any, model.head).weight[1]).clamp(min=0) / 16
    found = grad_cam(model, x, Question(target=1)).flatten()
    # Measured: 1.5e-8.
    assert torch.allclose(found, expected, atol=1e-5)


def test_a_model_without_a_head_has_no_class_to_explain() -> None:
    torch.manual_seed(0)
    model = ViT(ViTConfig(**{**SMALL, "num_classes": 0}), init="timm").eval()
    assert default_method(model) == "rollout"
    with pytest.raises(ValueError, match="no head\nhint: for this model there are rollout, att"):
        check_method("grad-cam", model)
    with pytest.raises(ValueError, match="did you mean 'rollout'"):
        check_method("roll-out", model)
    with pytest.raises(ValueError, match="the model has no head"):
        answer(model, image_for(model), Question())


def test_nothing_stays_behind_in_the_model() -> None:
    model = make("map")
    x = image_for(model)
    before = model(x)
    for method in METHODS.values():
        method.make(model, x, Question(target=2, steps=2))
    assert torch.equal(model(x), before)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
