from typing import Any

import pytest
import torch

from tessera.models.variants import parse
from tessera.models.vit import ViT
from tessera.robustness.permutation import GRIDS, permute_cells, without_positions


@pytest.mark.parametrize("grid", GRIDS)
def test_permutation_preserves_the_pixels(grid: tuple[int, int]) -> None:
    pixels = torch.rand(2, 3, 224, 224)
    cells = grid[0] * grid[1]
    orders = torch.stack([torch.randperm(cells), torch.randperm(cells)])
    shuffled = permute_cells(pixels, orders, grid)
    assert torch.equal(shuffled.flatten(2).sort().values, pixels.flatten(2).sort().values)
    back = permute_cells(shuffled, orders.argsort(dim=1), grid)
    assert torch.equal(back, pixels)
    high, wide = 224 // grid[0], 224 // grid[1]
    first = int(orders[1, 0])
    top, left = first // grid[1] * high, first % grid[1] * wide
    assert torch.equal(
        shuffled[1, :, :high, :wide], pixels[1, :, top : top + high, left : left + wide]
    )


def test_cells_of_different_shapes_cannot_change_places() -> None:
    with pytest.raises(ValueError, match="do not fall into 14x14"):
        permute_cells(torch.rand(1, 3, 32, 32), torch.arange(196)[None], (14, 14))


@pytest.mark.parametrize("scheme", ["learned", "sincos2d", "rope2d", "shaw", "bias2d"])
@pytest.mark.parametrize("place", [None, "every"])
def test_without_positions_the_order_of_patches_does_not_matter(
    scheme: str, place: str | None
) -> None:
    torch.manual_seed(0)
    # Two blocks: a bias alone tells nothing of places to the class token of the first.
    arch: dict[str, Any] = {"depth": 2, "pos_embed": scheme, "pos_place": place}
    config = parse("vit_mu_patch4", img_size=16, num_classes=3, **arch)
    model = ViT(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    bare = without_positions(model).eval()
    images = torch.rand(2, 3, 16, 16)
    order = torch.randperm(16).expand(2, -1)
    shuffled = permute_cells(images, order, (4, 4))
    with torch.no_grad():
        # Sums in another order. Measured: 7.2e-7 at most.
        assert torch.allclose(bare(images), bare(shuffled), atol=1e-5)
        # Measured: 0.024 at least.
        assert not torch.allclose(model(images), model(shuffled), atol=1e-3)


def test_a_model_without_positions_has_none_to_leave_out() -> None:
    config = parse("vit_mu_patch4", img_size=16, num_classes=3, pos_embed="none")
    with pytest.raises(ValueError, match="no position embeddings"):
        without_positions(ViT(config))
