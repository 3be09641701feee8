"""The doctor names every fault by its file, says nothing of good data, and leads to a remedy."""

import csv
import io
import json
import logging
import pickle
import re
import shutil
import sys
import tarfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import planted
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from planted import CLASSES, COPIES, FAULTS

import tessera
from tessera.cli import main
from tessera.data.doctor import ALL_KINDS, COLUMNS, diagnose
from tessera.data.images import printable
from tessera.data.sources import exclude, find_data

UNUSABLE = {"missing", "empty", "not-an-image", "undecodable", "too-large", "incomplete"}


@dataclass
class Visit:
    """What ``tessera doctor`` said and wrote of the planted set."""

    root: Path
    code: int
    lines: list[str]
    out: Path
    rows: list[dict[str, str]]

    def kinds(self, image: str) -> list[str]:
        return sorted(row["kind"] for row in self.rows if row["image"] == image)


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def visit(tmp_path_factory: pytest.TempPathFactory) -> Visit:
    folder = tmp_path_factory.mktemp("doctor")
    root, out = planted.plant(folder / "planted"), folder / "out"
    shown = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with redirect_stdout(shown):
        code = main(["doctor", str(root), "--out", str(out)])
    shown.seek(0)
    return Visit(root, code, shown.read().splitlines(), out, read_rows(out / "findings.csv"))


def expected() -> dict[str, set[str]]:
    """What must be found of every file that is not simply good."""
    kinds = {f"train/sea/{name}": kinds for name, (_, kinds) in FAULTS.items()}
    kinds[planted.MISSING] = {"missing"}
    for name, (source, _, found) in COPIES.items():
        kinds[name] = kinds.get(name, set()) | found.get("copy", set())
        kinds[source] = kinds.get(source, set()) | found.get("original", set())
    return kinds


EXPECTED = expected()


def test_there_are_at_least_forty_kinds_of_bad_or_odd_files() -> None:
    assert sum(bool(kinds) for _, kinds in FAULTS.values()) >= 40
    everything = set().union(*EXPECTED.values()) | set(planted.CLASS_FAULTS)
    # For the one a model is needed, and for the other a table.
    assert everything == set(ALL_KINDS) - {"label", "group-leak"}


@pytest.mark.parametrize("image", EXPECTED, ids=ascii)
def test_every_file_has_its_findings_and_no_others(image: str, visit: Visit) -> None:
    assert visit.kinds(image) == sorted(EXPECTED[image])


def test_nothing_is_found_of_good_files_between_bad_ones(visit: Visit) -> None:
    assert {row["image"] for row in visit.rows} - {""} == {k for k, v in EXPECTED.items() if v}


def test_every_finding_is_as_grave_as_its_kind(visit: Visit) -> None:
    assert visit.rows
    assert all(row["severity"] == ALL_KINDS[row["kind"]][0] for row in visit.rows)


@pytest.mark.parametrize("kind", planted.CLASS_FAULTS)
def test_what_is_wrong_with_the_set_as_a_whole_is_said(kind: str, visit: Visit) -> None:
    said = [row["detail"] for row in visit.rows if row["kind"] == kind]
    assert all(row["image"] == "" for row in visit.rows if row["kind"] == kind)
    wanted = [part.format(root=visit.root) for part in planted.CLASS_FAULTS[kind]]
    assert all(any(part in detail for detail in said) for part in wanted)
    assert len(said) == (1 if kind == "imbalance" else len(wanted))


DETAILS = {
    "page.jpg": "an HTML page",
    "page-with-bom.jpg": "an HTML page",
    "comment.jpg": "an HTML page",
    "answer.png": "JSON",
    "answers.png": "JSON",
    "words.jpg": "text",
    "umlaut.jpg": "text",
    "base64.jpg": "base64",
    "archive.jpg": "a zip archive",
    "paper.jpg": "a PDF",
    "packed.png": "a gzip archive",
    "drawing.png": "an SVG",
    "xml.png": "an SVG",
    "film.jpg": "a video",
    "iphone.jpg": "a HEIC image",
    "sound.jpg": "sound",
    "pointer.jpg": "git lfs pull",
    "array.png": "a NumPy array",
    "layers.jpg": "a Photoshop file",
    "random.jpg": "bytes of no known image format",
    "zeros.jpg": "5000 bytes, all zero",
    "cut.jpg": "truncated",
    "cut-header.png": "a PNG whose beginning is damaged",
    "bomb.png": "3600000000 pixels",
    "png.jpg": "PNG named .jpg",
    "jpeg2000.jpg": "JPEG2000 named .jpg",
    "deep.png": "white is 65535",
    "deep-but-dark.png": "once it has 8 bits",
    "integers.tif": "whole numbers from",
    "nan.tif": "2 pixels are no number",
    "held-6.jpg": "orientation 6",
    "moving.gif": "3 frames",
    "panorama.jpg": "3000x64",
    "huge.png": "7100x7100",
    "wide.jpg": "Adobe RGB (1998)",
    "damaged-profile.jpg": "a damaged profile",
    "line\nbreak.jpg": r"line\nbreak.jpg",
}


@pytest.mark.parametrize("name", DETAILS, ids=ascii)
def test_the_detail_says_what_a_file_is(name: str, visit: Visit) -> None:
    details = [row["detail"] for row in visit.rows if row["image"] == f"train/sea/{name}"]
    assert any(DETAILS[name] in detail for detail in details), details


@pytest.mark.parametrize("image", [name for name, (_, _, found) in COPIES.items() if found])
def test_the_file_that_another_one_is_like_is_named(image: str, visit: Visit) -> None:
    source, _, found = COPIES[image]
    pairs = {(row["image"], row["other"]) for row in visit.rows if row["other"]}
    assert ((image, source) in pairs) == ("copy" in found)
    assert ((source, image) in pairs) == ("original" in found)


def test_images_that_training_goes_better_without_are_excluded(visit: Visit) -> None:
    """All that cannot be read, copies, contradictions, and the training side of leaks."""
    found = {row["image"] for row in read_rows(visit.out / "exclude.csv")}
    always = UNUSABLE | {"duplicate", "contradiction", "leak", "near-leak"}
    assert found == {image for image, kinds in EXPECTED.items() if kinds & always}
    assert not any(image.startswith("test/") for image in found - {"test/sea/wall.jpg"})


def test_odd_names_survive_the_round_trip_through_csv(visit: Visit) -> None:
    odd = [name for name, (_, kinds) in FAULTS.items() if "file-name" in kinds]
    assert len(odd) == 5
    assert {f"train/sea/{name}" for name in odd} <= {row["image"] for row in visit.rows}
    # A reader that knows nothing of surrogates sees as many lines.
    with (visit.out / "findings.csv").open(newline="", encoding="latin-1") as file:
        rows = list(csv.reader(file))
    assert [len(row) for row in rows] == [len(COLUMNS)] * (len(visit.rows) + 1)


def test_the_output_can_be_read_by_a_person(visit: Visit) -> None:
    assert visit.code == 0
    assert all(line.isprintable() for line in visit.lines)
    assert "error    not-an-image (20)" in visit.lines
    assert "         and 15 more" in visit.lines
    assert (
        "         train/brick/01.jpg: the same file as test/brick/seen.jpg in the test split"
        in (visit.lines)
    )
    assert "note     exif-rotated (7)" in visit.lines
    order = [line.split()[0] for line in visit.lines if re.match(r"\w+ +[\w-]+ \([\d,]+\)$", line)]
    assert order == sorted(order, key=["error", "warning", "note"].index)
    assert len(order) == len({row["kind"] for row in visit.rows})
    assert visit.lines[-2:] == [
        f"report   {visit.out / 'report.html'}",
        f"without  tessera train {visit.root} --exclude {visit.out / 'exclude.csv'}",
    ]


# ---- good data


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.plant_good(tmp_path_factory.mktemp("clean") / "photos")


def test_nothing_is_found_in_good_data(
    clean: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", str(clean), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "nothing is wrong with the 60 images",
        f"report   {tmp_path / 'out' / 'report.html'}",
    ]
    for name in ("findings.csv", "exclude.csv"):
        assert read_rows(tmp_path / "out" / name) == []
    assert "Nothing was found" in (tmp_path / "out" / "report.html").read_text()


def test_nothing_is_found_in_handwritten_digits() -> None:
    found = diagnose("digits")
    assert (found.images, found.rows) == (1797, [])


def test_nothing_is_found_in_photographs_of_ants_and_bees(shared: Path) -> None:
    found = diagnose(str(shared / "data" / "ants-bees"))
    assert (found.images, found.rows) == (396, [])


# ---- what training makes of it

TINY = [
    *("--weights", "none", "--model", "vit_mu_patch16_32", "--data.batch-size", "16"),
    *("--data.workers", "0"),
]


@pytest.fixture(scope="module")
def trainable(visit: Visit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted set without the class that only the test images have."""
    root = tmp_path_factory.mktemp("trainable") / "planted"
    shutil.copytree(visit.root, root, symlinks=True)
    shutil.rmtree(root / "test" / "kelp")
    (root / "train" / "sea" / "huge.png").unlink()  # which takes a second wherever it is read
    return root


def unreadable(names: list[str]) -> set[str]:
    return {name for name in names if EXPECTED.get(name, set()) & UNUSABLE - {"incomplete"}}


def test_training_goes_on_and_names_what_it_skipped(
    trainable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    argv = ["train", str(trainable), "--out", str(out), *TINY, "--schedule.total-steps", "9"]
    assert main([*argv, "--data.bad-share", "0.9"]) == 0
    log = capsys.readouterr().err
    report = json.loads((out / "report.json").read_text())
    measured = report["results"]["val"]["unreadable"]
    skipped = [*report["training"]["unreadable"], *measured]
    data = tessera.data.holdout.load_data(str(trainable))
    names = [data[split].name(i) for split in ("train", "val") for i in range(len(data[split]))]
    # Nine batches of 16 are more than one pass over the training images, so that each was tried.
    assert len(data["train"]) < 9 * 16
    assert len(skipped) == len(unreadable(names)) > 30
    for name in unreadable(names):
        assert any(printable(name) in message for message in skipped), ascii(name)
    for message in report["training"]["unreadable"]:
        assert message.isprintable()
        assert f"replaced by another image: {message}\n" in log
    assert f"{len(measured)} unreadable" in log


def test_training_ends_with_names_and_the_doctor_where_too_much_is_unreadable(
    trainable: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    argv = ["train", str(trainable), "--out", str(out), *TINY, "--schedule.total-steps", "9"]
    assert main(argv) == 2
    error = capsys.readouterr().err.partition("error: ")[2]
    assert re.match(r"\d+ of \d+ images cannot be read, and data.bad_share=0.05 allows", error)
    assert len(re.findall(rf"^  .*{re.escape(str(trainable))}/train/sea/", error, re.M)) == 5
    assert "hint: `tessera doctor DATA` names them all" in error


def test_training_without_what_the_doctor_excludes_meets_nothing_unreadable(
    trainable: Path, visit: Visit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, left_out = tmp_path / "run", visit.out / "exclude.csv"
    argv = ["train", str(trainable), "--out", str(out), *TINY, "--schedule.total-steps", "8"]
    assert main([*argv, "--exclude", str(left_out)]) == 0
    log = capsys.readouterr().err
    gone = {row["image"] for row in read_rows(left_out)}
    assert f"note    {len(gone)} images left out, which exclude.csv names\n" in log
    assert "replaced" not in log
    assert "unreadable" not in log
    whole, rest = find_data(str(trainable)), exclude(find_data(str(trainable)), left_out)
    for split in ("train", "test"):
        kept = {rest[split].name(i) for i in range(len(rest[split]))}
        assert kept == {whole[split].name(i) for i in range(len(whole[split]))} - gone


# ---- every kind of source


def good(number: int) -> bytes:
    return planted.saved(planted.photograph(number, (48, 40)), "PNG")


def table(root: Path) -> str:
    """With a file that is missing, one named twice, and one in two splits."""
    lines = ["image,label,split"]
    for k in range(12):
        (root / f"{k}.png").write_bytes(good(k))
        lines.append(f"{k}.png,{'ab'[k % 2]},train")
    lines += ["gone.png,a,train", "3.png,b,train", "4.png,a,test", "5.png,a,train", ".,a,train"]
    (root / "table.csv").write_text("\n".join(lines), encoding="utf-8")
    return str(root / "table.csv")


def shards(root: Path) -> str:
    for number, split in enumerate(("train", "test")):
        with tarfile.open(root / f"{split}.tar", "w") as file:
            for k in range(12 if split == "train" else 10):
                image = good(100 * number + k) if (split, k) != ("test", 9) else good(0)
                image = image[:300] if (split, k) == ("train", 7) else image
                for name, data in ((f"{k}.png", image), (f"{k}.cls", b"ab"[k % 2 : k % 2 + 1])):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    file.addfile(member, io.BytesIO(data))
    return str(root)


def parquet(root: Path) -> str:
    images = [good(k) for k in range(12)] + [b"", b"<html>", good(2)]
    structs = [{"bytes": data, "path": f"{k}.png"} for k, data in enumerate(images)]
    labels = ["ab"[k % 2] for k in range(len(images))]
    pq.write_table(pa.table({"image": structs, "label": labels}), root / "train.parquet")
    return str(root / "train.parquet")


def cifar(root: Path) -> str:
    rng = np.random.default_rng(0)
    names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
    rows = {name: rng.integers(0, 256, (10, 3072), dtype=np.uint8) for name in names}
    rows["test_batch"][3] = rows["data_batch_1"][7]
    rows["data_batch_2"][1] = 9
    for name, data in rows.items():
        content = {b"data": data, b"labels": list(range(10))}
        (root / name).write_bytes(pickle.dumps(content, protocol=2))
    words = [f"class {k}".encode() for k in range(10)]
    (root / "batches.meta").write_bytes(pickle.dumps({b"label_names": words}, protocol=2))
    return f"cifar10:{root}"


Found = set[tuple[str, str, str, bool]]
"""Kind, split, image, and whether it is excluded."""

SOURCES: dict[str, tuple[Callable[[Path], str], Found]] = {
    "table": (
        table,
        {
            ("missing", "train", "gone.png", True),
            ("undecodable", "train", ".", True),
            ("duplicate", "train", "3.png", False),  # by name both would go
            ("leak", "train", "4.png", True),
            ("contradiction", "train", "5.png", True),
        },
    ),
    "shards": (
        shards,
        {
            ("undecodable", "train", "train.tar/7.png", True),
            ("leak", "train", "train.tar/0.png", True),
            ("contradiction", "train", "train.tar/0.png", True),
            ("contradiction", "test", "test.tar/9.png", True),
        },
    ),
    "parquet": (
        parquet,
        {
            ("empty", "train", "train.parquet/train:12:12.png", True),
            ("not-an-image", "train", "train.parquet/train:13:13.png", True),
            ("duplicate", "train", "train.parquet/train:14:14.png", True),
        },
    ),
    "cifar": (
        cifar,
        {
            ("leak", "train", "cifar10/train/7", True),
            ("contradiction", "train", "cifar10/train/7", True),
            ("contradiction", "test", "cifar10/test/3", True),
            ("blank", "train", "cifar10/train/11", False),
        },
    ),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_kind_of_source_is_examined(kind: str, tmp_path: Path) -> None:
    write, wanted = SOURCES[kind]
    found = tessera.doctor(write(tmp_path), out=tmp_path / "out").diagnosis
    rows = [row for row in found.rows if row.image]
    assert {(row.kind, row.split, row.image, row.exclude) for row in rows} == wanted
    assert len(rows) == len(wanted) + (kind == "table")  # 5.png is named on both sides


@pytest.mark.parametrize("labels", ["multilabel", "regress"])
def test_other_tasks_are_examined_too(labels: str, tmp_path: Path) -> None:
    column = "label" if labels == "multilabel" else "value"
    lines = [f"image,{column}"]
    for k in range(8):
        (tmp_path / f"{k}.png").write_bytes(good(0) if k == 7 else good(k))
        lines.append(f"{k}.png,{'a|b' if k > 2 else 'a|'}" if column == "label" else f"{k}.png,{k}")
    (tmp_path / "table.csv").write_text("\n".join(lines), encoding="utf-8")
    found = tessera.doctor(tmp_path / "table.csv", out=tmp_path / "out").diagnosis
    assert found.data.task == labels
    kinds = [(row.kind, row.image) for row in found.rows]
    assert kinds == [("contradiction", "0.png"), ("contradiction", "7.png")]


def test_groups_that_a_table_has_in_two_splits_are_named(tmp_path: Path) -> None:
    lines = ["image,label,split,group"]
    for k in range(20):
        (tmp_path / f"{k}.png").write_bytes(good(k))
        split, patient = ("train", f"p{k // 2}") if k < 10 else ("test", f"p{k // 2 - 1}")
        lines.append(f"{k}.png,{'ab'[k % 2]},{split},{patient}")
    (tmp_path / "table.csv").write_text("\n".join(lines), encoding="utf-8")
    (row,) = diagnose(str(tmp_path / "table.csv")).rows
    assert (row.kind, row.severity) == ("group-leak", "error")
    assert "train and test" in row.detail  # patient p4 alone, who has images 8 and 9, and 10 and 11
    assert "8.png" in row.detail
    assert row.detail.endswith("2 images of train")


def test_a_class_map_that_does_not_fit_is_named_and_the_rest_is_examined(visit: Visit) -> None:
    (row,) = [row for row in visit.rows if row["kind"] == "class-map"]
    assert row["detail"].endswith("classes that the training images do not: kelp")
    assert {"train", "test"} <= {row["split"] for row in visit.rows}


def test_a_split_of_unknown_classes_only_leaves_the_training_images(tmp_path: Path) -> None:
    root = planted.plant_good(tmp_path / "photos", train=5, test=0)
    for name in CLASSES:
        (root / "test" / name).rmdir()
    (root / "test" / "kelp").mkdir()
    (root / "test" / "kelp" / "0.png").write_bytes(good(0))
    (root / "train" / "sea" / "bad.png").write_bytes(good(1)[:200])
    found = tessera.doctor(root, out=tmp_path / "out").diagnosis
    assert [row.kind for row in found.rows if row.kind != "source"] == ["class-map", "undecodable"]


# ---- many alike, and many at all


def test_an_image_that_is_like_many_others_has_one_row_of_a_kind(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    root = planted.plant_good(tmp_path / "photos")
    scene = np.asarray(planted.photograph(5000, (64, 64))).astype(int)
    for split, count in (("train", 10), ("test", 3)):
        for name in CLASSES[:2]:
            for k in range(count):
                frame = (scene + rng.integers(-9, 10, scene.shape)).clip(0, 255).astype(np.uint8)
                Image.fromarray(frame).save(root / split / name / f"frame{k}.png")
    found = diagnose(str(root))
    # 20 in training and 6 in the test, all like each other: 325 pairs, and each said once.
    assert found.counts() == {
        "near-leak": 20,
        "near-contradiction": 26,
        "near-duplicate": 2 * 9 + 2 * 2,
    }
    assert all("/frame" in row.image for row in found.rows)
    assert diagnose(str(root), near=False).rows == []


@pytest.mark.slow
def test_two_thousand_small_images_take_less_than_ten_seconds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in "ab":
        (tmp_path / name).mkdir()
        for k in range(1000):
            pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            image = Image.fromarray(pixels).resize((48, 48), Image.Resampling.BICUBIC)
            image.save(tmp_path / name / f"{k}.jpg")
    start = time.process_time()  # which other work on the machine does not count into
    found = diagnose(str(tmp_path))
    assert time.process_time() - start < 10  # measured: 1.1 s, 0.6 s of them by the clock
    assert (found.images, found.rows) == (2000, [])


def test_what_pillow_would_say_is_kept_from_the_terminal_and_from_nowhere_else(
    trainable: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    before = list(warnings.filters)
    diagnose(str(trainable), near=False)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert warnings.filters == before
    assert logging.getLogger("PIL").level == logging.NOTSET
    with pytest.warns(UserWarning, match="still heard"):
        warnings.warn("still heard", UserWarning, stacklevel=1)


def test_progress_is_told_for_every_image(trainable: Path) -> None:
    looked: list[int] = []
    found = diagnose(str(trainable), near=False, on_progress=looked.append)
    assert sum(looked) == found.images == sum(map(len, found.data.splits.values()))


# ---- labels, as a model sees them


def coloured(root: Path, count: int, first: int, flipped: float = 0.0) -> set[str]:
    """Write a table of textures that lean to one colour a class; return what is mislabelled."""
    rng = np.random.default_rng(first)
    root.mkdir()
    wrong = set(rng.choice(count, round(flipped * count), replace=False).tolist())
    lines = ["image,label"]
    for k in range(count):
        label = k % 3
        texture = np.asarray(planted.photograph(first + k, (24, 24)))
        cast = np.roll([25, 0, -25], label) + rng.normal(0, 8, 3)
        pixels = (texture - texture.mean(axis=(0, 1))) * 0.8 + 120 + cast
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / f"{k}.png")
        told = (label + rng.integers(1, 3)) % 3 if k in wrong else label
        lines.append(f"{k}.png,{CLASSES[told]}")
    (root / "table.csv").write_text("\n".join(lines), encoding="utf-8")
    return {f"{k}.png" for k in wrong}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of the three colours, trained on right labels."""
    folder = tmp_path_factory.mktemp("weights")
    coloured(folder / "data", 160, first=10_000)
    argv = ["train", str(folder / "data" / "table.csv"), "--out", str(folder / "run"), *TINY]
    assert main([*argv, "--schedule.total-steps", "20", "--optim.lr", "3e-3"]) == 0
    return folder / "run"


def test_most_wrong_labels_are_found_and_little_else(run: Path, tmp_path: Path) -> None:
    wrong = coloured(tmp_path / "data", 300, first=20_000, flipped=0.05)
    assert len(wrong) == 15
    (tmp_path / "data" / "7.png").write_bytes(b"")  # which no model can be asked about
    found = tessera.doctor(tmp_path / "data" / "table.csv", weights=run, out=tmp_path / "out")
    rows = [row for row in found.diagnosis.rows if row.kind == "label"]
    named = {row.image for row in rows}
    recall, precision = len(named & wrong) / len(wrong), len(named & wrong) / len(named)
    assert min(recall, precision) >= 0.9  # measured: 1.0 and 1.0
    assert all(re.match(r"'\w+' at \d+%; '\w+' at \d+%$", row.detail) for row in rows)
    assert {row["image"] for row in read_rows(tmp_path / "out" / "exclude.csv")} == named | {
        "7.png"
    }


def test_labels_are_judged_only_where_an_image_has_one_class(run: Path, tmp_path: Path) -> None:
    lines = ["image,value"]
    for k in range(4):
        (tmp_path / f"{k}.png").write_bytes(good(k))
        lines.append(f"{k}.png,{k}")
    (tmp_path / "table.csv").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(ValueError, match="where every image has one class\nhint: leave --weights"):
        tessera.doctor(tmp_path / "table.csv", weights=run, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_nothing_is_asked_of_a_model_where_no_image_can_be_read(run: Path, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(5):
            (tmp_path / "photos" / name / f"{k}.jpg").write_text(f"{name}{k}")
    found = tessera.doctor(tmp_path / "photos", weights=run, out=tmp_path / "out").diagnosis
    assert found.counts() == {"not-an-image": 10}


# ---- what is refused, and when


@pytest.fixture
def no_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks at an image fails."""

    def look(*args: object, **kwargs: object) -> None:
        raise AssertionError("the images were looked at before the mistake was found")

    monkeypatch.setattr("tessera.data.doctor._look", look)


def refusal(argv: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    assert main(["doctor", *argv]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


@pytest.mark.usefixtures("no_look")
@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["{tmp}/none"], "error: no data at '{tmp}/none'\nhint: give a folder with one folder"),
        (["{clean}", "--out", "{tmp}/used"], "error: {tmp}/used holds something else\nhint: name"),
        (["{clean}", "--out", "{tmp}/used/mine.txt"], "mine.txt holds something else\nhint: name"),
        (
            ["{clean}", "--out", "{clean}"],
            "error: {clean} holds something else\nhint: name",
        ),
        (["{clean}", "--recipe", "fintune"], "error: no recipe 'fintune'\nhint: shipped are"),
        (["{clean}", "--weights", "{tmp}/none.safetensors"], "none.safetensors"),
        (["{clean}", "--device", "tpu"], "tpu"),
    ],
)
def test_what_can_not_be_done_is_refused_before_the_first_look(
    argv: list[str],
    message: str,
    clean: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)  # where runs/ would appear
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").write_text("mine")
    before = sorted(clean.rglob("*"))
    places = {"tmp": tmp_path, "clean": clean}
    error = refusal([word.format(**places) for word in argv], capsys)
    assert error.startswith("error: ")
    assert message.format(**places) in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["used"]
    assert sorted(clean.rglob("*")) == before


@pytest.mark.usefixtures("no_look")
def test_without_cleanlab_labels_can_not_be_judged(
    run: Path, clean: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab.filter", None)
    error = refusal([str(clean), "--weights", str(run), "--out", "none"], capsys, code=1)
    assert "pip install 'tessera-vit[doctor]'" in error


def test_a_second_visit_replaces_what_the_first_one_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    planted.plant_good(tmp_path / "photos", train=5, test=5)
    bad = tmp_path / "photos" / "train" / "sea" / "bad.jpg"
    bad.write_bytes(b"")
    assert main(["doctor", "photos/"]) == 0
    folder = tmp_path / "runs" / "doctor-photos"
    assert [row["kind"] for row in read_rows(folder / "findings.csv")] == ["empty"]
    bad.unlink()
    assert main(["doctor", str(tmp_path / "photos")]) == 0
    assert read_rows(folder / "findings.csv") == []
    assert {path.name for path in folder.iterdir()} == {
        "report.html",
        "findings.csv",
        "exclude.csv",
    }


# ---- the page


class Page(HTMLParser):
    """Everything in a page that a test asks about."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.titles: dict[str, str] = {}
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag == "h2" and "id" in dict(attrs):
            self.titles[dict(attrs)["id"] or ""] = ""

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "h2" in self.open and self.titles:
            self.titles[list(self.titles)[-1]] += data

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.attributes if key == name]


def test_the_page_has_a_section_for_every_kind(visit: Visit) -> None:
    page = Page(visit.out / "report.html")
    assert page.open == []
    counts = {kind: sum(row["kind"] == kind for row in visit.rows) for kind in ALL_KINDS}
    wanted = {k: f"{ALL_KINDS[k][0]}: {k} ({count})" for k, count in counts.items() if count}
    assert page.titles == wanted
    assert sorted(page.all("href")) == sorted(f"#{kind}" for kind in wanted)
    for row in visit.rows:
        assert printable(row["image"]) in page.text
    assert f"tessera train {visit.root} --exclude {visit.out / 'exclude.csv'}" in page.text
    assert "A training batch after augmentation" in page.text


def test_the_page_needs_nothing_from_outside(visit: Visit) -> None:
    page = Page(visit.out / "report.html")
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    pictures = page.all("src")
    assert len(pictures) > 80
    assert all(picture.startswith("data:image/png;base64,") for picture in pictures)
    assert "url(" not in (visit.out / "report.html").read_text()


def test_hostile_names_are_shown_and_do_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["<script>alert(1)<", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "\x1b[2J\u202e"]
    for number, name in enumerate(names):
        folder = tmp_path / "<i>set" / name
        folder.mkdir(parents=True)
        for k in range(5):
            (folder / f"{name}{k}.png").write_bytes(good(10 * number + k))
        (folder / f"{name}9.png").write_bytes(good(0)[:90])
    assert main(["doctor", str(tmp_path / "<i>set"), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert all(line.isprintable() for line in printed.splitlines())
    assert f"without  tessera train '{tmp_path}/<i>set' --exclude " in printed
    page = Page(tmp_path / "out" / "report.html")
    assert page.open == []
    assert not {"script", "i"} & set(page.tags)
    assert not page.all("onerror")
    for name in names:
        assert printable(name) in page.text


def test_many_findings_of_a_kind_are_counted_and_not_all_shown(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(40):
            (tmp_path / "photos" / name / f"{k}.jpg").write_text(f"{name}{k}")
    found = tessera.doctor(tmp_path / "photos", out=tmp_path / "out")
    page = Page(found.report)
    assert page.titles == {"not-an-image": "error: not-an-image (80)"}
    assert "and 56 more in findings.csv" in page.text
    assert len(read_rows(tmp_path / "out" / "findings.csv")) == 80
    assert "A training batch" not in page.text  # since no image can be read


def test_a_group_that_is_in_two_splits_is_named(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = ["image,label,split,group"]
    for k in range(12):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(
            tmp_path / f"{k}.png"
        )
        split = "test" if k % 3 == 0 else "train"
        rows.append(f"{k}.png,{'ab'[k % 2]},{split},patient{k // 4}")
    (tmp_path / "t.csv").write_text("\n".join(rows))
    found = [row for row in diagnose(str(tmp_path / "t.csv")).rows if row.kind == "group-leak"]
    assert len(found) == 1
    assert found[0].severity == "error"
    assert "3 groups are in both train and test" in found[0].detail
