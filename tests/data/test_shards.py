"""Tar shards: images are read where they lie, whatever else is in there, or named."""

import io
import json
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tessera.data.images import ImageError
from tessera.data.loader import train_batches
from tessera.data.preprocessing import Preprocessing
from tessera.data.shards import TarImages
from tessera.data.sources import find_data
from tessera.data.splits import DataSplits
from tessera.recipe import Augment, Recipe
from tessera.recipe import Data as DataSettings


def pixels(number: int) -> np.ndarray:
    """Another image for every number."""
    rng = np.random.default_rng(number)
    return rng.integers(0, 256, (5, 4 + number % 7, 3), dtype=np.uint8)


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(number)).save(file, "PNG")
    return file.getvalue()


def write(path: Path, members: dict[str, bytes | str], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as file:  # type: ignore[call-overload]
        for name, content in members.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path


def samples(labels: list[str], first: int = 0) -> dict[str, bytes | str]:
    """An image and its class under one name for every label, as WebDataset has them."""
    members: dict[str, bytes | str] = {}
    for number, label in enumerate(labels, first):
        members[f"{number:06}.cls"] = label
        members[f"{number:06}.png"] = png(number)
    return members


def words(data: DataSplits, split: str = "train") -> list[str]:
    return [data[split].label_text(i) for i in range(len(data[split]))]


def check_pixels(data: DataSplits) -> None:
    """The number in a member's name says which image it must be."""
    for part in data.splits.values():
        for i in range(len(part)):
            number = int(Path(part.name(i)).name.partition(".")[0])
            np.testing.assert_array_equal(np.asarray(part.read(i)), pixels(number))
            assert part.images.encoded(int(part.rows[i])) == png(number)


CLASSES: dict[str, tuple[dict[str, bytes | str], tuple[str, ...]]] = {
    "names": ({"0.png": png(0), "0.cls": "bee", "1.png": png(1), "1.cls": "ant"}, ("ant", "bee")),
    "a line end": (
        {"0.png": png(0), "0.cls": "bee\n", "1.cls": "ant\r\n", "1.png": png(1)},
        ("ant", "bee"),
    ),
    "numbers": ({"0.png": png(0), "0.cls": "10", "1.png": png(1), "1.cls": "2"}, ("2", "10")),
    "json": (
        {
            "0.json": json.dumps({"label": "bee", "width": 4}),
            "0.png": png(0),
            "1.png": png(1),
            "1.json": json.dumps({"class": "ant", "caption": "label"}),
        },
        ("ant", "bee"),
    ),
    "json numbers": (
        {"0.json": '{"cls": 1}', "0.png": png(0), "1.json": '{"label": 0}', "1.png": png(1)},
        ("0", "1"),
    ),
    "capitals": (
        {"0.PNG": png(0), "0.CLS": "bee", "1.Png": png(1), "1.cls": "ant"},
        ("ant", "bee"),
    ),
    "folders": (
        {"b.1/0.png": png(0), "b.1/0.cls": "bee", "a/1.cls": "ant", "a/1.png": png(1)},
        ("ant", "bee"),
    ),
    "other members": (
        {
            **{"0.txt": "x", "0.png": png(0), "0.seg.png": b"x", "0.cls": "bee", "0.json": "{}"},
            **{"1.cls": "ant", "1.png": png(1), "1.pyd": b"x", "1.jpg.txt": "y"},
        },
        ("ant", "bee"),
    ),
}


@pytest.mark.parametrize("kind", CLASSES)
def test_the_class_of_an_image(kind: str, tmp_path: Path) -> None:
    members, names = CLASSES[kind]
    data = find_data(str(write(tmp_path / "a.tar", members)))
    assert data.class_names == names
    assert words(data) == list(names[::-1])
    assert list(data.splits) == ["train"]
    check_pixels(data)


def test_shards_of_every_tar_format_are_read_bit_by_bit(tmp_path: Path) -> None:
    for kind in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / f"{kind}.tar"
        with tarfile.open(path, "w", format=kind) as file:
            for number in range(3):
                folder = "ä" * 60  # too long for a plain header
                name = f"{'x' * 90 if kind != tarfile.USTAR_FORMAT else 'x'}/{folder}/{number}"
                for suffix, content in (("png", png(number)), ("cls", b"aba"[number:][:1])):
                    member = tarfile.TarInfo(f"{name}.{suffix}")
                    member.size = len(content)
                    file.addfile(member, io.BytesIO(content))
        data = find_data(str(path))
        assert words(data) == ["a", "b", "a"]
        check_pixels(data)


@pytest.mark.parametrize("name", ["classnames.txt", "classes.txt", "labels.txt"])
def test_numbers_get_the_names_that_lie_beside_the_shards(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("wasp\n ant \nbienë\n\n", encoding="utf-8")
    write(tmp_path / "train-0.tar", samples(["2", "0", "1"]))
    write(tmp_path / "val-0.tar", samples(["1", "2"], first=3))
    data = find_data(str(tmp_path))
    assert data.class_names == ("wasp", "ant", "bienë")
    assert words(data) == ["bienë", "wasp", "ant"]
    assert words(data, "val") == ["ant", "bienë"]


def test_the_names_may_lie_above_the_folders_of_the_splits(tmp_path: Path) -> None:
    (tmp_path / "classnames.txt").write_text("wasp\nant\n", encoding="utf-8")
    write(tmp_path / "train" / "0.tar", samples(["1", "0"]))
    write(tmp_path / "test" / "0.tar", samples(["1"], first=2))
    data = find_data(str(tmp_path))
    assert data.class_names == ("wasp", "ant")
    assert words(data, "test") == ["ant"]


def test_words_keep_their_names_whatever_lies_beside_the_shards(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("wasp\nant\n", encoding="utf-8")
    assert find_data(str(write(tmp_path / "a.tar", samples(["bee", "ant"])))).class_names == (
        "ant",
        "bee",
    )


LAYOUTS = {
    "names": {"train-000.tar": "train", "train-001.tar": "train", "val-000.tar": "val"},
    "folders": {"train/000.tar": "train", "valid/000.tar": "val", "test/000.tar": "test"},
    "names in folders": {"shards/train_0.tar": "train", "shards/Test_0.tar": "test"},
    "neither": {"000.tar": "train", "001.tar": "train"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("top", ["flowers", "test_set"])  # what DATA itself is called says nothing
def test_shards_belong_to_the_split_that_their_names_say(
    layout: str, top: str, tmp_path: Path
) -> None:
    wanted: dict[str, list[str]] = {}
    for number, (name, split) in enumerate(sorted(LAYOUTS[layout].items())):
        write(tmp_path / top / name, samples(["ant", "bee"], first=10 * number))
        names = [f"{10 * number + k:06}.png" for k in (0, 1)]
        wanted.setdefault(split, []).extend(f"{Path(name).name}/{image}" for image in names)
    data = find_data(str(tmp_path / top))
    found = {s: [part.name(i) for i in range(len(part))] for s, part in data.splits.items()}
    assert found == wanted
    check_pixels(data)


def test_one_file_and_a_range_of_files_are_data_too(tmp_path: Path) -> None:
    for number in range(12):
        write(tmp_path / f"my-part-{number:02}.tar", samples(["a", "b"]))
    one = find_data(str(tmp_path / "my-part-03.tar"))
    assert len(one["train"]) == 2
    several = find_data(str(tmp_path / "my-part-{08..11}.tar"))
    assert [several["train"].name(i).partition("/")[0] for i in range(0, 8, 2)] == [
        f"my-part-{number:02}.tar" for number in (8, 9, 10, 11)
    ]
    check_pixels(several)


def test_the_class_map_is_the_same_in_all_splits(tmp_path: Path) -> None:
    write(tmp_path / "train.tar", samples(["3", "10", "7"]))
    write(tmp_path / "test.tar", samples(["10", "3"]))
    data = find_data(str(tmp_path))
    assert data.class_names == data["test"].class_names == ("3", "7", "10")
    assert data["test"].labels.tolist() == [2, 0]
    assert data.notes == ("the test split has no image of 7",)
    write(tmp_path / "val.tar", samples(["11", "3"]))
    with pytest.raises(ValueError, match=r"val split .* training images do not: 11\nhint: "):
        find_data(str(tmp_path))


JUNK: dict[str, bytes | str] = {
    ".DS_Store": b"\0",
    "README.txt": "shards of ants",
    "._000000.png": b"\0\x05\x16\x07",
    "__MACOSX/._000000.png": b"\0",
    ".hidden.jpg": b"no image",
    "dataset.json": "{}",
    "thumbs.db": b"x",
}


def test_members_that_are_no_samples_are_ignored(tmp_path: Path) -> None:
    plain = samples(["ant", "bee"])
    with_junk: dict[str, bytes | str] = {}
    for name, content in plain.items():  # as macOS writes them: beside every file another
        with_junk |= {f"._{name}": b"\0\x05", name: content}
    path = write(tmp_path / "a.tar", {**JUNK, **with_junk})
    with tarfile.open(path, "a") as file:
        folder = tarfile.TarInfo("more.png")
        folder.type = tarfile.DIRTYPE
        file.addfile(folder)
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    data = find_data(str(path))
    assert words(data) == ["ant", "bee"]
    check_pixels(data)


def compressed(folder: Path, name: str, mode: str) -> str:
    return str(write(folder / name, samples(["ant", "bee"]), mode))


PROBLEMS: dict[str, tuple[dict[str, bytes | str], str]] = {
    "no class": (
        {**samples(["ant", "bee"]), "7.png": png(7)},
        r"a\.tar: 7\.png has no class\nhint: .*\.cls, or \.json",
    ),
    "no class first": ({"7.png": png(7), **samples(["ant"])}, r"7\.png has no class"),
    "a class far from its image": (
        {"0.png": png(0), "1.png": png(1), "0.cls": "ant", "1.cls": "bee"},
        r"a\.tar: 0\.png has no class\nhint: .*beside it",
    ),
    "an empty class": ({"0.png": png(0), "0.cls": "\n"}, r"0\.png has no class"),
    "json without a label": ({"0.png": png(0), "0.json": '{"id": 3}'}, r"0\.png has no class"),
    "json of a list": ({"0.png": png(0), "0.json": "[1]"}, r"0\.png has no class"),
    "broken json": ({"0.json": '{"label"', "0.png": png(0)}, r"a\.tar/0\.json is no valid JSON"),
    "several labels": (
        {"0.json": '{"label": [1, 2]}', "0.png": png(0)},
        r"a\.tar/0\.json: .*\[1, 2\] is no single class\nhint: ",
    ),
    "a number beyond the names": (samples(["0", "3"]), "class 3, and only 3 class names"),
    "nothing": ({}, r"training images of 0 classes"),
    "no images": ({"a.txt": "x"}, r"training images of 0 classes"),
    "one class": (samples(["1", "1"]), r"of 1 classes \(only 'ant'\)"),
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_what_is_wrong_is_named_with_its_shard(problem: str, tmp_path: Path) -> None:
    members, message = PROBLEMS[problem]
    (tmp_path / "classnames.txt").write_text("wasp\nant\nbee\n", encoding="utf-8")
    spec = str(write(tmp_path / "a.tar", members))
    with pytest.raises(ValueError, match=message) as caught:
        find_data(spec)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "mode"),
    [("a.tar", "w:gz"), ("a.tar", "w:xz"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz")],
)
def test_compressed_shards_are_refused_with_the_way_out(
    name: str, mode: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=rf"(?s){name} .*tar file.*\nhint: .*unpacked"):
        find_data(compressed(tmp_path, name, mode))


@pytest.mark.parametrize("behind", [100, 600, 5120])
@pytest.mark.parametrize("member", ["0.cls", "0.png", "1.png"])
def test_a_truncated_shard_is_named(member: str, behind: int, tmp_path: Path) -> None:
    content = b"x" * 9000  # so that the shard may end within a header, or within an image
    members: dict[str, bytes | str] = {"0.cls": "ant", "0.png": content}
    members |= {"1.cls": "bee", "1.png": content}
    path = write(tmp_path / "a.tar", members)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(member.encode()) + behind])
    with pytest.raises(ValueError, match=r"a\.tar is no complete tar file"):
        find_data(str(path))


def test_a_text_that_calls_itself_tar_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_text("image,label\n" * 100, encoding="utf-8")
    with pytest.raises(ValueError, match=r"a\.tar is no complete tar file"):
        find_data(str(tmp_path / "a.tar"))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("none.tar", r"no data at .*none\.tar'\nhint: give "),
        ("train-{0..3}.tar", r"2 of 4 shards are missing: train-1\.tar, train-3\.tar"),
        ("nowhere/{00..99}.tar", r"100 of 100 shards are missing: 00\.tar, 01\.tar, 02\.tar"),
        ("train-{3..0}.tar", r"train-\{3\.\.0\}\.tar.*\nhint: .*first"),
    ],
)
def test_missing_shards_are_named(spec: str, message: str, tmp_path: Path) -> None:
    for number in (0, 2):
        write(tmp_path / f"train-{number}.tar", samples(["ant", "bee"]))
    with pytest.raises(ValueError, match=message):
        find_data(str(tmp_path / spec))


def test_a_shard_that_shrinks_or_goes_away_later_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tar", samples(["ant", "bee"]))
    train = find_data(str(path))["train"]
    path.write_bytes(path.read_bytes()[:1100])
    with pytest.raises(ImageError, match=r"a\.tar/000001\.png cannot be decoded: .*truncated"):
        train.read(1)
    path.unlink()
    with pytest.raises(ImageError, match=r"no such image: a\.tar/000000\.png"):
        train.read(0)


def test_the_fingerprint_is_of_names_and_sizes(tmp_path: Path) -> None:
    members = samples(["ant", "bee"])
    first = find_data(str(write(tmp_path / "1" / "a.tar", members)))["train"].fingerprint()
    again = find_data(str(write(tmp_path / "2" / "a.tar", members)))["train"].fingerprint()
    members["000001.png"] = png(2)
    other = find_data(str(write(tmp_path / "3" / "a.tar", members)))["train"].fingerprint()
    assert first == again != other


def test_more_shards_than_a_process_may_open_files_are_read_by_many_threads(
    tmp_path: Path,
) -> None:
    resource = pytest.importorskip("resource")
    first = write(tmp_path / "000.tar", samples(["ant", "bee"]))
    for number in range(1, 120):
        shutil.copy(first, tmp_path / f"{number:03}.tar")
    train = find_data(str(tmp_path))["train"]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, hard))
    try:
        with ThreadPoolExecutor(8) as pool:
            images = list(pool.map(train.read, range(len(train))))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert isinstance(train.images, TarImages)
    assert [image.width for image in images] == [4, 5] * 120


def test_worker_processes_see_the_same_bits(tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / f"{number}.tar", samples(["ant", "bee"] * 4, first=8 * number))
    train = find_data(str(tmp_path))["train"]
    train.read(3)  # whatever this process has opened must not disturb the workers

    def batches(workers: int) -> list[dict[str, Any]]:
        recipe = Recipe(
            data=DataSettings(batch_size=5, workers=workers),
            augment=Augment(crop_scale=(0.5, 1.0), flip=0.5),
        )
        prepare = Preprocessing(size=(8, 8))
        device = torch.device("cpu")
        return list(train_batches(train, prepare, recipe, start=2, stop=8, device=device))

    for alone, worked in zip(batches(0), batches(2), strict=True):
        assert torch.equal(alone["image"], worked["image"])
        assert torch.equal(alone["label"], worked["label"])
