"""A measurement is every image once, prepared as for prediction, and the model left as it was."""

import numpy as np
import pytest
import sklearn.metrics
import torch
from torch.nn import functional as F

from tessera.data.dataset import Dataset
from tessera.data.images import ImageError
from tessera.data.preprocessing import Preprocessing
from tessera.data.stored import ImageArrays
from tessera.evaluation.classify import Result
from tessera.evaluation.measure import measure
from tessera.models.vit import ViT, create_model

CPU = torch.device("cpu")
PREPARE = Preprocessing(size=(32, 32))
NAMES = ("ant", "bee", "cat")


@pytest.fixture
def model() -> ViT:
    torch.manual_seed(0)
    model = create_model("vit_mu_patch16", num_classes=3, img_size=32, drop_rate=0.5)
    assert isinstance(model.head, torch.nn.Linear)
    torch.nn.init.normal_(model.head.weight)  # zero at first, and then all logits are equal
    return model


@pytest.fixture
def data() -> Dataset:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (11, 20, 24, 3), dtype=np.uint8)
    return Dataset(ImageArrays(pixels, "toy/"), np.arange(11), rng.integers(0, 3, 11), NAMES)


def run(model: ViT, data: Dataset, batch_size: int = 256) -> Result:
    result = measure(model, data, PREPARE, split="val", device=CPU, batch_size=batch_size)
    assert isinstance(result, Result)
    return result


def make_result(logits: np.ndarray, labels: np.ndarray) -> Result:
    names = tuple(f"class {k}" for k in range(logits.shape[1]))
    return Result(
        split="test",
        class_names=names,
        logits=logits,
        labels=labels,
        seconds=1.0,
        rows=np.arange(len(labels)),
    )


def test_the_logits_are_those_of_a_direct_forward_pass(model: ViT, data: Dataset) -> None:
    result = run(model, data)
    with torch.inference_mode():
        direct = model.eval()(torch.stack([PREPARE(data.read(i)) for i in range(11)]))
    np.testing.assert_array_equal(result.logits, direct.numpy())
    assert result.logits.dtype == np.float32
    assert result.class_names == NAMES
    assert result.split == "val"
    assert result.seconds > 0


@pytest.mark.parametrize("batch_size", [1, 3, 4, 11, 64])
def test_every_image_counts_once_whatever_the_batch(
    model: ViT, data: Dataset, batch_size: int
) -> None:
    done: list[int] = []
    result = measure(
        model,
        data,
        PREPARE,
        split="val",
        device=CPU,
        batch_size=batch_size,
        on_batch=done.append,
    )
    np.testing.assert_array_equal(result.labels, data.labels)
    assert sum(done) == len(result.logits) == 11
    assert max(done) <= batch_size
    # Other batches add up in another order: 4e-6 measured, on logits of up to 11.
    np.testing.assert_allclose(result.logits, run(model, data).logits, rtol=0, atol=4e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_model_goes_on_in_the_mode_it_was_in(model: ViT, data: Dataset, training: bool) -> None:
    model.train(training)
    run(model, data)
    assert model.training is training
    assert model.blocks.training is training


def test_the_model_goes_on_in_its_mode_after_a_bad_image(
    model: ViT, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Dataset, index: int) -> None:
        raise ImageError("no such image: a.png")

    monkeypatch.setattr(Dataset, "open", refuse)
    model.train()
    with pytest.raises(ImageError, match=r"a\.png"):
        run(model, data)
    assert model.training


def test_measuring_twice_gives_the_same_and_leaves_no_gradients(model: ViT, data: Dataset) -> None:
    first, second = run(model, data), run(model, data)
    np.testing.assert_array_equal(first.logits, second.logits)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_a_split_without_images_cannot_be_measured(model: ViT, data: Dataset) -> None:
    with pytest.raises(ValueError, match="no images"):
        run(model, data.subset(np.arange(0)))


def test_numbers_follow_from_the_logits() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 8, 100)
    logits = rng.normal(size=(100, 8)).astype(np.float32)
    logits[np.arange(100), labels] += 1
    result = make_result(logits, labels)
    predicted = logits.argmax(axis=1)
    np.testing.assert_array_equal(result.predicted, predicted)
    assert result.accuracy.value == sklearn.metrics.accuracy_score(labels, predicted)
    assert result.top5 is not None
    assert result.top5.value == sklearn.metrics.top_k_accuracy_score(
        labels, logits, k=5, labels=range(8)
    )
    theirs = sklearn.metrics.f1_score(labels, predicted, average="macro")
    assert result.macro_f1.value == pytest.approx(
        theirs, rel=1e-12
    )  # another order: 1e-16 measured
    assert result.confusion.sum() == 100
    assert np.trace(result.confusion) / 100 == result.accuracy.value
    assert [c.support for c in result.classes] == np.bincount(labels, minlength=8).tolist()
    softmax = torch.from_numpy(logits).softmax(dim=1).numpy()
    # float32 has 7 digits: 9e-8 measured.
    np.testing.assert_allclose(result.probabilities, softmax, rtol=0, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_the_loss_is_the_cross_entropy_however_sure_and_wrong_the_model_is(scale: float) -> None:
    rng = np.random.default_rng(2)
    logits = (scale * rng.normal(size=(50, 4))).astype(np.float32)
    labels = rng.integers(0, 4, 50)
    theirs = F.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels))
    # float32 against float64: 3e-8 measured at scale 1.
    assert make_result(logits, labels).loss == pytest.approx(float(theirs), rel=1e-5)


def test_logits_of_any_size_have_probabilities() -> None:
    result = make_result(np.array([[1e4, -1e4], [-1e4, -1e4]]), np.array([0, 1]))
    assert result.probabilities.tolist() == [[1.0, 0.0], [0.5, 0.5]]


def test_top_5_of_five_classes_says_nothing_and_is_left_out() -> None:
    labels = np.array([0, 1])
    assert make_result(np.eye(5)[:2], labels).top5 is None
    assert make_result(np.eye(6)[:2], labels).top5 is not None
