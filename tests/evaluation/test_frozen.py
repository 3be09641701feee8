"""Features are what the last dense layer sees, in the order of the data."""

import numpy as np
import pytest
import torch

from tessera.data.dataset import Dataset
from tessera.data.images import ImageError
from tessera.data.preprocessing import HALF, Preprocessing
from tessera.data.stored import ImageArrays
from tessera.evaluation.frozen import frozen_features, published_preprocessing, represent
from tessera.evaluation.tuned_probe import tuned_probe
from tessera.models.vit import create_model


def images(count: int) -> Dataset:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return Dataset(ImageArrays(pixels, "toy/"), np.arange(count)[::-1], np.arange(count), ())


@pytest.mark.parametrize("representation", [None, 24])
def test_the_head_makes_logits_of_them(representation: int | None) -> None:
    torch.manual_seed(0)
    model = create_model(
        "vit_mu_patch4", img_size=8, num_classes=5, representation_dim=representation
    ).eval()
    assert isinstance(model.head, torch.nn.Linear)
    torch.nn.init.normal_(model.head.weight)
    batch = torch.randn(3, 3, 8, 8)
    found = represent(model, batch)
    assert found.shape == (3, representation or 32)
    torch.testing.assert_close(model.head(found), model(batch))


def test_they_come_in_the_order_of_the_data_whatever_the_batch() -> None:
    torch.manual_seed(0)
    model = create_model("vit_mu_patch4", img_size=8, num_classes=0)
    prepared = Preprocessing(size=(8, 8), mean=HALF, std=HALF)
    counted: list[int] = []
    data, cpu = images(10), torch.device("cpu")
    found = frozen_features(
        model, data, prepared, device=cpu, batch_size=3, on_batch=counted.append
    )
    assert counted == [3, 3, 3, 1]
    assert found.labels.tolist() == found.rows.tolist() == list(range(10))
    for i in (0, 7):
        alone = represent(model, prepared(data.read(i))[None]).detach().numpy()[0]
        np.testing.assert_allclose(found.values[i], alone, atol=1e-5)  # measured: 6e-7


def test_unreadable_images_are_named_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = ImageArrays.open

    def open_(self: ImageArrays, index: int) -> object:
        if index == 4:
            raise ImageError("toy/4 is broken")
        return opened(self, index)

    monkeypatch.setattr(ImageArrays, "open", open_)
    model = create_model("vit_mu_patch4", img_size=8, num_classes=0)
    prepared, cpu = Preprocessing(size=(8, 8), mean=HALF, std=HALF), torch.device("cpu")
    found = frozen_features(model, images(10), prepared, device=cpu, bad_share=0.2)
    assert found.unreadable == ("toy/4 is broken",)
    assert found.rows.tolist() == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    with pytest.raises(ImageError, match="cannot be read"):
        frozen_features(model, images(10), prepared, device=cpu)


def test_the_published_preprocessing_is_256_to_224() -> None:
    prepared = published_preprocessing(3)
    assert prepared.resized_size == (256, 256)
    assert (prepared.size, prepared.mean, prepared.std) == ((224, 224), HALF, HALF)
    assert published_preprocessing(1).mean == (0.5,)


def test_the_linear_probe_learns_from_all_images_and_chooses_on_some() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 300)
    values = (np.eye(3, 8)[labels] * 3 + rng.normal(size=(300, 8))).astype(np.float32)
    rest, tuning = (values[:120], labels[:120]), (values[120:160], labels[120:160])
    found = tuned_probe(rest, tuning, values[160:], 3)
    assert (found.predicted == labels[160:]).mean() > 0.9  # measured: 0.97
    # A class that is nowhere but among the tuning images is learnt as well.
    only = labels[:120] != 2
    found = tuned_probe((values[:120][only], labels[:120][only]), tuning, values[160:], 3)
    assert 2 in found.predicted
