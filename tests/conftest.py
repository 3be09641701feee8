import os
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).parents[2] / "shared"


def pytest_configure() -> None:
    """Let parallel workers share the cores instead of fighting for them."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


@pytest.fixture
def shared() -> Path:
    """Real images and weights, where they lie beside the checkout."""
    if not SHARED.is_dir():
        pytest.skip(f"needs real data and weights at {SHARED}")
    return SHARED
