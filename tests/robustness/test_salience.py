import pytest
import torch

from tessera.models.variants import parse
from tessera.models.vit import ViT
from tessera.robustness.salience import salience, salience_source


def model(**arch: object) -> ViT:
    torch.manual_seed(0)
    return ViT(parse("vit_mu_patch4", img_size=16, num_classes=3, **arch)).eval()


def test_salience_is_what_the_class_token_attends_to_in_the_last_block() -> None:
    vit = model(num_registers=2)
    images = torch.rand(2, 3, 16, 8)
    (weights,) = vit.attention_weights(images, [vit.config.depth - 1])
    mass, grid = salience(vit, images, head=1)
    assert grid == (4, 2)
    assert torch.equal(mass, weights[:, 1, 0, 3:])  # after the class token and two registers
    mean, _ = salience(vit, images)
    assert torch.allclose(mean, weights[:, :, 0, 3:].mean(dim=1))


@pytest.mark.parametrize("pool", ["map", "seq"])
def test_a_pooling_with_weights_stands_in_for_the_class_token(pool: str) -> None:
    vit = model(cls_token=False, pool=pool)
    assert "pooling" in str(salience_source(vit.config))
    mass, _ = salience(vit, torch.rand(2, 3, 16, 16))
    # A mean over heads of rows that sum to 1; measured to 1e-7.
    # Measured: 1.2e-7.
    assert torch.allclose(mass.sum(dim=1), torch.ones(2), atol=1e-5)


def test_a_mean_over_patches_tells_nothing() -> None:
    vit = model(pool="avg")  # its class token is there, but nothing is read from it
    assert salience_source(vit.config) is None
    with pytest.raises(ValueError, match="no salience"):
        salience(vit, torch.rand(1, 3, 16, 16))


def test_a_head_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="hint: 0 to 1"):
        salience(model(), torch.rand(1, 3, 16, 16), head=2)
