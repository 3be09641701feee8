import os
from pathlib import Path

import hypothesis
import pytest
import torch

# Machines are noisy, and a slow moment is no failure; the timeout of a test still holds.
hypothesis.settings.register_profile("tessera", deadline=None)
hypothesis.settings.load_profile("tessera")

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
