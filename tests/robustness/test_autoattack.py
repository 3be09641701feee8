import pytest
import torch
from quadrants import quadrants, trained_model
from torch import nn

from tessera.errors import RunError
from tessera.robustness.attacks import pgd
from tessera.robustness.autoattack import attacks_for, autoattack, require_autoattack


@pytest.fixture
def trained() -> nn.Module:
    return trained_model()


def test_few_classes_have_no_targeted_loss() -> None:
    assert attacks_for(1000) == attacks_for(4) == ("apgd-ce", "apgd-t", "fab-t", "square")
    assert attacks_for(2) == ("apgd-ce", "fab", "square")


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyautoattack", None)
    with pytest.raises(RunError, match="hint: pip install pyautoattack"):
        require_autoattack()


@pytest.mark.slow
def test_autoattack_is_within_eps_and_no_weaker_than_pgd(trained: nn.Module) -> None:
    pytest.importorskip("pyautoattack")
    pixels, labels = quadrants(6, seed=3)
    found = autoattack(trained, pixels, labels, eps=4 / 255, classes=4, seed=0)
    assert float((found - pixels).abs().max()) <= 4 / 255 + 1e-6
    starts = [torch.Generator().manual_seed(i) for i in range(6)]
    weaker = pgd(trained, pixels, labels, starts, eps=4 / 255)
    with torch.no_grad():
        right = [(trained(x).argmax(1) == labels) for x in (found, weaker)]
    assert right[0].sum() <= right[1].sum()
