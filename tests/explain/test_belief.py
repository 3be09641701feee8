"""Scores that say how far to believe a map, and what a map cannot hide."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

from tessera.config import ViTConfig
from tessera.explain.faithfulness import blur, faithfulness, patch_order, random_orders, verdict
from tessera.explain.question import Question
from tessera.explain.rollout import relevance, rollout
from tessera.explain.sanity import cascade, check_weights, rank_correlation, ssim
from tessera.models.vit import ViT

SMALL: dict[str, Any] = {
    "embed_dim": 32,
    "depth": 3,
    "num_heads": 2,
    "mlp_dim": 64,
    "patch_size": 4,
    "img_size": 32,
    "num_classes": 3,
}


def model_of(**changes: Any) -> ViT:
    torch.manual_seed(0)
    model = ViT(ViTConfig(**{**SMALL, **changes}), init="timm").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model


def natural(seed: int) -> Tensor:
    """An image with edges: bright boxes on dark."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.full((1, 3, 32, 32), -1.0)
    for _ in range(4):
        top, left = torch.randint(0, 24, (2,), generator=generator).tolist()
        x[:, :, top : top + 9, left : left + 7] = torch.rand(1, 3, 1, 1, generator=generator)
    return x


def test_deletion_and_insertion_by_loops() -> None:
    model, x, question = model_of(), natural(0), Question(target=1)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    found = faithfulness(model, x, order, question, steps=8)
    deleted, inserted = x.clone(), blur(x)
    curves: list[list[float]] = [[], []]
    for step in range(9):
        for patch in order.tolist()[8 * (step - 1) : 8 * step] if step else []:
            row, column = divmod(patch, 8)
            box = (..., slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4))
            deleted[box] = 0
            inserted[box] = x[box]
        for curve, image in zip(curves, (deleted, inserted), strict=True):
            with torch.no_grad():
                curve.append(float(model(image).softmax(-1)[0, 1]))
    # Measured: 4e-8.
    assert np.abs(np.array(found.deletion_curve) - curves[0]).max() <= 1e-6
    assert np.abs(np.array(found.insertion_curve) - curves[1]).max() <= 1e-6
    for area, curve in ((found.deletion, curves[0]), (found.insertion, curves[1])):
        by_hand = sum((a + b) / 2 / 8 for a, b in pairwise(curve))
        assert area == pytest.approx(by_hand, abs=1e-6)


def test_the_order_of_patches_and_the_words() -> None:
    values = torch.tensor([[0.1, 0.9], [0.5, -1.0]])
    assert patch_order(values, (2, 2)).tolist() == [1, 2, 0, 3]
    pixels = values.repeat_interleave(4, 0).repeat_interleave(4, 1)
    assert patch_order(pixels, (2, 2)).tolist() == [1, 2, 0, 3]
    assert [o.tolist() for o in random_orders(9, 1)] == [o.tolist() for o in random_orders(9, 1)]
    model, x, question = model_of(), natural(0), Question(target=1)
    random = [faithfulness(model, x, o, question, steps=4) for o in random_orders(64, 0)]
    best = random[0]._replace(deletion=-1.0, insertion=2.0)
    assert verdict(best, random).startswith("better than all 5 random maps, by deletion and")
    assert verdict(best._replace(deletion=2.0), random).endswith("by insertion, not by deletion")
    assert verdict(random[0]._replace(deletion=2.0), random).startswith("no better")


def test_blurring_keeps_the_mean_colour_and_takes_the_edges() -> None:
    x = natural(1)
    # Measured: 0.
    assert torch.allclose(blur(torch.full_like(x, 0.3)), torch.full_like(x, 0.3), atol=1e-6)
    assert blur(x).diff(dim=-1).abs().max() < 0.4 * x.diff(dim=-1).abs().max()


def test_similarities_of_maps() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 9, 11, generator=generator)
    assert rank_correlation(a, b) == pytest.approx(spearmanr(a.flatten(), b.flatten()).statistic)
    assert rank_correlation(a, a**3) == pytest.approx(1)
    assert rank_correlation(a, torch.ones(9, 11)) == 0
    assert ssim(a, 2 * a + 1) == pytest.approx(1)
    assert abs(ssim(a, b)) < 0.3
    x, y = ((m - m.min()) / (m.max() - m.min()) for m in (a, b))
    values = []
    for i in range(3):
        for j in range(5):
            p, q = x[i : i + 7, j : j + 7].double(), y[i : i + 7, j : j + 7].double()
            both = ((p - p.mean()) * (q - q.mean())).mean()
            top = (2 * p.mean() * q.mean() + 1e-4) * (2 * both + 9e-4)
            spread = p.var(correction=0) + q.var(correction=0) + 9e-4
            values.append(float(top / ((p.mean() ** 2 + q.mean() ** 2 + 1e-4) * spread)))
    assert ssim(a, b) == pytest.approx(np.mean(values), abs=1e-6)
    colours = torch.stack([a, b, a], dim=-1)
    assert rank_correlation(colours, -colours) == pytest.approx(1)  # signs mean nothing


def edges(model: ViT, image: Tensor) -> Tensor:
    """An "explanation" that looks at the image alone: how much its pixels change."""
    grey = image.mean(dim=1)
    change = F.pad(grey.diff(dim=1).abs(), (0, 0, 0, 1)) + F.pad(grey.diff(dim=2).abs(), (0, 1))
    return F.avg_pool2d(change[None], 4)[0, 0]


def test_an_edge_detector_is_flagged_and_maps_of_the_model_are_not() -> None:
    model, images = model_of(), [natural(seed) for seed in range(3)]
    question = Question(target=1)
    flagged = {}
    for name, make in (
        ("edges", edges),
        ("relevance", lambda m, x: relevance(m, x, question)),
        ("rollout", lambda m, x: rollout(m, x, question)),
    ):
        own = [make(model, x) for x in images]
        found = check_weights(make, model, images, own)
        flagged[name] = found.survives
        assert found.as_dict()["survives_random_weights"] is found.survives
        assert len(found.rank_correlation) == len(found.ssim) == len(found.stages) == 4
    assert flagged == {"edges": True, "relevance": False, "rollout": False}
    found = check_weights(edges, model, images, [edges(model, x) for x in images])
    assert found.rank_correlation == pytest.approx([1.0] * 4)
    assert "it explains nothing that this model has learnt" in found.words


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cls_token": False, "pool": "map", "num_registers": 2},
        {
            "depth": 0,
            "patch_embed": "resnetv2",
            "stem_blocks": (1, 1),
            "stem_width": 32,
            "embed_dim": 256,
            "patch_size": 8,
            "cls_token": False,
            "pos_embed": "none",
            "pool": "avg",
            "final_norm": "none",
        },
    ],
)
def test_the_cascade_reaches_every_parameter_once_and_leaves_the_model_alone(
    changes: dict[str, Any],
) -> None:
    model = model_of(**changes)
    stages = cascade(model)
    names = [name for stage in stages.values() for name in stage]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert all(stages.values())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    seen: list[ViT] = []

    def make(broken: ViT, image: Tensor) -> Tensor:
        seen.append(broken)
        return torch.zeros(2, 2)

    check_weights(make, model, [natural(0)], [torch.zeros(2, 2)])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
        shuffled = seen[-1].state_dict()[name]
        assert torch.equal(shuffled.flatten().sort()[0], value.flatten().sort()[0])
    weight = dict(model.named_parameters())["head.weight"]
    assert not torch.equal(weight, dict(seen[-1].named_parameters())["head.weight"])


def test_signs_that_weights_turn_do_not_hide_a_map_of_the_image() -> None:
    model = ViT(ViTConfig(**SMALL), init="timm").eval()

    def make(model: ViT, image: Tensor) -> Tensor:
        weights = model.state_dict()["patch_embed.proj.weight"].flatten()
        seed = int(1e6 * (weights * torch.arange(len(weights))).sum().abs())
        noise = torch.Generator().manual_seed(seed)
        found = image[0].abs().sum(dim=0)  # the image's, but for the signs, which are the weights'
        return found * (2 * torch.rand(found.shape, generator=noise).round() - 1)

    torch.manual_seed(0)
    x = torch.randn(1, 3, *model.config.image_shape)
    own = [make(model, x)]
    assert not check_weights(make, model, [x], own).survives
    assert check_weights(make, model, [x], own, signed=True).survives
