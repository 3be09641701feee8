"""Images in, labels out, by the same numbers as in evaluation."""

from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

import tessera.predict
from tessera.checkpoint.artifact import (
    RUN_FILE,
    ArtifactError,
    Calibration,
    Header,
    LoadedModel,
    load_artifact,
    save_artifact,
)
from tessera.data.dataset import Dataset
from tessera.data.images import ImageError
from tessera.data.preprocessing import Preprocessing
from tessera.data.stored import ImageFiles
from tessera.evaluation.measure import measure
from tessera.models.vit import create_model
from tessera.predict import Predictor, Source, load

NAMES = ("ant", "bee", "cat", "dog")


def make_model(num_classes: int = 4, names: tuple[str, ...] = NAMES) -> LoadedModel:
    torch.manual_seed(0)
    model = create_model("vit_mu_patch16", num_classes=num_classes, img_size=32, pool="avg")
    if num_classes:
        assert isinstance(model.head, torch.nn.Linear)
        torch.nn.init.normal_(model.head.weight)  # zero at first, and then all logits are equal
    prepare = Preprocessing(size=(32, 32), crop_pct=0.875)
    header = Header(config=model.config, preprocessing=prepare, class_names=names)
    return LoadedModel(model=model, header=header, path=Path("memory"))


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(make_model(), batch_size=2)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Five images of different sizes."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{k}.png" for k in range(5)]
    for k, path in enumerate(paths):
        pixels = rng.integers(0, 256, (30 + k, 50 - 3 * k, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


@pytest.fixture(scope="module")
def unchecked() -> ModuleType:
    """The module as users have it: without the shape checks of the test run, which come first."""
    spec = spec_from_file_location("unchecked_predict", tessera.predict.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_logits_are_those_of_a_direct_forward_pass(predictor: Predictor, files: list[Path]) -> None:
    prepare = predictor.header.preprocessing
    logits = predictor.logits(files)
    with torch.inference_mode():
        batches = [files[0:2], files[2:4], files[4:]]
        direct = [
            predictor.model(torch.stack([prepare(Image.open(f)) for f in batch]))
            for batch in batches
        ]
    np.testing.assert_array_equal(logits, torch.cat(direct).numpy())
    assert logits.shape == (5, 4)
    assert logits.dtype == np.float32
    assert logits.std() > 0


def test_prediction_and_evaluation_agree(predictor: Predictor, files: list[Path]) -> None:
    images = ImageFiles(files[0].parent, [path.name for path in files])
    data = Dataset(images, np.arange(5), np.zeros(5, dtype=np.int64), NAMES)
    result = measure(
        predictor.model,
        data,
        predictor.header.preprocessing,
        split="test",
        device=torch.device("cpu"),
        batch_size=2,
    )
    np.testing.assert_array_equal(predictor.logits(files), result.logits)


def test_paths_texts_images_and_arrays_agree_and_mix(
    predictor: Predictor, files: list[Path]
) -> None:
    expected = predictor.logits(files)
    images = [Image.open(path).copy() for path in files]
    arrays = [np.asarray(image) for image in images]
    np.testing.assert_array_equal(predictor.logits(images), expected)
    np.testing.assert_array_equal(predictor.logits(arrays), expected)
    mixed: list[Source] = [files[0], str(files[1]), images[2], arrays[3], files[4]]
    np.testing.assert_array_equal(predictor.logits(mixed), expected)


def test_a_photograph_held_sideways_is_the_same_opened_or_not(
    predictor: Predictor, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "sideways.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (30, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, exif=exif)
    with Image.open(path) as opened:
        np.testing.assert_array_equal(predictor.logits([path]), predictor.logits([opened]))


def test_grey_and_colour_images_share_a_batch(predictor: Predictor) -> None:
    grey = np.full((40, 40), 100, np.uint8)
    logits = predictor.logits([grey, np.dstack([grey] * 3)])
    # Two rows of one batch: the same numbers in the same order.
    np.testing.assert_array_equal(logits[0], logits[1])


def test_the_batch_size_changes_nothing_but_rounding(files: list[Path]) -> None:
    one, many = (Predictor(make_model(), batch_size=size) for size in (1, 64))
    # Another order of sums: 2e-6 measured, on logits of up to 9.
    np.testing.assert_allclose(one.logits(files), many.logits(files), rtol=0, atol=2e-5)


def test_an_embedding_is_the_pooled_tokens(predictor: Predictor, files: list[Path]) -> None:
    model, prepare = predictor.model, predictor.header.preprocessing
    found = predictor.embed(files[:2])
    with torch.inference_mode():
        tokens = model.forward_features(torch.stack([prepare(Image.open(f)) for f in files[:2]]))
        np.testing.assert_array_equal(found, model.pool(tokens).numpy())
        np.testing.assert_array_equal(found, tokens.patches.mean(dim=1).numpy())
    assert found.shape == (2, 32)


def test_the_head_over_the_embedding_gives_the_logits(
    predictor: Predictor, files: list[Path]
) -> None:
    with torch.inference_mode():
        logits = predictor.model.head(torch.from_numpy(predictor.embed(files)))
    # The same sums, but over 5 rows instead of 2, 2 and 1: 1e-6 measured.
    np.testing.assert_allclose(predictor.logits(files), logits.numpy(), rtol=0, atol=1e-5)


def test_the_most_likely_class_comes_first_and_all_classes_sum_to_one(
    predictor: Predictor, files: list[Path]
) -> None:
    logits = predictor.logits(files)
    for row, prediction in zip(logits, predictor.predict(files), strict=True):
        assert len(prediction.labels) == 4, "all, where there are fewer than top_k"
        assert set(prediction.labels) == set(NAMES)
        assert prediction.labels[0] == NAMES[int(row.argmax())]
        assert list(prediction.probabilities) == sorted(prediction.probabilities, reverse=True)
        # float32: 2e-8 measured.
        assert sum(prediction.probabilities) == pytest.approx(1, abs=1e-6)
        softmax = torch.from_numpy(row).softmax(dim=0).sort(descending=True).values
        np.testing.assert_allclose(prediction.probabilities, softmax.numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.05, 0.4, 3.0, 20.0])
def test_a_temperature_changes_probabilities_and_nothing_else(
    temperature: float, predictor: Predictor, files: list[Path]
) -> None:
    loaded = make_model()
    calibration = Calibration(
        temperature=temperature,
        split="val",
        images=9,
        nll_before=1.0,
        nll_after=0.5,
        ece_before=0.2,
        ece_after=0.1,
    )
    header = replace(loaded.header, calibration=calibration)
    warm = Predictor(replace(loaded, header=header), batch_size=2)
    np.testing.assert_array_equal(warm.logits(files), predictor.logits(files))
    pairs = zip(predictor.logits(files), predictor.predict(files), warm.predict(files), strict=True)
    for row, plain, scaled in pairs:
        assert scaled.labels == plain.labels
        wanted = (torch.from_numpy(row) / temperature).softmax(0).sort(descending=True).values
        np.testing.assert_allclose(scaled.probabilities, wanted.numpy(), rtol=0, atol=1e-6)


def test_classes_whose_probabilities_round_to_0_keep_their_order(predictor: Predictor) -> None:
    logits = np.array([-900, -300, 0, -600], np.float32)
    assert predictor.name(logits).labels == ("cat", "bee", "dog", "ant")


def test_top_k_is_the_beginning_of_all(predictor: Predictor, files: list[Path]) -> None:
    for whole, two in zip(predictor.predict(files), predictor.predict(files, top_k=2), strict=True):
        assert two.labels == whole.labels[:2]
        assert two.probabilities == whole.probabilities[:2]


def test_fewer_than_one_class_cannot_be_asked_for(predictor: Predictor, files: list[Path]) -> None:
    with pytest.raises(ValueError, match="top_k=0 must be at least 1"):
        predictor.predict(files, top_k=0)


def test_an_empty_list_has_no_answers(predictor: Predictor) -> None:
    assert predictor.logits([]).shape == (0, 4)
    assert predictor.embed([]).shape == (0, 32)
    assert predictor.predict([]) == []
    assert predictor.logits([]).dtype == np.float32


@pytest.mark.parametrize("method", ["logits", "embed", "predict"])
@pytest.mark.parametrize("kind", ["path", "text", "image", "colour array", "grey array"])
def test_a_single_image_instead_of_a_list_is_refused_with_the_way_out(
    kind: str, method: str, files: list[Path], unchecked: ModuleType
) -> None:
    single = {
        "path": files[0],
        "text": str(files[0]),
        "image": Image.open(files[0]).copy(),
        "colour array": np.zeros((6, 5, 3), np.uint8),
        "grey array": np.zeros((6, 5), np.uint8),
    }[kind]
    predictor = unchecked.Predictor(make_model())
    with pytest.raises(ValueError, match=r"(?s)list of images.*\nhint: .*\[image\]"):
        getattr(predictor, method)(single)


def test_a_bad_image_is_named(predictor: Predictor, files: list[Path]) -> None:
    files[3].write_bytes(files[3].read_bytes()[:100])
    with pytest.raises(ImageError, match=r"3\.png"):
        predictor.predict(files)
    with pytest.raises(ImageError, match=r"none\.jpg"):
        predictor.embed([files[0], "none.jpg"])


def test_outputs_without_names_are_numbered(files: list[Path]) -> None:
    predictor = Predictor(make_model(names=()))
    assert predictor.class_names == ("0", "1", "2", "3")
    assert set(predictor.predict(files)[0].labels) == {"0", "1", "2", "3"}


def test_a_model_without_a_head_embeds_and_does_not_predict(files: list[Path]) -> None:
    predictor = Predictor(make_model(num_classes=0, names=()))
    np.testing.assert_array_equal(predictor.logits(files), predictor.embed(files))
    assert predictor.logits([]).shape == (0, 32)
    with pytest.raises(ValueError, match="class"):
        predictor.predict(files)


def test_a_model_is_loaded_from_its_file_and_from_its_folder(
    tmp_path: Path, files: list[Path]
) -> None:
    made = make_model()
    save_artifact(tmp_path / RUN_FILE, made.model, made.header)
    expected = Predictor(made).logits(files)
    for ref in (tmp_path, str(tmp_path / RUN_FILE)):
        np.testing.assert_array_equal(load(ref).logits(files), expected)
    assert load_artifact(tmp_path / RUN_FILE).header == load(tmp_path).header
    with pytest.raises(ArtifactError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_a_model_that_was_training_answers_in_evaluation_mode(files: list[Path]) -> None:
    made = make_model()
    made.model.train()
    predictor = Predictor(made)
    assert not predictor.model.training
    np.testing.assert_array_equal(predictor.logits(files), predictor.logits(files))
