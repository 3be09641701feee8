"""Published weights: what the records say, and how a file comes here, checked, and only once."""

import hashlib
import json
import os
import random
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hub_server import Hub
from huggingface_hub import constants, get_hf_file_metadata
from PIL import Image

import tessera.checkpoint.choose as choosing
from tessera.checkpoint.artifact import load_artifact
from tessera.checkpoint.load import load_model
from tessera.checkpoint.rules import CheckpointError, revert
from tessera.checkpoint.timm import TIMM
from tessera.checkpoint.weights import FILE, Weights, fetch, is_cached, published
from tessera.cli import main
from tessera.config import ViTConfig
from tessera.errors import RunError
from tessera.models.variants import parse
from tessera.models.vit import ViT, create_model

NAME = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
RECORD = published()[NAME]


@cache
def served() -> bytes:
    """A file of timm's layout, tiny but for a head that makes it 3 MB."""
    torch.manual_seed(0)
    model = create_model("vit_mu_patch8", num_classes=21_843, img_size=32)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    theirs = revert(state, TIMM.rules(asdict(model.config)), 1, zeros=TIMM.zeros)
    return safetensors.torch.save({name: t.contiguous() for name, t in theirs.items()})


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def damaged(content: bytes) -> bytes:
    """The same length, and one bit of one byte, in the middle of the tensors, another."""
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that has the weights, and an empty cache; the client's library waits for nothing."""
    with Hub() as hub:
        hub.repos[RECORD.source] = {FILE: served()}
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)  # which is HF_ENDPOINT at import
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_HOME", str(tmp_path))
        monkeypatch.setenv("NO_PROXY", "*")
        monkeypatch.setattr("time.sleep", lambda _: None)
        yield hub


def contents(folder: Path) -> set[bytes]:
    """Whatever lies there, under whatever name."""
    return {path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def nothing_is_left(cache: Path) -> bool:
    """Whether no part of any content is there, and nothing that a load would find."""
    return not is_cached(RECORD) and max(map(len, contents(cache)), default=0) < 1000


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What we said, and not the client's library."""
    return [record.getMessage() for record in caplog.records if record.name == "tessera"]


def run(hub: Hub, home: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run ``tessera`` as a user does who sets HF_ENDPOINT and HF_HOME."""
    known = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
    ours = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "NO_PROXY": "*", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "tessera", *words],
        env={**known, **ours, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


# Once, announced, and then never again ----------------------------------------------------------


ANNOUNCED = f"fetching {NAME}: 3 MB, licence Apache-2.0, from timm/{NAME}"


def test_a_file_is_fetched_once_and_announced_with_size_and_licence(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    assert fetch(RECORD).read_bytes() == served()
    assert messages(caplog) == [ANNOUNCED]
    assert hub.downloads == 1

    before = list(hub.requests)
    assert fetch(RECORD).read_bytes() == served()
    assert hub.requests == before
    hub.stop()
    assert fetch(RECORD).read_bytes() == served()
    assert messages(caplog) == [ANNOUNCED]


@pytest.mark.slow
def test_the_command_fetches_from_the_hub_that_hf_endpoint_names_and_only_once(
    hub: Hub, tmp_path: Path
) -> None:
    first = run(hub, tmp_path, "inspect", NAME, "--format", "json")
    assert (first.returncode, ANNOUNCED in first.stderr) == (0, True), first.stderr
    assert hub.downloads == 1
    told = json.loads(first.stdout)
    assert told["card"]["weights"] == NAME
    assert told["card"]["license"] == "Apache-2.0"

    before = list(hub.requests)
    hub.stop()
    second = run(hub, tmp_path, "inspect", NAME, "--format", "json")
    assert (second.returncode, second.stdout) == (0, first.stdout), second.stderr
    assert "fetching" not in second.stderr
    assert hub.requests == before


def test_fetched_weights_are_the_file_read_as_its_record_says(hub: Hub, tmp_path: Path) -> None:
    fetched = load_model(NAME)
    assert fetched.header.preprocessing == RECORD.preprocessing
    assert fetched.header.card["weights"] == NAME
    file = tmp_path / "mine.safetensors"
    file.write_bytes(served())
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(fetched.model(images), load_model(file).model(images))


def test_a_size_that_the_hub_does_not_state_is_not_made_up(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    hub.states_size = False
    assert fetch(RECORD).read_bytes() == served()
    assert messages(caplog) == [ANNOUNCED.replace("3 MB", "of unknown size")]


def test_convert_writes_what_was_fetched(hub: Hub, tmp_path: Path) -> None:
    target = tmp_path / "ours.safetensors"
    assert main(["convert", NAME, str(target), "--to", "tessera"]) == 0
    loaded = load_artifact(target)
    assert loaded.header.card["license"] == RECORD.license
    theirs = safetensors.torch.load(served())
    assert torch.equal(loaded.model.state_dict()["head.weight"], theirs["head.weight"])


# Offline ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_offline_uses_what_is_in_the_cache(
    how: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch(RECORD)
    before = list(hub.requests)
    if how == "environment":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch(RECORD, offline=how == "flag").read_bytes() == served()
    assert hub.requests == before


@pytest.mark.parametrize("how", ["flag", "environment"])
def test_offline_refuses_what_is_not_in_the_cache_and_says_what_to_do(
    how: str, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    if how == "environment":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError) as caught:
        fetch(RECORD, offline=how == "flag")
    said, _, hint = str(caught.value).partition("\nhint: ")
    assert said == f"{NAME} is not in the cache, and fetching is off"
    assert "run once without --offline and HF_HUB_OFFLINE, or give a file" in hint
    assert hub.requests == []


@pytest.mark.parametrize(
    "command",
    [
        "inspect NAME",
        "convert NAME out.npz --to npz",
        "predict NAME photo.png",
    ],
)
def test_a_command_that_takes_a_model_can_be_kept_off_the_network(
    command: str,
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save("photo.png")
    words = command.replace("NAME", NAME).split()
    assert main([*words, "--offline"]) == 2
    assert f"error: {NAME} is not in the cache, and fetching is off\nhint: " in (
        capsys.readouterr().err
    )
    assert hub.requests == []


@pytest.mark.slow
def test_hf_hub_offline_keeps_the_command_off_the_network(hub: Hub, tmp_path: Path) -> None:
    done = run(hub, tmp_path, "inspect", NAME, HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: {NAME} is not in the cache, and fetching is off\n"
        "hint: run once without --offline and HF_HUB_OFFLINE, or give a file\n"
    )
    assert hub.requests == []


def test_auto_without_network_takes_what_was_really_fetched(hub: Hub) -> None:
    with pytest.raises(CheckpointError, match="no pretrained weights are in the cache"):
        choosing.choose(1_000, "cuda", offline=True)
    path = fetch(RECORD)
    assert choosing.choose(1_000, "cuda", offline=True) == (RECORD, "in the cache")

    path.write_bytes(damaged(served()))
    with pytest.raises(CheckpointError, match="is not the file"):
        fetch(RECORD, offline=True)
    with pytest.raises(CheckpointError, match="no pretrained weights are in the cache"):
        choosing.choose(1_000, "cuda", offline=True)


# Downloads that go wrong ------------------------------------------------------------------------


def test_a_download_that_breaks_once_is_taken_up_again(hub: Hub) -> None:
    hub.breaks = 1
    assert fetch(RECORD).read_bytes() == served()
    assert hub.downloads == 2


def test_a_download_that_keeps_breaking_is_an_error_and_leaves_no_half_file(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.breaks = 1000
    assert main(["inspect", NAME]) == 1
    said, _, hint = capsys.readouterr().err.partition("\nhint: ")
    assert re.search(rf"error: {FILE} of timm/{NAME} cannot be fetched: \w+", said)
    assert "try again" in hint
    assert messages(caplog) == [ANNOUNCED]
    assert hub.downloads > 1
    assert nothing_is_left(tmp_path / "hub")
    with pytest.raises(CheckpointError, match="is not in the cache"):
        fetch(RECORD, offline=True)

    hub.breaks = 0
    assert fetch(RECORD).read_bytes() == served()


@pytest.mark.parametrize("size", ["shorter", "longer"])
def test_a_download_of_another_length_than_stated_is_an_error(
    size: str, hub: Hub, tmp_path: Path
) -> None:
    hub.tampered[served()] = served()[:-8] if size == "shorter" else served() + bytes(8)
    with pytest.raises(RunError) as caught:
        fetch(RECORD)
    said, _, hint = str(caught.value).partition("\nhint: ")
    assert said.startswith(f"fetching timm/{NAME} broke off: ")
    assert str(len(served())) in said
    assert "try again" in hint
    assert nothing_is_left(tmp_path / "hub")

    hub.tampered.clear()
    assert fetch(RECORD).read_bytes() == served()


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links, as on Windows"])
def test_a_download_with_other_bytes_than_stated_is_refused_and_forgotten(
    links: bool, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("a required privilege is not held by the client")

    if not links:
        monkeypatch.setattr("os.symlink", refuse)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS_WARNING", True)
    other = damaged(served())
    hub.tampered[served()] = other
    target = tmp_path / "ours.safetensors"
    monkeypatch.setenv("TESSERA_TRACEBACK", "1")
    with pytest.raises(CheckpointError) as caught:
        main(["convert", NAME, str(target), "--to", "tessera"])
    said, _, hint = str(caught.value).partition("\nhint: ")
    assert said == (
        f"{NAME} is not the file that the hub states: "
        f"SHA-256 {sha256(other)}, not {sha256(served())}"
    )
    assert hint == "it has been removed from the cache; fetch it again"
    assert not target.exists()
    assert nothing_is_left(tmp_path / "hub")
    with pytest.raises(CheckpointError, match="is not in the cache"):
        fetch(RECORD, offline=True)

    hub.tampered.clear()
    path = fetch(RECORD)
    assert path.read_bytes() == served()
    assert path.is_symlink() == links


@pytest.mark.parametrize(
    ("have", "named"),
    [
        (None, "Repository Not Found"),
        ({"README.md": b"weights moved"}, "Entry Not Found"),
    ],
    ids=["no repository", "no file"],
)
def test_what_the_hub_does_not_have_is_named_with_repository_and_file(
    have: dict[str, bytes] | None, named: str, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    del hub.repos[RECORD.source]
    if have is not None:
        hub.repos[RECORD.source] = have
    assert main(["inspect", NAME]) == 1
    said, _, hint = capsys.readouterr().err.partition("\nhint: ")
    assert said == (
        f"error: {FILE} of timm/{NAME} cannot be fetched: {named} for url: "
        f"{hub.url}/timm/{NAME}/resolve/main/{FILE}"
    )
    assert "HF_ENDPOINT" in hint
    assert hub.downloads == 0
    assert not is_cached(RECORD)


@pytest.mark.parametrize("status", [403, 429, 500, 503])
def test_a_hub_that_fails_is_a_message_and_no_matter_to_who_has_the_file(
    status: int, hub: Hub
) -> None:
    hub.status = status
    with pytest.raises(RunError) as caught:
        fetch(RECORD)
    said, _, hint = str(caught.value).partition("\nhint: ")
    assert said.startswith(f"{FILE} of timm/{NAME} cannot be fetched: ")
    assert str(status) in said.replace(str(hub.port), "")
    assert hint

    hub.status = 0
    fetch(RECORD)
    hub.status = status
    assert fetch(RECORD).read_bytes() == served()


def test_a_hub_that_does_not_answer_is_a_message(hub: Hub) -> None:
    hub.stop()
    with pytest.raises(RunError, match=r"cannot be fetched: .*refused.*\nhint: "):
        fetch(RECORD)


def test_a_hub_that_is_too_slow_is_a_message(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient = partial(get_hf_file_metadata, timeout=0.2)  # for 10 s, HF_HUB_ETAG_TIMEOUT
    monkeypatch.setattr("tessera.checkpoint.weights.get_hf_file_metadata", impatient)
    hub.delay = 60
    with pytest.raises(RunError, match=r"cannot be fetched: .*timed out.*\nhint: "):
        fetch(RECORD)


def test_a_xet_store_that_fails_is_a_message(hub: Hub, tmp_path: Path) -> None:
    pytest.importorskip("hf_xet", reason="needs hf_xet, which huggingface_hub installs if it can")
    hub.xet = True  # where the files of timm really lie
    with pytest.raises(RunError) as caught:
        fetch(RECORD)
    said, _, hint = str(caught.value).partition("\nhint: ")
    assert said.startswith(f"fetching timm/{NAME} broke off: ")
    assert "404" in said.replace(str(hub.port), "")
    assert "try again" in hint
    assert nothing_is_left(tmp_path / "hub")


# Files that change later ------------------------------------------------------------------------


def share(path: Path) -> None:
    """Move the content where the client's library shares it between repositories.

    Since version 2 it keeps what comes by Xet under its Xet hash, which is no SHA-256 of it, in
    ``blobs`` of the whole cache; the blob of a repository is then itself a link.
    """
    blob = path.resolve()
    name = hashlib.sha256(b"xet").hexdigest()
    store = blob.parents[2] / "blobs" / name[:2] / name
    store.parent.mkdir(parents=True)
    blob.rename(store)
    blob.symlink_to(os.path.relpath(store, blob.parent))


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "one bit": damaged,
    "cut in half": lambda content: content[: len(content) // 2],
    "longer": lambda content: content + b"\n",
    "empty": lambda _: b"",
    "zeros": lambda content: bytes(len(content)),
    "another file": lambda content: random.Random(0).randbytes(len(content)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("offline", [False, True], ids=["online", "offline"])
@pytest.mark.parametrize("shared", [False, True], ids=["", "shared"])
def test_a_file_that_changed_in_the_cache_is_refused_and_fetched_anew(
    shared: bool, offline: bool, change: str, hub: Hub, tmp_path: Path
) -> None:
    path = fetch(RECORD)
    if shared:
        share(path)
    other = CHANGES[change](served())
    path.write_bytes(other)
    before = list(hub.requests)
    with pytest.raises(CheckpointError) as caught:
        load_model(NAME, offline=offline)
    assert f"SHA-256 {sha256(other)}, not {sha256(served())}\nhint: " in str(caught.value)
    assert hub.requests == before
    assert nothing_is_left(tmp_path / "hub")
    assert fetch(RECORD).read_bytes() == served()


def test_a_file_that_the_library_shares_between_repositories_is_used(hub: Hub) -> None:
    path = fetch(RECORD)
    share(path)
    assert path.resolve().name != sha256(served())
    hub.stop()
    assert fetch(RECORD) == path
    assert path.read_bytes() == served()


# The records ------------------------------------------------------------------------------------

TEXT = (files("tessera.checkpoint") / "weights.toml").read_text(encoding="utf-8")

FAMILIES = {
    "augreg": ("Apache-2.0", "vit_{tiny,small,base,large}_patch16_224.augreg_in21k{,_ft_in1k}"),
    "deit": ("Apache-2.0", "deit_{tiny,small,base}{,_distilled}_patch16_224.fb_in1k"),
    "deit3": ("Apache-2.0", "deit3_{small,base,large}_patch16_{224,384}.fb_in{1k,22k_ft_in1k}"),
    "dino": ("Apache-2.0", "vit_{small,base}_patch{8,16}_224.dino"),
    "dinov2": ("Apache-2.0", "vit_{small,base,large,giant}_patch14{,_reg4}_dinov2.lvd142m"),
    "mae": ("CC-BY-NC-4.0", "vit_{base_patch16,large_patch16,huge_patch14}_224.mae"),
    "clip": ("MIT", "vit_{base_patch32,base_patch16,large_patch14}_clip_quickgelu_224.openai"),
    "siglip": ("Apache-2.0", "vit_{base_patch16_siglip_224,so400m_patch14_siglip_378}.webli"),
    "siglip2": ("Apache-2.0", "vit_{base,so400m}_patch16_siglip_{256,384,512}.v2_webli"),
}
"""Licence, as the authors' repositories state it, and names that must be there."""


def expand(pattern: str) -> set[str]:
    """Expand braces, as a shell does."""
    if (match := re.search(r"\{([^}]*)\}", pattern)) is None:
        return {pattern}
    start, end = match.span()
    return {
        n for word in match[1].split(",") for n in expand(pattern[:start] + word + pattern[end:])
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_is_there_under_its_licence(family: str) -> None:
    licence, names = FAMILIES[family]
    found = [record for record in published().values() if record.family == family]
    assert expand(names) - {record.name for record in found} == set()
    assert {record.license for record in found} == {licence}


def test_no_family_is_without_a_licence_that_was_looked_up() -> None:
    assert {record.family for record in published().values()} == set(FAMILIES)


def test_every_record_says_whence_it_comes() -> None:
    for record in published().values():
        # timm has OpenAI's file once, and two models to read it with.
        assert record.source == f"timm/{record.name.replace('quickgelu_', '')}"
        assert re.fullmatch(r"[\w-]+/[\w-]+( and [\w-]+/[\w-]+)*", record.license_source)
        assert re.search(r"\(20\d\d\), arXiv \d{4}\.\d{5}", record.paper)
        assert record.trained_on


def test_a_metric_stands_only_with_its_source_and_is_percent() -> None:
    measured = [record for record in published().values() if record.metrics]
    assert len(measured) > 20
    for record in published().values():
        assert bool(record.metrics) == bool(record.metrics_source), record.name
        assert set(record.metrics) <= {"imagenet_top1", "imagenet_knn", "imagenet_linear"}
        assert all(50 < value < 95 for value in record.metrics.values()), record.name
    for record in measured:
        assert record.metrics_source.startswith(record.license_source)
        assert ("imagenet_top1" in record.metrics) == (record.num_classes == 1000)


def test_no_hash_is_written_into_the_records() -> None:
    """The hub states it; one that nobody computed from the file would be made up."""
    assert "sha" not in TEXT.lower()
    assert re.search(r"[0-9a-f]{32,}", TEXT) is None


def test_no_name_stands_twice_and_no_key_is_misspelt() -> None:
    families = tomllib.loads(TEXT)["family"]
    rows = [row for family in families for row in family["weights"]]
    assert max(Counter(row["name"] for row in rows).values()) == 1
    assert len(published()) == len(rows)
    fields = {"name", "source", "img_size", "num_classes", "parameters", "crop_pct", "mean", "std"}
    for row in rows:
        assert fields <= set(row) <= fields | {"metrics", "metrics_source"}, row["name"]
    told = {"name", "paper", "license", "license_source", "trained_on", "crop", "weights"}
    assert all(set(family) == told for family in families)


ARCHITECTURE = re.compile(
    r"(vit|deit3?)_(?P<size>[a-z0-9]+?)(?P<distilled>_distilled)?_patch(?P<patch>\d+)"
    r"(_reg(?P<registers>\d+))?(_(clip|siglip|dinov2|quickgelu|\d+))*"
)

GIANTS: dict[str, dict[str, Any]] = {  # Oquab et al. (2023), appendix; Tschannen et al. (2025)
    "dinov2": {"embed_dim": 1536, "num_heads": 24, "mlp_dim": 4096, "mlp": "swiglu"},
    "siglip2": {"embed_dim": 1536, "num_heads": 16, "mlp_dim": 6144},
}
"""Two that are not the giant of Zhai et al. (2022), but as deep."""


def config_of(record: Weights) -> ViTConfig:
    """Read the model off the name, with what its family's paper adds to a plain ViT."""
    match = ARCHITECTURE.fullmatch(record.architecture)
    assert match is not None
    family, distilled = record.family, match["distilled"] is not None
    arch: dict[str, Any] = {
        "img_size": record.preprocessing.size[0],
        "num_classes": record.num_classes,
        "num_registers": int(match["registers"] or 0),
        "dist_token": distilled,
        "dist_head": distilled,
        "layer_scale_init": 1e-5 if family in ("deit3", "dinov2") else None,
        "embed_norm": family == "clip",
    }
    if family in ("siglip", "siglip2"):
        arch |= {"cls_token": False, "pool": "map"}
    if match["size"].startswith("giant"):
        arch |= GIANTS.get(family, {})
    size = match["size"].removesuffix("opt")
    return parse(f"vit_{size}_patch{match['patch']}", **arch)


def count(config: ViTConfig) -> int:
    """Count the parameters of a model, of which only one block is built: the others are alike."""
    with torch.device("meta"):
        model = ViT(replace(config, depth=1))
    block = sum(p.numel() for p in model.blocks.parameters())
    return sum(p.numel() for p in model.parameters()) + (config.depth - 1) * block


@pytest.mark.parametrize("name", published())
def test_a_record_is_of_a_known_variant_and_has_its_parameters(name: str) -> None:
    record = published()[name]
    config = config_of(record)  # which refuses sizes that patches do not fill
    # Theirs have no position for the class token, or no bias of the patch projection; ours do.
    extra = record.family in ("deit3", "clip") or config.num_registers > 0
    assert count(config) - record.parameters == (config.embed_dim if extra else 0)


@pytest.mark.parametrize("size", choosing.CANDIDATES)
def test_what_auto_chooses_is_published_and_free(size: str) -> None:
    record = published()[choosing.CANDIDATES[size]]
    assert record.architecture.startswith(f"vit_{size}_")
    assert record.license == "Apache-2.0"
    assert record.num_classes == 1000
