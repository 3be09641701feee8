"""A task whose answer stands in one patch: do the maps find it?"""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tessera.config import ViTConfig
from tessera.explain.faithfulness import patch_order, random_orders
from tessera.explain.gradients import grad_cam
from tessera.explain.question import Question
from tessera.explain.rollout import gradient_rollout, relevance, rollout
from tessera.models.vit import ViT

SIDE, PATCH = 24, 4


def planted(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Noise, with one patch of one of four patterns somewhere: images, classes, places."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.5 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    grid = SIDE // PATCH
    labels = torch.randint(0, 4, (count,), generator=generator)
    places = torch.randint(0, grid * grid, (count,), generator=generator)
    ramp = torch.arange(PATCH)
    stripes = (ramp[:, None] % 2 * 2 - 1).float().expand(PATCH, PATCH)
    checks = ((ramp[:, None] + ramp) % 2 * 2 - 1).float()
    patterns = [stripes, stripes.T, checks, (ramp[:, None] // 2 * 2 - 1).float().expand(4, 4)]
    for image, label, place in zip(x, labels.tolist(), places.tolist(), strict=True):
        row, column = divmod(place, grid)
        top, left = row * PATCH, column * PATCH
        image[:, top : top + PATCH, left : left + PATCH] = 2 * patterns[label]
    return x, labels, places


def trained(steps: int, depth: int) -> ViT:
    torch.manual_seed(0)
    config = ViTConfig(
        embed_dim=32,
        depth=depth,
        num_heads=2,
        mlp_dim=64,
        patch_size=PATCH,
        img_size=SIDE,
        num_classes=4,
    )
    model = ViT(config, init="timm")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.05)
    for step in range(steps):
        x, labels, _ = planted(64, seed=1000 + step)
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 20) * (1 - step / steps)
        optimizer.zero_grad()
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("depth", [1, 2])
def test_rollout_grad_cam_and_relevance_point_at_the_planted_patch(depth: int) -> None:
    """Grad-CAM sees one block: of two, the first may have told the class token everything."""
    model = trained(300, depth)
    x, labels, places = planted(200, seed=7)
    with torch.no_grad():
        assert (model(x).argmax(dim=1) == labels).float().mean() > 0.97
    grid = (SIDE // PATCH, SIDE // PATCH)
    hits = dict.fromkeys(("rollout", "gradient-rollout", "relevance", "grad-cam", "random"), 0)
    for i, place in enumerate(places.tolist()):
        one, question = x[i : i + 1], Question(target=int(labels[i]))
        for name, make in (
            ("rollout", rollout),
            ("gradient-rollout", gradient_rollout),
            ("relevance", relevance),
            ("grad-cam", grad_cam),
        ):
            hits[name] += int(patch_order(make(model, one, question), grid)[0]) == place
        hits["random"] += int(random_orders(36, i, maps=1)[0][0]) == place
    for name in ("rollout", "relevance", "grad-cam") if depth == 1 else ("rollout", "relevance"):
        assert hits[name] >= 190, hits
    assert hits["random"] <= 20, hits
