"""The numbers of Figure 7 against slow obvious versions."""

import math
from typing import Any, cast

import numpy as np
import torch
from sklearn.decomposition import PCA

from tessera.config import ViTConfig
from tessera.explain.distance import attention_distance, distances
from tessera.explain.filters import principal_filters
from tessera.explain.norms import token_norms
from tessera.explain.pca import token_pca
from tessera.explain.positions import position_similarity
from tessera.explain.question import Question
from tessera.models.vit import ViT


def small(**changes: object) -> ViT:
    torch.manual_seed(0)
    sizes: dict[str, object] = {
        "embed_dim": 48,
        "depth": 2,
        "num_heads": 2,
        "mlp_dim": 32,
        "patch_size": 4,
        "img_size": (12, 16),
        "num_classes": 3,
    }
    return ViT(ViTConfig(**{**sizes, **changes}), init="timm").eval()  # type: ignore[arg-type]


def test_attention_distance_by_loops() -> None:
    a = torch.rand(1, 2, 12, 12, generator=torch.Generator().manual_seed(0))
    a = a / a.sum(dim=-1, keepdim=True)
    expected = [0.0, 0.0]
    for head in range(2):
        for i in range(12):
            for j in range(12):
                far = math.dist(divmod(i, 4), divmod(j, 4)) * 16
                expected[head] += float(a[0, head, i, j]) * far / 12
    found = attention_distance(a, (3, 4), 16)[0]
    assert np.allclose(found.numpy(), expected, rtol=1e-5)
    assert attention_distance(torch.eye(12)[None, None], (3, 4), 16).item() == 0


def test_distance_leaves_out_what_is_no_patch() -> None:
    model = small(num_registers=2)
    x = torch.randn(1, 3, 12, 16)
    a = model.attention_weights(x, [1])[0][:, :, 3:, 3:]
    a = a / a.sum(dim=-1, keepdim=True)
    assert torch.allclose(distances(model, [x])[1], attention_distance(a, (3, 4), 4)[0], rtol=1e-5)
    doubled = distances(model, [x, x])
    assert torch.allclose(doubled, distances(model, [x]), rtol=1e-5)


def test_components_of_the_filters_are_those_of_scikit_learn() -> None:
    for kind in ("conv", "linear"):
        model = small(patch_embed=kind)
        found = principal_filters(model)
        weight = cast(Any, model.patch_embed).proj.weight.detach()
        if kind == "linear":
            weight = weight.reshape(48, 4, 4, 3).permute(0, 3, 1, 2)
        reference = PCA(28).fit(weight.flatten(1).double().numpy())
        cosines = (found.components.flatten(1).numpy() * reference.components_).sum(axis=1)
        # Measured: 2.3e-8.
        assert np.allclose(np.abs(cosines), 1, atol=1e-4)
        # Measured: 4e-9.
        assert np.allclose(found.shares.numpy(), reference.explained_variance_ratio_, atol=1e-6)


def test_components_of_tokens_are_those_of_scikit_learn() -> None:
    model, x = small(), torch.randn(1, 3, 12, 16)
    with torch.no_grad():
        tokens = model.forward_features(x).patches[0].double().numpy()
    found = token_pca(model, x, Question()).reshape(12, 3).numpy()
    reference = PCA(3, svd_solver="full").fit_transform(tokens)
    # Measured: 2.3e-7.
    assert np.allclose(np.abs(found), np.abs(reference), atol=1e-4)


def test_similarity_of_turns_is_what_is_left_of_the_product_of_equal_vectors() -> None:
    model = small(pos_embed="rope2d")
    found = position_similarity(model)
    rotation = model.pos_embed.rotation((3, 4), torch.device("cpu"))
    assert rotation is not None
    ones = torch.ones(1, 1, 12, 24)
    turned = rotation.turn(ones)[0, 0]
    # Measured: 1.8e-7.
    assert torch.allclose(found.values, turned @ turned.T / 24, atol=1e-5)


def test_similarity_of_a_table_by_loops() -> None:
    model = small()
    table = cast(Any, model.pos_embed).table[0, 1:].detach()
    found = position_similarity(model).values
    for i in range(12):
        for j in range(12):
            cosine = torch.nn.functional.cosine_similarity(table[i], table[j], dim=0)
            # Measured: 1.8e-7.
            assert abs(float(found[i, j] - cosine)) < 1e-5


def test_a_token_that_is_much_larger_than_the_others_is_counted() -> None:
    model, x = small(), torch.randn(1, 3, 12, 16)
    plain = token_norms(model, [x])
    with torch.no_grad():
        last = model.forward_intermediates(x, [1])[0].patches[0].norm(dim=-1)
    assert torch.allclose(plain.last, last, atol=1e-5)
    assert plain.outliers == 0
    with torch.no_grad():
        cast(Any, model.pos_embed).table[:, 5] += 500
    # Measured: 3e-9.
    assert abs(token_norms(model, [x]).outliers - 1 / 12) < 1e-6
