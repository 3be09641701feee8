"""From files of any kind to plain tensors; nothing in a file is ever run."""

import json
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tessera.checkpoint.rules import CheckpointError, State

SUFFIXES = (".safetensors", ".npz", ".pth", ".pt", ".bin")

FOLDER_FILES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
"""Where a folder of transformers or timm keeps its weights, best first."""

CONTAINERS = ("model", "state_dict", "teacher", "model_state_dict", "model_ema", "module")
"""Under which keys training scripts put the weights, likeliest first."""

PREFIXES = ("module.", "_orig_mod.", "model.", "encoder.")
"""Beginnings that wrappers give to every name."""

AGAIN = "hint: it may be cut off; copy or download it again"


def read_tensors(path: Path) -> State:
    """Read every tensor of a file, with the beginnings that wrappers add taken off.

    Raises:
        CheckpointError: The file is truncated, no checkpoint, or would have to run code.
    """
    _refuse_failed_download(path)
    match path.suffix:
        case ".safetensors":
            tensors = _read_safetensors(path)
        case ".json":
            tensors = _read_shards(path)
        case ".npz":
            tensors = _read_npz(path)
        case ".pth" | ".pt" | ".bin":
            tensors = _read_pickle(path)
        case _:
            raise CheckpointError(
                f"{path} is no checkpoint by its name\nhint: known are {', '.join(SUFFIXES)}"
            )
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors\nhint: give the file that has the weights")
    return strip(tensors)


def find_weights(folder: Path) -> Path | None:
    """Return the file that a folder keeps its weights in, if it has one."""
    return next((folder / name for name in FOLDER_FILES if (folder / name).is_file()), None)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object, empty where there is no file.

    Raises:
        CheckpointError: It is no JSON object.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is no JSON: {error}\n{AGAIN}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no JSON object\n{AGAIN}")
    return found


def strip(tensors: State) -> State:
    """Take off the beginnings that all names share."""
    while prefix := next((p for p in PREFIXES if all(n.startswith(p) for n in tensors)), None):
        tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _refuse_failed_download(path: Path) -> None:
    """A failed download is often a web page under the name of the file that was wanted."""
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise CheckpointError(f"{path} is empty\nhint: the download failed; repeat it")
    start = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()  # a byte order mark
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<!--")):
        raise CheckpointError(
            f"{path} is a web page, not a checkpoint\nhint: the download failed; repeat it"
        )
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            f"{path} is a pointer to a large file, not the file\nhint: fetch it with `git lfs pull`"
        )


def _read_safetensors(path: Path) -> State:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path} is no complete safetensors file: {error}\n{AGAIN}"
        ) from error


def _read_shards(path: Path) -> State:
    names = read_json(path).get("weight_map")
    if not isinstance(names, dict):
        raise CheckpointError(f"{path} is no index of safetensors shards")
    tensors: State = {}
    for shard in sorted({str(name) for name in names.values()}):
        if Path(shard).name != shard:
            raise CheckpointError(f"{path} names a shard outside its folder: {shard}")
        file = path.parent / shard
        if not file.is_file():
            raise CheckpointError(f"{path} names a shard that is missing: {shard}\nhint: fetch it")
        _refuse_failed_download(file)
        tensors.update(_read_safetensors(file))
    return tensors


def _read_npz(path: Path) -> State:
    try:
        # Opened here, because numpy leaves a file open that turns out to be no archive.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            return {name: torch.from_numpy(np.array(file[name])) for name in file.files}
    except Exception as error:  # of many kinds, from zipfile, zlib and numpy
        if "allow_pickle" in str(error):
            raise CheckpointError(
                f"{path} holds more than arrays, and Tessera runs no code from a file\n"
                "hint: save it anew, without arrays of objects"
            ) from error
        raise CheckpointError(
            f"{path} is no complete .npz file of arrays: {_reason(error)}\n{AGAIN}"
        ) from error


def _read_pickle(path: Path) -> State:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a pickle that is not torch's own
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of any kind: damaged bytes are read as instructions
        if asked := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path} holds more than tensors ({asked[1]}), and Tessera runs no code from a "
                "file\nhint: get the weights as safetensors, or save only the state dict"
            ) from error
        what = "" if isinstance(error, pickle.UnpicklingError) else f": {_reason(error)}"
        raise CheckpointError(
            f"{path} is no complete PyTorch file of plain tensors{what}\n"
            f"{AGAIN}, or get the weights as safetensors"
        ) from error
    return _unwrap(found, path)


def _unwrap(found: object, path: Path) -> State:
    """Find the state dict inside what a training script saved."""
    if isinstance(found, Mapping):
        for key in CONTAINERS:
            if isinstance(found.get(key), Mapping):
                return _unwrap(found[key], path)
        tensors = {str(k): v.detach() for k, v in found.items() if isinstance(v, Tensor)}
        if tensors:
            return tensors
        keys = ", ".join(sorted(map(str, found))[:8]) or "nothing"
        raise CheckpointError(
            f"{path} holds no tensors under a known name: it has {keys}\n"
            f"hint: save a state dict, bare or under one of {', '.join(CONTAINERS)}"
        )
    raise CheckpointError(
        f"{path} holds a {type(found).__name__}, not a dict of tensors\n"
        "hint: save model.state_dict()"
    )


def _reason(error: Exception) -> str:
    """Return the first sentence; what follows is advice to users of the library below."""
    return str(error).partition(". ")[0].partition("\n")[0] or type(error).__name__
