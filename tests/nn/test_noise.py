"""Random numbers that depend on the image alone, and are random all the same."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tessera.models.variants import parse
from tessera.models.vit import ViT
from tessera.nn.noise import Dropout, Noisy, hashed, key_noise

KEY = torch.tensor([12345, -678], dtype=torch.int32)


def rows(count: int, start: int = 0) -> torch.Tensor:
    return torch.arange(start, start + count, dtype=torch.int32)


def test_hashed_numbers_are_uniform() -> None:
    numbers = hashed(KEY, rows(300), 400).flatten().numpy()
    assert numbers.min() >= 0
    assert numbers.max() < 1
    # Kolmogorov and Smirnov on 120,000 numbers; seeded, p was 0.69 when this was written.
    assert stats.kstest(numbers, "uniform").pvalue > 0.01


def test_neither_rows_nor_columns_nor_keys_are_correlated() -> None:
    numbers = hashed(KEY, rows(200), 5000).numpy()
    other = hashed(KEY + 1, rows(200), 5000).numpy()
    between = np.corrcoef(numbers)[np.triu_indices(200, 1)]
    # The standard error of a correlation of 5,000 pairs is 0.014; the largest of 19,900 is 4 of it.
    assert abs(between).max() < 0.07
    assert abs(np.corrcoef(numbers[:, :-1].ravel(), numbers[:, 1:].ravel())[0, 1]) < 0.005
    assert abs(np.corrcoef(numbers.ravel(), other.ravel())[0, 1]) < 0.005


@given(st.integers(1, 11), st.integers(0, 2**62))
@settings(max_examples=20, deadline=None)
def test_a_cut_batch_gets_the_numbers_of_the_whole_one(cut: int, seed: int) -> None:
    x = torch.ones(12, 3, 5)
    dropout = Dropout(0.5).train()
    key_noise(dropout, seed, torch.arange(12))
    whole = dropout(x)
    key_noise(dropout, seed, torch.arange(cut))
    first = dropout(x[:cut])
    key_noise(dropout, seed, torch.arange(cut, 12))
    assert torch.equal(whole, torch.cat([first, dropout(x[cut:])]))


def test_without_a_key_the_generator_of_torch_decides() -> None:
    dropout, x = Dropout(0.5).train(), torch.ones(4, 100)
    torch.manual_seed(0)
    one, two = dropout(x), dropout(x)
    torch.manual_seed(0)
    assert torch.equal(dropout(x), one)
    assert not torch.equal(one, two)


def test_every_module_of_a_model_draws_for_itself() -> None:
    config = parse("vit_mu_patch16", img_size=32, depth=2, drop_rate=0.5, drop_path_rate=0.5)
    model = ViT(config)
    key_noise(model, 0, torch.arange(4))
    keys = [tuple(m.key.tolist()) for m in model.modules() if isinstance(m, Noisy)]
    assert len(set(keys)) == len(keys) > 8
    assert not [name for name in model.state_dict() if "key" in name or "rows" in name]


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_expectation(rate: float) -> None:
    dropout = Dropout(rate).train()
    key_noise(dropout, 3, torch.arange(100))
    out = dropout(torch.ones(100, 1000))
    assert out.unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)])
    # 100,000 draws: the standard error of the mean is sqrt(rate / (1 - rate) / 1e5) <= 0.0095.
    assert abs(out.mean().item() - 1) < 0.04
