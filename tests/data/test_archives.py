"""CIFAR and MNIST as their authors publish them: every pixel and label, or what is wrong."""

import gzip
import io
import os
import pickle
import shutil
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from tessera.data.sources import find_data
from tessera.data.splits import DataSplits
from tessera.data.stored import ImageArrays

BATCHES = (*(f"data_batch_{k}" for k in range(1, 6)), "test_batch")
CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship"]
CIFAR10 += ["truck"]
FINE = [f"fine {k:02}" for k in range(100)]
EACH = 10
"""Images of every file, one a class; the real ones have 10,000."""


class Python2Pickler(pickle._Pickler):
    """Writes bytes and text as Python 2 wrote strings, which is how CIFAR is published."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_string(self, value: bytes | str) -> None:
        data = value if isinstance(value, bytes) else value.encode("ascii")
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)  # type: ignore[attr-defined]
        self.memoize(value)  # type: ignore[attr-defined]

    dispatch[bytes] = dispatch[str] = save_string


def python2(value: Any) -> bytes:
    """Pickle by protocol 2 as numpy 1 on Python 2 did: with its paths, and 0 and 1 for truth."""
    file = io.BytesIO()
    Python2Pickler(file, 2).dump(value)
    data = file.getvalue().replace(b"numpy._core.", b"numpy.core.")
    truth = pickle.NEWFALSE + pickle.NEWTRUE + pickle.TUPLE3
    return data.replace(truth, b"K\0K\1" + pickle.TUPLE3, 1)


def python3(value: Any) -> bytes:
    """Pickle as somebody may have saved it again."""
    return pickle.dumps(value, protocol=2)


def rows(number: int) -> np.ndarray:
    """The pixels of a file: red, green and blue planes in a row each."""
    return np.random.default_rng(number).integers(0, 256, (EACH, 3072), dtype=np.uint8)


def labels(number: int) -> list[int]:
    return np.random.default_rng(100 + number).permutation(EACH).tolist()


PY, BIN = "cifar-10-batches-py", "cifar-10-batches-bin"


def cifar10_python(dump: Callable[[Any], bytes] = python2) -> dict[str, bytes]:
    files = {"batches.meta": dump({b"label_names": [n.encode() for n in CIFAR10]})}
    for k, name in enumerate(BATCHES):
        files[name] = dump({b"data": rows(k), b"labels": labels(k), b"batch_label": b"some"})
    return {f"{PY}/{name}": data for name, data in files.items()}


def cifar10_binary() -> dict[str, bytes]:
    files = {"batches.meta.txt": "\n".join([*CIFAR10, ""]).encode()}
    for k, name in enumerate(BATCHES):
        column = np.array(labels(k), dtype=np.uint8)[:, None]
        files[f"{name}.bin"] = np.concatenate([column, rows(k)], axis=1).tobytes()
    return {f"{BIN}/{name}": data for name, data in files.items()}


def fine_labels(split: int) -> np.ndarray:
    """All hundred classes, ten times each for training and once for testing."""
    return np.random.default_rng(split).permutation(np.arange(1000 if split == 0 else 100) % 100)


def cifar100_rows(split: int) -> np.ndarray:
    count = len(fine_labels(split))
    return np.random.default_rng(50 + split).integers(0, 256, (count, 3072), dtype=np.uint8)


def cifar100_python() -> dict[str, bytes]:
    files = {"meta": python2({b"fine_label_names": [n.encode() for n in FINE]})}
    for k, name in enumerate(("train", "test")):
        fine = fine_labels(k)
        batch = {b"data": cifar100_rows(k), b"fine_labels": fine.tolist()}
        files[name] = python2({**batch, b"coarse_labels": (fine // 5).tolist()})
    return {f"cifar-100-python/{name}": data for name, data in files.items()}


def cifar100_binary() -> dict[str, bytes]:
    files = {"fine_label_names.txt": "\n".join([*FINE, ""]).encode()}
    for k, name in enumerate(("train", "test")):
        fine = fine_labels(k).astype(np.uint8)[:, None]
        files[f"{name}.bin"] = np.concatenate([fine // 5, fine, cifar100_rows(k)], 1).tobytes()
    return {f"cifar-100-binary/{name}": data for name, data in files.items()}


def unpacked(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def packed(path: Path, files: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz", compresslevel=1) as file:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))
    return path


def pixels(data: DataSplits, split: str) -> np.ndarray:
    images = data[split].images
    assert isinstance(images, ImageArrays)
    return images.pixels[data[split].rows]


def planes(values: np.ndarray) -> np.ndarray:
    """Where the red, green and blue value of every pixel lie: at 0, 1024 and 2048 of a row."""
    place = np.arange(1024).reshape(32, 32)
    return np.stack([values[:, place], values[:, 1024 + place], values[:, 2048 + place]], axis=-1)


FORMS = {
    "cifar10": (cifar10_python, cifar10_binary),
    "cifar100": (cifar100_python, cifar100_binary),
}
PACKED = {
    cifar10_python: "cifar-10-python.tar.gz",
    cifar10_binary: "cifar-10-binary.tar.gz",
    cifar100_python: "cifar-100-python.tar.gz",
    cifar100_binary: "cifar-100-binary.tar.gz",
}


@pytest.mark.parametrize("where", ["archive", "beside", "folder", "inside"])
@pytest.mark.parametrize("form", [0, 1], ids=["python", "binary"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_every_pixel_and_label_of_cifar(name: str, form: int, where: str, tmp_path: Path) -> None:
    make = FORMS[name][form]
    if where in ("archive", "beside"):
        path = packed(tmp_path / PACKED[make], make())
        path = path if where == "archive" else tmp_path
    else:
        path = unpacked(tmp_path, make())
        path = path if where == "folder" else next(path.iterdir())
    data = find_data(f"{name}:{path}")
    assert list(data.splits) == ["train", "test"]
    assert data.notes == ()
    if name == "cifar10":
        wanted = np.concatenate([rows(k) for k in range(5)]), rows(5)
        numbers = [n for k in range(5) for n in labels(k)], labels(5)
        assert data.class_names == tuple(CIFAR10)
    else:
        wanted = cifar100_rows(0), cifar100_rows(1)
        numbers = fine_labels(0).tolist(), fine_labels(1).tolist()
        assert data.class_names == tuple(FINE)
    for k, split in enumerate(("train", "test")):
        np.testing.assert_array_equal(pixels(data, split), planes(wanted[k]))
        assert data[split].labels.tolist() == numbers[k]
        assert data[split].labels.dtype == np.int64
        assert data[split].name(3) == f"{name}/{split}/3"
        image = data[split].read(3)
        assert (image.mode, image.size) == ("RGB", (32, 32))


def test_batches_that_were_pickled_again_are_read(tmp_path: Path) -> None:
    files = cifar10_python(python3)
    arrays = {b"data": np.asfortranarray(rows(5)), b"labels": np.array(labels(5), np.int16)}
    files[f"{PY}/test_batch"] = pickle.dumps(arrays, protocol=3)
    again = find_data(f"cifar10:{unpacked(tmp_path, files)}")
    for split, number in (("train", 0), ("test", 5)):
        np.testing.assert_array_equal(pixels(again, split)[:EACH], planes(rows(number)))
        assert again[split].labels[:EACH].tolist() == labels(number)


def test_a_folder_wins_over_an_archive_of_another_form(tmp_path: Path) -> None:
    unpacked(tmp_path, cifar10_binary())
    packed(tmp_path / "cifar-10-python.tar.gz", cifar10_python())
    assert len(find_data(f"cifar10:{tmp_path}")["train"]) == 5 * EACH


def idx(values: np.ndarray) -> bytes:
    """LeCun's format."""
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    return head + values.astype(np.uint8).tobytes()


def mnist(classes: int = 10) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": rng.integers(0, 256, (30, 28, 28)),
        "train-labels-idx1-ubyte": rng.permutation(np.arange(30) % classes),
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (20, 28, 28)),
        "t10k-labels-idx1-ubyte": rng.permutation(np.arange(20) % classes),
    }


def write_mnist(folder: Path, values: dict[str, np.ndarray], *, zipped: bool = False) -> Path:
    files = {name: idx(array) for name, array in values.items()}
    if zipped:
        files = {f"{name}.gz": gzip.compress(data) for name, data in files.items()}
    return unpacked(folder, files)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("below", ["", "raw", "MNIST/raw"])
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_every_pixel_and_label_of_mnist(
    name: str, below: str, zipped: bool, tmp_path: Path
) -> None:
    values = mnist()
    write_mnist(tmp_path / below, values, zipped=zipped)
    data = find_data(f"{name}:{tmp_path}")
    for split, prefix in (("train", "train"), ("test", "t10k")):
        np.testing.assert_array_equal(pixels(data, split), values[f"{prefix}-images-idx3-ubyte"])
        np.testing.assert_array_equal(data[split].labels, values[f"{prefix}-labels-idx1-ubyte"])
    assert data["test"].read(0).mode == "L"
    words = data.class_names
    assert words[9] == ("9" if name == "mnist" else "Ankle boot")
    assert words[0] == ("0" if name == "mnist" else "T-shirt/top")
    assert len(words) == 10


def test_file_names_with_a_dot_are_known_too(tmp_path: Path) -> None:
    write_mnist(tmp_path, {n.replace("-idx", ".idx"): v for n, v in mnist().items()})
    assert len(find_data(f"mnist:{tmp_path}")["train"]) == 30


def test_letters_in_the_format_of_mnist_have_as_many_classes_as_labels(tmp_path: Path) -> None:
    data = find_data(f"mnist:{write_mnist(tmp_path, mnist(classes=13))}")
    assert data.class_names == tuple(str(k) for k in range(13))


Files = dict[str, bytes]
MNIST_FILES = {name: idx(array) for name, array in mnist().items()}
LABEL_10 = python2({b"data": rows(0), b"labels": [10] * EACH})
NINE_LABELS = python2({b"data": rows(0), b"labels": labels(0)[:9]})
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
NO_IDX = "is no idx file of bytes"

# Files of the archive; what is put in their place, None for nothing; what must be said.
DAMAGES: dict[str, tuple[str, Files, str, bytes | None, str]] = {
    "cifar: no batch": (
        "cifar10",
        cifar10_python(),
        f"{PY}/data_batch_3",
        None,
        r"has no data_batch_3\nhint: cifar10:.* or cifar-10-python\.tar\.gz",
    ),
    "cifar: no first batch": (
        "cifar10",
        cifar10_python(),
        f"{PY}/data_batch_1",
        None,
        r"has no data_batch_1 and no data_batch_1\.bin\nhint: ",
    ),
    "cifar: no names": (
        "cifar10",
        cifar10_python(),
        f"{PY}/batches.meta",
        None,
        "has no batches.meta\nhint: ",
    ),
    "cifar: no binary names": (
        "cifar10",
        cifar10_binary(),
        f"{BIN}/batches.meta.txt",
        None,
        "has no batches.meta.txt\nhint: ",
    ),
    "cifar: half a batch": (
        "cifar10",
        cifar10_python(),
        f"{PY}/test_batch",
        cifar10_python()[f"{PY}/test_batch"][:9999],
        "test_batch is no CIFAR file: ",
    ),
    "cifar: an empty batch": (
        "cifar10",
        cifar10_python(),
        f"{PY}/test_batch",
        b"",
        "test_batch is no CIFAR file: ",
    ),
    "cifar: a text": (
        "cifar10",
        cifar10_python(),
        f"{PY}/test_batch",
        b"<html>404</html>",
        "test_batch is no CIFAR file: ",
    ),
    "cifar: a list": (
        "cifar10",
        cifar10_python(),
        f"{PY}/test_batch",
        python2([1, 2]),
        "test_batch is no CIFAR file: it holds no dictionary",
    ),
    "cifar: other keys": (
        "cifar10",
        cifar10_python(),
        f"{PY}/test_batch",
        python2({b"data": rows(0), b"fine_labels": labels(0)}),
        "test_batch is no CIFAR file: .*labels",
    ),
    "cifar: names without names": (
        "cifar10",
        cifar10_python(),
        f"{PY}/batches.meta",
        python2({b"num_vis": 3072}),
        "batches.meta is no CIFAR file: .*label_names",
    ),
    "cifar: pixels of another size": (
        "cifar10",
        cifar10_python(),
        f"{PY}/data_batch_2",
        python2({b"data": rows(0)[:, :3000], b"labels": labels(0)}),
        "data_batch_2 is no CIFAR file: .*reshape",
    ),
    "cifar: too few labels": (
        "cifar10",
        cifar10_python(),
        f"{PY}/data_batch_2",
        NINE_LABELS,
        "labels of the train split do not fit its 50 images and 10 class names",
    ),
    "cifar: a label beyond the names": (
        "cifar10",
        cifar10_python(),
        f"{PY}/test_batch",
        LABEL_10,
        "labels of the test split do not fit its 10 images and 10 class names",
    ),
    "cifar: a binary of another size": (
        "cifar10",
        cifar10_binary(),
        f"{BIN}/test_batch.bin",
        bytes(3073 * 2 + 5),
        "test_batch.bin has 6151 bytes, no multiple of 3073",
    ),
    "cifar: an empty binary": (
        "cifar10",
        cifar10_binary(),
        f"{BIN}/test_batch.bin",
        b"",
        "test_batch.bin has 0 bytes",
    ),
    "cifar100: ten for a hundred": (
        "cifar100",
        cifar10_python(),
        f"{PY}/nothing",
        None,
        r"has no train and no train\.bin\nhint: .*cifar-100-python",
    ),
    "mnist: no labels": (
        "mnist",
        MNIST_FILES,
        TRAIN_LABELS,
        None,
        "has no train-labels-idx1-ubyte\nhint: ",
    ),
    "mnist: half the pixels": (
        "mnist",
        MNIST_FILES,
        TRAIN_IMAGES,
        MNIST_FILES[TRAIN_IMAGES][: 16 + 15 * 784],
        "train-images-idx3-ubyte should hold 23520 bytes, and holds 11760",
    ),
    "mnist: too many labels": (
        "mnist",
        MNIST_FILES,
        TRAIN_LABELS,
        idx(np.zeros(31)),
        "30 train images, but 31 labels",
    ),
    "mnist: a text": ("mnist", MNIST_FILES, TRAIN_IMAGES, b"<html>404</html>", NO_IDX),
    "mnist: nothing": ("mnist", MNIST_FILES, TRAIN_IMAGES, b"", NO_IDX),
    "mnist: half a head": ("mnist", MNIST_FILES, TRAIN_IMAGES, b"\0\0\x08\x03\0\0", NO_IDX),
    "mnist: floats": (
        "mnist",
        MNIST_FILES,
        TRAIN_IMAGES,
        b"\0\0\x0d\x03" + bytes(12),
        NO_IDX,
    ),
    "mnist: labels for images": (
        "mnist",
        MNIST_FILES,
        TRAIN_IMAGES,
        MNIST_FILES[TRAIN_LABELS],
        "train-images-idx3-ubyte has 1 dimensions, and 3 are wanted",
    ),
    "mnist: no images at all": (
        "mnist",
        {**MNIST_FILES, TRAIN_LABELS: idx(np.zeros(0))},
        TRAIN_IMAGES,
        idx(np.zeros((0, 28, 28))),
        "train split .*0 images",
    ),
    "fashion: a label beyond the names": (
        "fashion-mnist",
        MNIST_FILES,
        TRAIN_LABELS,
        idx(np.arange(30)),
        "labels of the train split do not fit its 30 images and 10 class names",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_is_named_with_its_file(damage: str, tmp_path: Path) -> None:
    name, files, file, content, message = DAMAGES[damage]
    unpacked(tmp_path, files)
    (tmp_path / file).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        find_data(f"{name}:{tmp_path}")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("damage", ["truncated", "text", "empty", "flipped"])
def test_a_broken_archive_is_named(damage: str, tmp_path: Path) -> None:
    file = packed(tmp_path / "cifar-10-python.tar.gz", cifar10_python())
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    contents = {"truncated": whole[: len(whole) // 2], "text": b"<html>", "empty": b""}
    file.write_bytes(contents.get(damage, bytes(flipped)))
    for spec in (tmp_path, file):
        with pytest.raises(ValueError, match=r"cifar-10-python\.tar\.gz is no complete archive"):
            find_data(f"cifar10:{spec}")


@pytest.mark.parametrize("damage", ["truncated", "text", "empty"])
def test_a_broken_gzip_file_is_named(damage: str, tmp_path: Path) -> None:
    write_mnist(tmp_path, mnist(), zipped=True)
    file = tmp_path / f"{TRAIN_IMAGES}.gz"
    whole = file.read_bytes()
    file.write_bytes({"truncated": whole[:-100], "text": b"<html>", "empty": b""}[damage])
    with pytest.raises(ValueError, match=rf"{TRAIN_IMAGES}(\.gz)? is no (complete gzip|idx) file"):
        find_data(f"mnist:{tmp_path}")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "mnist", "fashion-mnist"])
def test_no_such_folder_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"no data at .*nowhere\nhint: give {name}:FOLDER"):
        find_data(f"{name}:{tmp_path / 'nowhere'}")
    with pytest.raises(ValueError, match=r"has no .*\nhint: "):
        find_data(f"{name}:{tmp_path}")


class Runs:
    """Pickled, it asks for a command to be run."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("where", ["test_batch", "batches.meta"])
def test_a_pickle_that_asks_for_a_command_is_refused_and_the_command_is_not_run(
    where: str, protocol: int, tmp_path: Path
) -> None:
    proof = tmp_path / "proof"
    evil = pickle.dumps({b"data": Runs(os.system, f"touch {proof}")}, protocol=protocol)
    unpacked(tmp_path / "data", {**cifar10_python(), f"{PY}/{where}": evil})
    with pytest.raises(ValueError, match=rf"{where} is no CIFAR file: it asks for .*system"):
        find_data(f"cifar10:{tmp_path / 'data'}")
    assert not proof.exists()
    pickle.loads(evil)  # that it would have been run, had it been read carelessly
    assert proof.exists()


@pytest.mark.parametrize(
    ("function", "arguments"),
    [(eval, ("1",)), (getattr, (1, "real")), (np.load, ("a",)), (shutil.rmtree, ("/nowhere",))],
)
def test_no_other_function_is_called_either(
    function: Callable[..., Any], arguments: tuple[Any, ...], tmp_path: Path
) -> None:
    evil = pickle.dumps({b"data": Runs(function, *arguments)}, protocol=2)
    unpacked(tmp_path, {**cifar10_python(), f"{PY}/test_batch": evil})
    with pytest.raises(ValueError, match=r"it asks for .*, which is not data"):
        find_data(f"cifar10:{tmp_path}")


def test_a_damaged_pickle_is_refused_whatever_the_damage(tmp_path: Path) -> None:
    batch = {b"data": rows(0)[:, :3072:48], b"labels": labels(0)}
    whole = python2(batch)
    rng = np.random.default_rng(0)
    unpacked(tmp_path, cifar10_python())
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for place in rng.integers(0, len(damaged), 3):
            damaged[place] = rng.integers(256)
        (tmp_path / PY / "test_batch").write_bytes(damaged)
        with pytest.raises(ValueError, match=r"test_batch is no CIFAR file|do not fit"):
            find_data(f"cifar10:{tmp_path}")
        refused += 1
    assert refused == 300  # the pixels are too few in any case
