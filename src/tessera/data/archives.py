"""Standard data sets as their authors publish them: CIFAR, MNIST and its kin, and the digits."""

import gzip
import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tessera.data.dataset import Dataset
from tessera.data.splits import DataSplits, stratified_split, unite
from tessera.data.stored import ImageArrays

DIGITS_TEST_FRACTION = 0.2
"""The share of the handwritten digits that training never sees."""

FASHION = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


def read_digits(spec: str) -> DataSplits:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels (Alpaydin and Kaynak, 1998)."""
    from sklearn.datasets import load_digits  # slow to import, and only wanted here

    raw = load_digits()
    pixels = (raw.images * (255 / 16)).round().astype(np.uint8)  # 17 levels to bytes
    labels = raw.target.astype(np.int64)
    names = tuple(str(name) for name in raw.target_names)
    whole = Dataset(ImageArrays(pixels, "digits/"), np.arange(len(labels)), labels, names)
    rest, test = stratified_split(labels, DIGITS_TEST_FRACTION)
    return DataSplits(spec, {"train": whole.subset(rest), "test": whole.subset(test)})


def read_cifar10(spec: str) -> DataSplits:
    """CIFAR-10 (Krizhevsky, 2009): its python or its binary archive, packed or unpacked."""
    files = _Files(spec, "cifar-10-python.tar.gz", "cifar-10-binary.tar.gz")
    train = [f"data_batch_{k}" for k in range(1, 6)]
    if files.form("data_batch_1", "data_batch_1.bin") == 0:
        names = _pickled_names(files, "batches.meta", b"label_names")
        parts = {
            "train": [_python_batch(files, name, b"labels") for name in train],
            "test": [_python_batch(files, "test_batch", b"labels")],
        }
    else:
        names = _listed_names(files, "batches.meta.txt")
        parts = {
            "train": [_binary_batch(files, f"{name}.bin", 1) for name in train],
            "test": [_binary_batch(files, "test_batch.bin", 1)],
        }
    return unite(spec, {n: _arrays(spec, n, batches, names) for n, batches in parts.items()})


def read_cifar100(spec: str) -> DataSplits:
    """CIFAR-100 (Krizhevsky, 2009) with its 100 fine classes."""
    files = _Files(spec, "cifar-100-python.tar.gz", "cifar-100-binary.tar.gz")
    if files.form("train", "train.bin") == 0:
        names = _pickled_names(files, "meta", b"fine_label_names")
        parts = {n: [_python_batch(files, n, b"fine_labels")] for n in ("train", "test")}
    else:
        names = _listed_names(files, "fine_label_names.txt")
        parts = {n: [_binary_batch(files, f"{n}.bin", 2)] for n in ("train", "test")}
    return unite(spec, {n: _arrays(spec, n, batches, names) for n, batches in parts.items()})


def read_mnist(spec: str) -> DataSplits:
    """MNIST (LeCun et al., 1998) or a set in its format: four idx files, packed or not."""
    files = _Files(spec)
    parts = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = _idx(files, f"{prefix}-images-idx3-ubyte", 3)
        labels = _idx(files, f"{prefix}-labels-idx1-ubyte", 1).astype(np.int64)
        if len(images) != len(labels):
            raise ValueError(f"{spec}: {len(images)} {split} images, but {len(labels)} labels")
        parts[split] = [(images, labels)]
    fashion = spec.startswith("fashion")
    count = int(max(labels.max(initial=0) for ((_, labels),) in parts.values())) + 1
    names = FASHION if fashion else tuple(str(k) for k in range(count))
    return unite(spec, {n: _arrays(spec, n, batches, names) for n, batches in parts.items()})


EMBEDDED: dict[str, Callable[[str], DataSplits]] = {"digits": read_digits}
"""What DATA may say alone."""

ARCHIVES: dict[str, Callable[[str], DataSplits]] = {
    "cifar10": read_cifar10,
    "cifar100": read_cifar100,
    "mnist": read_mnist,
    "fashion-mnist": read_mnist,
}
"""What DATA may say with a folder behind a colon."""


class _Files:
    """The files of an archive, whether it is packed, unpacked, or unpacked one folder deeper."""

    def __init__(self, spec: str, *packed: str) -> None:
        self.spec = spec
        self.root = Path(spec.partition(":")[2]).expanduser()
        if not self.root.exists():
            raise ValueError(f"no data at {self.root}\nhint: give {spec.partition(':')[0]}:FOLDER")
        self.archive: dict[str, bytes] = {}
        self.packed = packed
        archives = [self.root] if self.root.is_file() else [self.root / name for name in packed]
        found = next((path for path in archives if path.is_file()), None)
        self.paths = {} if self.root.is_file() else {p.name: p for p in self._below(self.root)}
        if found is not None:
            self._unpack(found)

    @staticmethod
    def _below(root: Path) -> Iterator[Path]:
        for pattern in ("*/*/*", "*/*", "*"):  # the nearest last, so that it wins
            yield from (path for path in root.glob(pattern) if path.is_file())

    def _unpack(self, path: Path) -> None:
        try:
            with tarfile.open(path) as file:
                for member in file:
                    stream = file.extractfile(member) if member.isfile() else None
                    if stream is not None:
                        self.archive[member.name.rpartition("/")[2]] = stream.read()
                while file.fileobj and file.fileobj.read(2**20):
                    pass  # to the end, where the checksum is
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise ValueError(f"{path} is no complete archive: {error}") from error

    def has(self, name: str) -> bool:
        return name in self.archive or name in self.paths

    def form(self, *names: str) -> int:
        """Return which of these files there is: each is of another form of the archive."""
        for number, name in enumerate(names):
            if self.has(name):
                return number
        raise self._lacks(" and no ".join(names))

    def read(self, name: str) -> bytes:
        if name in self.archive:
            return self.archive[name]
        if name in self.paths:
            return self.paths[name].read_bytes()
        raise self._lacks(name)

    def _lacks(self, name: str) -> ValueError:
        wanted = f"; or {', '.join(self.packed)}" if self.packed else ""
        return ValueError(
            f"{self.root} has no {name}\nhint: {self.spec} wants the files of the archive{wanted}"
        )


class _Pickled:
    """Stands in for an array or its type, since numpy's own trust whatever a pickle tells them."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        """Return what numpy would have made of it."""
        _, shape, kind, fortran, data = self.state
        code = kind.arguments[0]
        code = code.decode() if isinstance(code, bytes) else code
        return np.frombuffer(data, np.dtype(code)).reshape(shape, order="F" if fortran else "C")


PICKLED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Pickled,
    ("numpy._core.multiarray", "_reconstruct"): _Pickled,
    ("numpy", "ndarray"): _Pickled,
    ("numpy", "dtype"): _Pickled,
    ("_codecs", "encode"): lambda text, _: text.encode("latin-1"),
}
"""What CIFAR's pickles ask for, and what they get."""


class _PlainUnpickler(pickle.Unpickler):
    """Reads numbers, strings, lists, dictionaries and arrays; anything else is refused, not run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in PICKLED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is not data")
        return PICKLED[module, name]


def _unpickle(files: _Files, name: str) -> dict[bytes, Any]:
    data = files.read(name)
    try:
        value = _PlainUnpickler(io.BytesIO(data), encoding="bytes").load()
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(f"{files.root}: {name} is no CIFAR file: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{files.root}: {name} is no CIFAR file: it holds no dictionary")
    return value


def _python_batch(files: _Files, name: str, key: bytes) -> tuple[np.ndarray, np.ndarray]:
    batch = _unpickle(files, name)
    try:
        pixels, labels = (
            value.array() if isinstance(value, _Pickled) else np.asarray(value)
            for value in (batch[b"data"], batch[key])
        )
        return _planes(pixels.astype(np.uint8)), labels.astype(np.int64)
    except Exception as error:  # again whatever the damage leads to
        raise ValueError(f"{files.root}: {name} is no CIFAR file: {error!r}") from error


def _binary_batch(files: _Files, name: str, label_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of label bytes, the last of which counts, and 3,072 pixels."""
    data, width = files.read(name), label_bytes + 3072
    if not data or len(data) % width:
        raise ValueError(f"{files.root}: {name} has {len(data)} bytes, no multiple of {width}")
    rows = np.frombuffer(data, dtype=np.uint8).reshape(-1, width)
    return _planes(rows[:, label_bytes:]), rows[:, label_bytes - 1].astype(np.int64)


def _planes(rows: np.ndarray) -> np.ndarray:
    """Red, green and blue planes of 32x32 to pixels."""
    return np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _pickled_names(files: _Files, name: str, key: bytes) -> tuple[str, ...]:
    try:
        return tuple(word.decode() for word in _unpickle(files, name)[key])
    except (KeyError, AttributeError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"{files.root}: {name} is no CIFAR file: {error!r}") from error


def _listed_names(files: _Files, name: str) -> tuple[str, ...]:
    lines = files.read(name).decode(errors="replace").splitlines()
    return tuple(line.strip() for line in lines if line.strip())


def _idx(files: _Files, name: str, dimensions: int) -> np.ndarray:
    """Read LeCun's format: two zeros, type, dimensions, sizes in big-endian, bytes."""
    dotted = name.replace("-idx", ".idx")
    found = next((n for n in (name, dotted, f"{name}.gz", f"{dotted}.gz") if files.has(n)), name)
    data = files.read(found)
    try:
        data = gzip.decompress(data) if found.endswith(".gz") else data
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{files.root}: {found} is no complete gzip file: {error}") from error
    start = 4 + 4 * dimensions
    if len(data) < start or data[:3] != b"\0\0\x08":
        raise ValueError(f"{files.root}: {found} is no idx file of bytes")
    if data[3] != dimensions:
        raise ValueError(
            f"{files.root}: {found} has {data[3]} dimensions, and {dimensions} are wanted"
        )
    sizes = np.frombuffer(data, dtype=">u4", count=dimensions, offset=4).astype(int)
    if len(data) - start != int(np.prod(sizes)):
        raise ValueError(
            f"{files.root}: {found} should hold {int(np.prod(sizes))} bytes, "
            f"and holds {len(data) - start}"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=start).reshape(sizes)


def _arrays(
    spec: str, split: str, batches: list[tuple[np.ndarray, np.ndarray]], names: tuple[str, ...]
) -> Dataset:
    pixels = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([numbers for _, numbers in batches])
    fit = ((labels >= 0) & (labels < len(names))).all()
    if not len(pixels) or len(pixels) != len(labels) or not fit:
        raise ValueError(
            f"{spec}: labels of the {split} split do not fit its {len(pixels)} images "
            f"and {len(names)} class names"
        )
    images = ImageArrays(pixels, f"{spec.partition(':')[0]}/{split}/")
    return Dataset(images, np.arange(len(labels)), labels, names)
