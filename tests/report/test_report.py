"""One page that needs nothing but itself, shows what was measured, and believes no file name."""

import base64
import io
import json
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tessera.data.dataset import Dataset
from tessera.data.stored import ImageArrays
from tessera.evaluation.classify import Result
from tessera.report.figures import confusion, curves, thumbnail
from tessera.report.gallery import EXAMPLES
from tessera.report.report import Report, render, write_report

PLAIN, HOSTILE = ("abcd", "beta", "cato"), ("<b>&", "\"'>x", "{{1}")


class Page(HTMLParser):
    """The tags of a page in order, and everything that stands in attributes and between tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def make_data(labels: Sequence[int], names: tuple[str, ...], prefix: str = "toy/") -> Dataset:
    pixels = np.random.default_rng(0).integers(0, 256, (len(labels), 6, 6, 3), dtype=np.uint8)
    return Dataset(ImageArrays(pixels, prefix), np.arange(len(labels)), np.array(labels), names)


def make_report(
    *,
    right: Sequence[bool] = (True, True, False, True, False, True),
    names: tuple[str, ...] = PLAIN,
    prefix: str = "toy/",
    rows: int = 0,
    **fields: Any,
) -> Report:
    labels = np.arange(len(right)) % 3
    logits = np.random.default_rng(1).normal(size=(len(right), 3)).astype(np.float32)
    for row, (label, hit) in enumerate(zip(labels, right, strict=True)):
        logits[row, (label if hit else (label + 1) % 3)] += 10
    results = [
        (
            Result(
                split=split,
                class_names=names,
                logits=logits,
                labels=labels,
                seconds=0.5,
                rows=np.arange(len(labels)),
            ),
            make_data(labels.tolist(), names, prefix),
        )
        for split in ("test", "val")
    ]
    log = [
        {
            "step": 10 * (k + 1),
            "epoch": 0.5 * (k + 1),
            "lr": 1e-3,
            "train_loss": 1 / (k + 1),
            "train_accuracy": 0.5,
            "val_loss": 1.5 / (k + 1),
            "val_accuracy": 0.4,
            "images_per_second": 100.0,
            "seconds": 1.0,
        }
        for k in range(rows)
    ]
    training = {
        "steps": 10 * rows,
        "best_step": 10,
        "epochs": 1.0,
        "seconds": 2.0,
        "images_per_second": 320.0,
    }
    known: dict[str, Any] = {
        "title": "a run",
        "model": {"name": "vit_mu_patch16", "parameters": 12_345},
        "data": {
            "spec": "toy",
            "images": {"test": len(right)},
            "fingerprint": {"test": "0123456789abcdef"},
            "notes": ["a note"],
        },
        "results": results,
        "environment": {
            "time": "2026-01-01T00:00:00+00:00",
            "python": "3.11.7",
            "device": "a processor",
            "threads": 1,
            "packages": {"torch": "2.9.0", "absent": None},
            "git": None,
            "command": "tessera evaluate runs/toy toy",
        },
        "recipe": "seed = 0\n",
        "seed": 0,
        "log": log,
        "training": training if rows else {},
    }
    return Report(**{**known, **fields})


@pytest.mark.parametrize("rows", [0, 3])
def test_the_page_refers_to_nothing_outside_itself(rows: int) -> None:
    text = render(make_report(rows=rows))
    page = Page(text)
    assert not {"script", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    for name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            assert value.startswith(("data:image/png;base64,", "#")), (name, value)
        assert not name.startswith("on"), "no script in attributes"
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)\)", text))
    assert "@import" not in text
    assert page.tags.count("img") == 6, "or the test has seen no picture"
    assert page.tags.count("svg") == (3 if rows else 2)


def test_what_people_name_things_is_text_and_never_markup() -> None:
    prefix, evil = "<img src=http://x/>/&amp;", "<script>alert(1)</script>"
    plain = Page(render(make_report(rows=2)))
    report = make_report(names=HOSTILE, prefix=prefix, rows=2, title=evil, recipe=f"# {evil}\n")
    report.data.update(spec=evil, notes=[evil])
    report.environment.update(command=evil)
    hostile = Page(render(report))
    assert hostile.tags == plain.tags
    for name in HOSTILE:
        # In the table, in the gallery, and on both axes of the confusion matrix.
        assert hostile.texts.count(name) >= 3
    assert f"{prefix}0" in hostile.texts
    assert hostile.texts.count(evil) >= 3


def test_the_json_holds_the_numbers_of_the_page(tmp_path: Path) -> None:
    report = make_report(rows=2)
    path = write_report(tmp_path, report)
    assert path == tmp_path / "report.html"
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert found == json.loads(json.dumps(report.as_dict()))
    result = report.results[0][0]
    assert isinstance(result, Result)
    test = found["results"]["test"]
    assert test["accuracy"] == result.accuracy._asdict()
    assert test["confusion"] == result.confusion.tolist()
    assert test["macro_f1"] == result.macro_f1._asdict()
    assert test["calibration"] == result.calibration
    assert test["loss"] == result.loss
    assert test["images"] == 6
    assert test["images_per_second"] == 12.0
    assert test["top5_accuracy"] is None
    assert test["classes"]["abcd"] == result.classes[0]._asdict()
    assert found["seed"] == 0
    assert found["log"] == list(report.log)
    text = path.read_text(encoding="utf-8")
    for number in ("66.67%", f"{result.accuracy.low:.2%}", f"{result.accuracy.high:.2%}"):
        assert number in text
    assert f"{result.macro_f1.value:.4f}" in text
    assert "0123456789abcdef" in text
    assert "12,345 parameters" in text


def test_the_page_of_a_measurement_has_no_curves() -> None:
    text = render(make_report())
    assert "Curves" not in text
    assert "training images/s" not in text


@pytest.mark.parametrize("rows", [1, 2, 30])
def test_the_page_of_a_run_has_curves_however_short_it_was(rows: int) -> None:
    text = render(make_report(rows=rows))
    assert "Curves" in text
    assert "saved model" in text
    assert "flatters" in text, "validation chose the model, and the page says so"


def test_a_curve_of_one_point_is_drawn_as_a_point() -> None:
    filled = "fill: #2166ac"  # blue is validation, and lines are not filled
    score = make_report().results[0][0].score
    assert filled in curves(make_report(rows=1).log, 10, score)
    assert filled not in curves(make_report(rows=3).log, 10, score)


def test_a_best_step_that_is_not_in_the_log_is_not_marked() -> None:
    report = make_report(rows=2)
    report.training.update(best_step=999)
    assert "saved model" not in render(report)


def test_mistakes_come_with_the_most_confident_first() -> None:
    report = make_report(right=[False] * 40)
    text = render(report)
    result = report.results[0][0]
    assert isinstance(result, Result)
    order = np.argsort(-result.probabilities.max(axis=1), kind="stable")[:EXAMPLES]
    texts = Page(text).texts
    shown = [item for item in texts if item.startswith("toy/")]
    assert shown == [f"toy/{row}" for row in order]


def test_a_model_that_makes_no_mistakes_is_reported() -> None:
    text = render(make_report(right=[True] * 6))
    assert "every image was right" in text
    assert "100.00%" in text


def test_a_model_that_is_never_right_is_reported() -> None:
    text = render(make_report(right=[False] * 6))
    assert ">0.00%<" in text
    assert Page(text).tags.count("img") == 6


def test_right_answers_are_an_even_sample_of_all() -> None:
    texts = Page(render(make_report(right=[True] * 100))).texts
    shown = [int(item.removeprefix("toy/")) for item in texts if item.startswith("toy/")]
    assert len(shown) == EXAMPLES
    assert (shown[0], shown[-1]) == (0, 99)
    assert set(np.diff(shown).tolist()) <= {5, 6}


def test_one_image_is_enough_for_a_report(tmp_path: Path) -> None:
    write_report(tmp_path, make_report(right=[True]))
    found = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert found["results"]["test"]["images"] == 1


def test_a_result_as_json_has_plain_numbers() -> None:
    result, _ = make_report().results[0]
    assert json.loads(json.dumps(result.as_dict(), allow_nan=False)) == result.as_dict()


def test_file_names_that_are_no_utf_8_do_not_keep_a_report_from_being_written(
    tmp_path: Path,
) -> None:
    page = write_report(tmp_path, make_report(prefix="caf\udce9/"))  # as os.walk gives b"caf\xe9"
    assert "caf" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["$_$", "a$b$c", "a_b^c", "\\frac", "猫", "été", " "], ids=lambda name: ascii(name)
)
def test_any_class_name_can_stand_on_an_axis(name: str) -> None:
    picture = confusion(np.array([[3, 1], [0, 2]]), [name, "other"])
    texts = [text for text in Page(picture).texts if text]
    assert texts.count(name.strip()) == (2 if name.strip() else 0)
    assert texts.count("other") == 2


@pytest.mark.parametrize("classes", [2, 20, 21, 41])
def test_a_confusion_matrix_of_any_size_is_drawn(classes: int) -> None:
    names = [f"{k:02}" for k in range(classes)]
    texts = Page(confusion(np.eye(classes, dtype=np.int64) * 7, names)).texts
    assert texts.count("7") == (classes if classes <= 20 else 0)
    assert texts.count("01") == (2 if classes <= 40 else 0)


def test_a_class_without_images_has_an_empty_row() -> None:
    picture = confusion(np.array([[3, 0], [0, 0]]), ["aa", "bb"])
    assert Page(picture).texts.count("3") == 1


def opened(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((8, 8), (112, 112)), ((300, 150), (112, 56)), ((1, 900), (1, 112)), ((112, 60), (112, 60))],
)
def test_a_thumbnail_keeps_the_shape_and_fits_its_square(
    size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    assert opened(thumbnail(Image.new("RGB", size))).size == wanted


def test_a_tiny_image_is_shown_pixel_by_pixel() -> None:
    image = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8))
    shown = np.asarray(opened(thumbnail(image)).convert("L"))
    assert set(shown.ravel().tolist()) == {0, 255}


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.fromarray(np.full((9, 9), 25_700, np.uint16)), (100, 100, 100)),
        (Image.new("RGBA", (9, 9), (0, 0, 0, 0)), (255, 255, 255)),
        (Image.new("CMYK", (9, 9), (0, 0, 0, 0)), (255, 255, 255)),
        (Image.new("L", (9, 9), 7), (7, 7, 7)),
    ],
    ids=["16-bit", "transparent", "cmyk", "grey"],
)
def test_a_thumbnail_shows_what_the_model_saw(
    image: Image.Image, colour: tuple[int, int, int]
) -> None:
    assert opened(thumbnail(image)).getpixel((5, 5)) == colour
