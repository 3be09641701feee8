"""FGSM and PGD: closed forms, ART, budgets, and one image at a time."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from quadrants import quadrants, trained_model
from torch import Tensor, nn
from torch.nn import functional as F

from tessera.config import ViTConfig
from tessera.models.vit import ViT
from tessera.robustness.attacks import ascend, fgsm, pgd
from tessera.robustness.normalised import Normalised

EPS = 8 / 255


@pytest.fixture
def trained() -> nn.Module:
    return trained_model()


def generators(count: int, seed: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed + i) for i in range(count)]


class Linear(nn.Module):
    """Two classes by the sign of w x: the best attack moves every pixel by eps against it."""

    def __init__(self) -> None:
        super().__init__()
        self.w = torch.randn(48, generator=torch.Generator().manual_seed(0))

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.w
        return torch.stack([-score, score], dim=1)


@pytest.mark.parametrize("label", [0, 1])
def test_fgsm_and_pgd_find_the_optimum_of_a_linear_model(label: int) -> None:
    model, pixels = Linear(), torch.rand(6, 3, 4, 4) * 0.8 + 0.1  # no clip within eps
    labels = torch.full((6,), label)
    against = model.w.view(1, 3, 4, 4).sign() * (1 if label == 0 else -1)
    best = pixels + EPS * against
    assert torch.allclose(fgsm(model, pixels, labels, eps=EPS), best, atol=1e-6)
    found = pgd(model, pixels, labels, generators(6), eps=EPS, steps=20, restarts=2)
    assert torch.allclose(found, best, atol=1e-6)
    # The margin falls by 2 eps |w|_1, no attack within eps does better.
    fall = (model(pixels) - model(found))[torch.arange(6), labels]
    assert torch.allclose(fall, EPS * model.w.abs().sum().expand(6), rtol=1e-4)


def test_targeted_goes_towards_the_target() -> None:
    model, pixels = Linear(), torch.rand(4, 3, 4, 4) * 0.8 + 0.1
    target = torch.zeros(4, dtype=torch.long)
    away = fgsm(model, pixels, 1 - target, eps=EPS)
    assert torch.allclose(fgsm(model, pixels, target, eps=EPS, targeted=True), away)


def test_every_attack_stays_within_eps_and_the_pixel_range(trained: nn.Module) -> None:
    pixels, labels = quadrants(16, seed=5)
    pixels[:, :, ::2] = (pixels[:, :, ::2] * 3).round().clamp(0, 1)  # many at the ends
    for changed in (
        fgsm(trained, pixels, labels, eps=EPS),
        pgd(trained, pixels, labels, generators(16), eps=EPS),
        pgd(trained, pixels, labels, None, eps=EPS, targeted=True),
    ):
        assert float((changed - pixels).abs().max()) <= EPS + 1e-6
        assert float(changed.min()) >= 0
        assert float(changed.max()) <= 1


def test_attacks_raise_the_loss_and_more_steps_more(trained: nn.Module) -> None:
    pixels, labels = quadrants(64, seed=6)

    def loss(x: Tensor) -> float:
        with torch.no_grad():
            return float(F.cross_entropy(trained(x), labels))

    noise = (pixels + EPS * torch.randn(pixels.shape).sign()).clamp(0, 1)
    clean, noisy = loss(pixels), loss(noise)
    once, often = (
        fgsm(trained, pixels, labels, eps=EPS),
        pgd(trained, pixels, labels, generators(64), eps=EPS),
    )
    assert clean < loss(once)
    assert noisy < loss(once)
    assert loss(once) < loss(often)
    with torch.no_grad():
        wrong = [(trained(x).argmax(1) != labels).float().mean() for x in (pixels, often)]
    assert wrong[0] < 0.05
    assert wrong[1] > 0.5


def test_an_image_is_attacked_alike_whatever_is_beside_it(trained: nn.Module) -> None:
    pixels, labels = quadrants(12, seed=7)
    whole = pgd(trained, pixels, labels, generators(12), eps=EPS, steps=5, restarts=3)
    parts = [
        pgd(trained, pixels[i : i + 5], labels[i : i + 5], generators(12)[i : i + 5], eps=EPS,
            steps=5, restarts=3)
        for i in (0, 5, 10)
    ]  # fmt: skip
    # The sign of a gradient that rounds to 0 may differ; measured: none of 9,216 pixels does.
    same = (torch.cat(parts) - whole).abs() < 1e-6
    assert same.float().mean() > 0.999


def test_restarts_keep_the_worst_for_each_image(trained: nn.Module) -> None:
    pixels, labels = quadrants(32, seed=8)

    def right(restarts: int) -> Tensor:
        found = pgd(
            trained, pixels, labels, generators(32), eps=2 / 255, steps=2, restarts=restarts
        )
        with torch.no_grad():
            return trained(found).argmax(1) == labels

    assert not (right(4) & ~right(1)).any()  # what one start misleads, four do


def test_only_pixels_inside_change(trained: nn.Module) -> None:
    pixels, labels = quadrants(4, seed=9)
    inside = torch.zeros(4, 1, 16, 16, dtype=torch.bool)
    inside[..., :5, :5] = True
    changed = ascend(
        trained, pixels, labels, start=pixels, eps=1.0, step=0.25, steps=3, inside=inside
    )
    moved = (changed != pixels).any(dim=1, keepdim=True)
    assert not (moved & ~inside).any()
    assert moved.any()


@pytest.mark.parametrize("eps", [0.0, -1 / 255, float("nan")])
def test_eps_must_be_positive(eps: float) -> None:
    pixels, labels = torch.rand(1, 3, 4, 4), torch.zeros(1, dtype=torch.long)
    for attack in (lambda: fgsm(Linear(), pixels, labels, eps=eps),
                   lambda: pgd(Linear(), pixels, labels, None, eps=eps)):  # fmt: skip
        with pytest.raises(ValueError, match=r"eps=.* must be positive\nhint"):
            attack()


def test_eps_means_pixels_whatever_the_normalisation() -> None:
    linear = Linear()
    pixels = torch.rand(2, 3, 4, 4) * 0.8 + 0.1
    labels = torch.zeros(2, dtype=torch.long)
    for mean, std in (((0.5,) * 3, (0.5,) * 3), ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))):
        net = Normalised(linear, mean, std)
        changed = fgsm(net, pixels, labels, eps=4 / 255)
        # Measured: 2e-9.
        assert torch.allclose((changed - pixels).abs(), torch.tensor(4 / 255), atol=1e-6)


GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "art.npz")
FACTS = json.loads(str(GOLDEN["facts"]))


@pytest.fixture(scope="module")
def attacked() -> nn.Module:
    """The model that the Adversarial Robustness Toolbox attacked; see golden/make_art.py."""
    model = ViT(ViTConfig(**FACTS["config"])).eval()
    weights = {name.removeprefix("model."): GOLDEN[name] for name in GOLDEN if "model." in name}
    model.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return model


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("attack", ["fgsm", "pgd1", "pgd7"])
def test_without_a_random_start_attacks_equal_arts(
    attacked: nn.Module, attack: str, targeted: bool
) -> None:
    pixels = torch.from_numpy(GOLDEN["images"]).float() / 255
    labels = torch.from_numpy(GOLDEN["target" if targeted else "true"])
    theirs = torch.from_numpy(GOLDEN[f"{attack}.{'towards' if targeted else 'away'}"])
    (steps, step), eps = FACTS["attacks"][attack], FACTS["eps"]
    if attack == "fgsm":
        ours = fgsm(attacked, pixels, labels, eps=eps, targeted=targeted)
    else:
        ours = pgd(
            attacked, pixels, labels, None, eps=eps, step=step, steps=steps, targeted=targeted
        )
    # Measured: 4e-9.
    assert (ours - theirs).abs().max() < 1e-6
    assert (theirs - pixels).abs().max() > 0.9 * min(eps, steps * step)
    with torch.no_grad():
        hit = attacked(ours).argmax(dim=1) == labels
    assert hit.any() if targeted else not hit.all()  # it is no attack in vain
