"""Published weights as records, and how a file of them comes here."""

import hashlib
import logging
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url
from huggingface_hub import try_to_load_from_cache as cached_file
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from tessera.checkpoint.rules import CheckpointError
from tessera.data.preprocessing import Preprocessing
from tessera.errors import RunError

logger = logging.getLogger("tessera")

FILE = "model.safetensors"
HTTP_ERROR: type[Exception] = HfHubHTTPError.__bases__[0]
"""What the hub's HTTP library raises when nobody answers; which library differs by version."""

AGAIN = "hint: try again, check the network and HF_ENDPOINT, or give a file"
NUMBER = re.compile(r"\d+ Client Error\.")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Weights:
    """A published file: the record is its model card."""

    name: str
    """``<model>.<tag>``, in timm's spelling."""
    family: str
    source: str
    """Repository on the Hugging Face hub."""
    preprocessing: Preprocessing
    num_classes: int
    """0 where the file has no head."""
    parameters: int
    license: str
    license_source: str
    paper: str
    trained_on: str
    metrics: dict[str, float] = field(default_factory=dict)
    """Percent, as their source states them."""
    metrics_source: str = ""

    @property
    def architecture(self) -> str:
        """The model, without the tag."""
        return self.name.partition(".")[0]


@cache
def published() -> dict[str, Weights]:
    """Return every record by name."""
    text = (files("tessera.checkpoint") / "weights.toml").read_text(encoding="utf-8")
    return {record.name: record for record in _records(tomllib.loads(text))}


def record_of(path: Path) -> Weights | None:
    """Return the record whose name a file or folder bears: ``<model>.<tag>.safetensors``."""
    known = published()
    return known.get(path.name) or known.get(path.stem)


def fetch(weights: Weights, *, offline: bool = False) -> Path:
    """Return the file, from the cache or, announced with size and licence, from the hub.

    Its SHA-256 must be the one that the hub states; the cache keeps the file under that name, so
    later uses check it again without asking anybody.

    Raises:
        CheckpointError: It is not in the cache and may not be fetched, or is not what it should be.
        RunError: The hub cannot be reached, or breaks off.
    """
    found = cached_file(weights.source, FILE)
    if isinstance(found, str):
        return _verified(Path(found), weights)
    if offline or constants.HF_HUB_OFFLINE:
        raise CheckpointError(
            f"{weights.name} is not in the cache, and fetching is off\n"
            "hint: run once without --offline and HF_HUB_OFFLINE, or give a file"
        )
    try:
        metadata = get_hf_file_metadata(hf_hub_url(weights.source, FILE))
        size = f"{metadata.size / 1e6:.0f} MB" if metadata.size else "of unknown size"
        logger.warning(
            "fetching %s: %s, licence %s, from %s",
            *(weights.name, size, weights.license, weights.source),
        )
        path = Path(hf_hub_download(weights.source, FILE))
    except (HTTP_ERROR, LocalEntryNotFoundError, HFValidationError) as error:
        what = f"{FILE} of {weights.source} cannot be fetched"
        raise RunError(f"{what}: {_reason(error)}\n{AGAIN}") from error
    except (OSError, RuntimeError) as error:  # broken connections, full disks; the latter is Xet's
        raise RunError(f"fetching {weights.source} broke off: {_reason(error)}\n{AGAIN}") from error
    return _verified(path, weights, metadata.etag or "")


def is_cached(weights: Weights) -> bool:
    """Whether the file is here already."""
    return isinstance(cached_file(weights.source, FILE), str)


def _verified(path: Path, weights: Weights, stated: str = "") -> Path:
    """Compare the content with the hash that the hub stated, which is its name in the cache.

    A cache without links, as on Windows, has no such name: then only a download is compared.
    """
    if path.is_symlink():  # one step only: what it leads to may lead on to a store of other names
        stated = path.readlink().name
    if not SHA256.fullmatch(stated):
        return path  # a cache that was filled by hand, or is without links
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != stated:
        _remove(path)
        raise CheckpointError(
            f"{weights.name} is not the file that the hub states: SHA-256 {digest.hexdigest()}, "
            f"not {stated}\nhint: it has been removed from the cache; fetch it again"
        )
    return path


def _remove(path: Path) -> None:
    """Remove a file, and before it whatever it is a link to."""
    if path.is_symlink():
        _remove(path.parent / path.readlink())
    path.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """Return what went wrong, in a line; the hub first says a number, and then what it means."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and NUMBER.match(lines[0]):
        lines = lines[1:]
    return lines[0].rstrip(".") if lines else type(error).__name__


def _records(tree: dict[str, Any]) -> Iterator[Weights]:
    for family in tree["family"]:
        for row in family["weights"]:
            size = int(row["img_size"])
            yield Weights(
                name=row["name"],
                family=family["name"],
                source=row["source"],
                preprocessing=Preprocessing(
                    size=(size, size),
                    crop=family["crop"],
                    crop_pct=float(row["crop_pct"]),
                    mean=tuple(row["mean"]),
                    std=tuple(row["std"]),
                ),
                num_classes=row["num_classes"],
                parameters=row["parameters"],
                license=family["license"],
                license_source=family["license_source"],
                paper=family["paper"],
                trained_on=family["trained_on"],
                metrics={k: float(v) for k, v in row.get("metrics", {}).items()},
                metrics_source=row.get("metrics_source", ""),
            )
