"""A wrong checkpoint is refused with one message: the file, what was found, and the way out."""

import json
import os
import pickle
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from tessera.checkpoint.foreign import LAYOUTS, load_foreign
from tessera.checkpoint.hierarchical import HF_HIERA, HF_SWIN, SWIN, TIMM_SWIN
from tessera.checkpoint.huggingface import HF_LAYOUTS
from tessera.checkpoint.layout import Layout
from tessera.checkpoint.load import load_model
from tessera.checkpoint.others import GOOGLE, LUCIDRAINS, TORCHVISION
from tessera.checkpoint.resnets import BIT_LAYOUTS
from tessera.checkpoint.rules import CheckpointError, revert
from tessera.checkpoint.timm import TIMM
from tessera.cli import main
from tessera.models.vit import create_model

State = dict[str, Tensor]
Write = Callable[[Path], object]

VIT, DINOV2, DINOV3, CLIP, SIGLIP = HF_LAYOUTS

TRAP = "somebody else's code has run"
"""The folder that code in a checkpoint would make beside the checkpoint."""


class Trap:
    """What pickles as a call, and is run by whoever unpickles it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.folder / TRAP),)


def theirs(layout: Layout, **arch: Any) -> State:
    """Tiny weights under the names of a layout."""
    torch.manual_seed(0)
    name = arch.pop("model", "vit_mu_patch8")
    model = create_model(name, num_classes=arch.pop("num_classes", 3), img_size=32, **arch)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    named = revert(state, layout.rules(asdict(model.config)), 1, zeros=layout.zeros)
    return {name: tensor.clone() for name, tensor in named.items()}


def folder_json(**changes: Any) -> dict[str, Any]:
    """The config.json of transformers for the weights of ``theirs``."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    rest = {"intermediate_size": 128, "image_size": 32, "patch_size": 8, "model_type": "vit"}
    return {**sizes, **rest, **changes}


def safetensors(change: Callable[[State], State], layout: Layout = TIMM, **arch: Any) -> Write:
    return lambda path: save_file(change(theirs(layout, **arch)), path)


def pth(content: Callable[[Path], object], **options: Any) -> Write:
    return lambda path: torch.save(content(path.parent), path, **options)


def npz(content: Callable[[Path], dict[str, Any]]) -> Write:
    return lambda path: np.savez(path, **content(path.parent))


def text(content: str | bytes) -> Write:
    return lambda path: path.write_bytes(
        content if isinstance(content, bytes) else content.encode()
    )


def cut(write: Write) -> Write:
    """Half of a file, as an interrupted download leaves it."""

    def cut_and_write(path: Path) -> None:
        write(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return cut_and_write


def folder(config: object, **files: object) -> Write:
    """A folder of transformers: weights, config.json and further JSON files."""

    def write(path: Path) -> None:
        path.mkdir()
        save_file(theirs(VIT), path / "model.safetensors")
        for name, content in {"config": config, **files}.items():
            if content is not None:
                (path / f"{name}.json").write_text(json.dumps(content))

    return write


def shards(content: Callable[[Path], object]) -> Write:
    """A folder with an index, and what ``content`` writes as the only shard of it."""

    def write(path: Path) -> None:
        path.mkdir()
        index = {"weight_map": {"norm.bias": "model-00001.safetensors"}}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
        content(path / "model-00001.safetensors")

    return write


def arrays(_: Path) -> dict[str, Any]:
    return {name: tensor.numpy() for name, tensor in theirs(GOOGLE).items()}


def without(*names: str) -> Callable[[State], State]:
    return lambda state: {name: tensor for name, tensor in state.items() if name not in names}


def plus(name: str, *shape: int) -> Callable[[State], State]:
    return lambda state: {**state, name: torch.zeros(shape)}


def same(state: State) -> State:
    return state


PAGE = "<!DOCTYPE html>\n<html><title>404 Not Found</title></html>\n"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 22883312\n"
LEGACY = {"_use_new_zipfile_serialization": False}


class Fault(NamedTuple):
    file: str
    write: Write
    found: str
    """What the first lines of the message say."""
    hint: str
    """What the way out says."""


ORIGINAL, AGAIN, REPEAT = "take the original file", "copy or download it again", "repeat it"

FAULTS = {
    # tensors that do not make a model
    "a tensor is missing": Fault(
        "m.safetensors",
        safetensors(without("norm.bias")),
        "lacks what is needed for norm.bias",
        ORIGINAL,
    ),
    "a tensor that tells a width is missing": Fault(
        "m.safetensors",
        safetensors(without("blocks.0.mlp.fc2.weight")),
        "lacks 'blocks.0.mlp.fc2.weight'",
        ORIGINAL,
    ),
    "the first tensor of a block is missing": Fault(
        "m.safetensors",
        safetensors(without("blocks.0.norm1.weight")),
        "lacks what is needed for blocks.0.norm1.weight",
        ORIGINAL,
    ),
    "a bias that CLIP alone does without is missing": Fault(
        "m.safetensors",
        safetensors(without("patch_embed.proj.bias")),
        "lacks patch_embed.proj.bias",
        ORIGINAL,
    ),
    "a tensor too many": Fault(
        "m.pth",
        pth(lambda _: plus("blocks.0.adapter.weight", 2)(theirs(TIMM))),
        "no rule reads: blocks.0.adapter.weight",
        ORIGINAL,
    ),
    "nine tensors too many": Fault(
        "m.safetensors",
        safetensors(lambda state: {**state, **{f"x{k}": torch.zeros(1) for k in range(9)}}),
        "no rule reads: x0, x1, x2, x3 and 5 more",
        ORIGINAL,
    ),
    "a tensor of another shape": Fault(
        "m.safetensors",
        safetensors(plus("blocks.0.mlp.fc1.bias", 7)),
        "blocks.0.mlp.fc1.bias would be (7,), not (128,)",
        ORIGINAL,
    ),
    "a tensor of too few axes": Fault(
        "m.safetensors",
        safetensors(plus("pos_embed")),
        "looks like timm, but no model fits it",
        ORIGINAL,
    ),
    "an array is missing": Fault(
        "m.npz",
        npz(lambda path: without("Transformer/encoder_norm/bias")(arrays(path))),
        "looks like Google's own .npz, but the checkpoint lacks what is needed for norm.bias",
        ORIGINAL,
    ),
    "a training that diverged": Fault(
        "m.safetensors",
        safetensors(lambda state: {**state, "head.bias": torch.tensor([0, torch.nan, 0])}),
        "head.bias holds values that are not finite",
        ORIGINAL,
    ),
    # files that are not whole, or something else
    "truncated safetensors": Fault(
        "m.safetensors", cut(safetensors(same)), "no complete safetensors file", AGAIN
    ),
    "truncated npz": Fault("m.npz", cut(npz(arrays)), "no complete .npz file of arrays", AGAIN),
    "truncated pth": Fault(
        "m.pth", cut(pth(lambda _: theirs(TIMM))), "no complete PyTorch file", AGAIN
    ),
    "truncated pth of the old kind": Fault(
        "m.pth", cut(pth(lambda _: theirs(TIMM), **LEGACY)), "no complete PyTorch file", AGAIN
    ),
    "a web page": Fault("m.pth", text(PAGE), "a web page, not a checkpoint", REPEAT),
    "a web page with a byte order mark": Fault(
        "m.safetensors", text(b"\xef\xbb\xbf\r\n" + PAGE.encode()), "a web page", REPEAT
    ),
    "an error of a storage service": Fault(
        "m.bin",
        text("<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>"),
        "a web page",
        REPEAT,
    ),
    "a message of a server": Fault(
        "m.pth", text('{"error": "Repository not found"}'), "no complete PyTorch file", AGAIN
    ),
    "a pointer of git-lfs": Fault(
        "m.safetensors", text(POINTER), "a pointer to a large file", "`git lfs pull`"
    ),
    "a shard that is a pointer of git-lfs": Fault(
        "m", shards(text(POINTER)), "model-00001.safetensors is a pointer", "`git lfs pull`"
    ),
    "a shard that is missing": Fault(
        "m", shards(lambda _: None), "a shard that is missing: model-00001.safetensors", "fetch it"
    ),
    "empty safetensors": Fault("m.safetensors", text(""), "is empty", REPEAT),
    "empty npz": Fault("m.npz", text(""), "is empty", REPEAT),
    "empty pth": Fault("m.pth", text(""), "is empty", REPEAT),
    "a kind of file that is not known": Fault(
        "m.onnx", text("onnx"), "no checkpoint by its name", "known are .safetensors, .npz, .pth"
    ),
    # code
    "code beside the weights": Fault(
        "m.pth",
        pth(lambda path: {"model": theirs(TIMM), "args": Trap(path)}),
        f"holds more than tensors ({os.mkdir.__module__}.mkdir), and Tessera runs no code",
        "save only the state dict",
    ),
    "code beside the weights, in the old kind": Fault(
        "m.pt",
        pth(lambda path: {"model": theirs(TIMM), "args": Trap(path)}, **LEGACY),
        f"holds more than tensors ({os.mkdir.__module__}.mkdir), and Tessera runs no code",
        "save only the state dict",
    ),
    "a pickle that is not PyTorch's": Fault(
        "m.bin",
        lambda path: path.write_bytes(pickle.dumps({"model": Trap(path.parent)})),
        "no complete PyTorch file of plain tensors",
        "get the weights as safetensors",
    ),
    "a whole module": Fault(
        "m.pth",
        pth(lambda _: torch.nn.Linear(2, 2)),
        "holds more than tensors (torch.nn.modules.linear.Linear)",
        "save only the state dict",
    ),
    "an array of objects": Fault(
        "m.npz",
        npz(lambda path: {**arrays(path), "opt": np.array([Trap(path)], dtype=object)}),
        "holds more than arrays, and Tessera runs no code",
        "without arrays of objects",
    ),
    "a pickle under the name of an npz": Fault(
        "m.npz",
        lambda path: path.write_bytes(pickle.dumps(Trap(path.parent))),
        "holds more than arrays, and Tessera runs no code",
        "without arrays of objects",
    ),
    # no model that is known
    "an unknown layout": Fault(
        "m.safetensors",
        lambda path: save_file(
            {n: torch.zeros(1) for n in ("layer1.0.conv1.weight", "fc.bias")}, path
        ),
        "in no known layout: it has fc.bias, layer1.0.conv1.weight",
        "known are timm, transformers ViT",
    ),
    "two layouts at once": Fault(
        "m.safetensors",
        safetensors(lambda state: {**state, **theirs(TORCHVISION)}),
        "could be timm and torchvision: it has blocks.0.attn.proj.bias",
        ORIGINAL,
    ),
    "no tensors in a dict": Fault(
        "m.pth",
        pth(lambda _: {"epoch": 3, "args": {"lr": 1.0}}),
        "holds no tensors under a known name: it has args, epoch",
        "under one of model, state_dict",
    ),
    "an empty dict": Fault("m.pth", pth(lambda _: {}), "it has nothing", "save a state dict"),
    "a list": Fault(
        "m.pth", pth(lambda _: [1, 2]), "holds a list, not a dict", "save model.state_dict()"
    ),
    "no tensors in safetensors": Fault(
        "m.safetensors",
        safetensors(lambda _: {}),
        "holds no tensors",
        "the file that has the weights",
    ),
    "a width that leaves the heads open": Fault(
        "m.safetensors",
        safetensors(same, embed_dim=48),
        "the number of heads cannot be read off tensors of width 48",
        "say it with --arch.num-heads",
    ),
    "positions that are no square": Fault(
        "m.safetensors",
        safetensors(plus("pos_embed", 1, 13, 32)),
        "12 position rows are no square grid",
        "say the size, with --arch.img-size",
    ),
    # transformers, and the files beside its weights
    "weights of transformers without their folder": Fault(
        "m.safetensors",
        safetensors(same, VIT),
        "weights of transformers, which say nothing of their heads",
        "give the folder that holds config.json",
    ),
    "a folder of transformers without config.json": Fault(
        "m",
        folder(None),
        "weights of transformers, which say nothing of their heads",
        "give the folder that holds config.json",
    ),
    "a config.json that is none": Fault(
        "m", folder([1]), "config.json holds no JSON object", AGAIN
    ),
    "a config.json that lacks a size": Fault(
        "m", folder({"hidden_size": 32}), "lacks 'image_size'", ORIGINAL
    ),
    "a config.json of another model": Fault(
        "m", folder(folder_json(model_type="beit")), "model_type='beit' is unknown", "known are vit"
    ),
    "a config.json of a deeper model": Fault(
        "m",
        folder(folder_json(num_hidden_layers=2)),
        "lacks what is needed for blocks.1.",
        ORIGINAL,
    ),
    "an unknown activation": Fault(
        "m",
        folder(folder_json(hidden_act="mish")),
        "hidden_act='mish' is unknown",
        "known are gelu",
    ),
    "a preprocessing that is not understood": Fault(
        "m",
        folder(folder_json(), preprocessor_config={"size": "big"}),
        "size='big' is not understood",
        "correct preprocessor_config.json",
    ),
    "a preprocessing for grey images": Fault(
        "m",
        folder(folder_json(), preprocessor_config={"size": 32, "image_mean": [0.5]}),
        "1 means and 3 deviations for 3 channels",
        "correct preprocessor_config.json",
    ),
    "a preprocessing of timm without numbers": Fault(
        "m",
        folder(folder_json(pretrained_cfg={"mean": None})),
        "says how images are prepared, but not so that it can be followed",
        "pretrained_cfg in config.json",
    ),
}


def place(fault: str, where: Path) -> Path:
    path = where / FAULTS[fault].file
    FAULTS[fault].write(path)
    return path


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_checkpoint_is_refused_with_what_was_found_and_the_way_out(
    fault: str, tmp_path: Path
) -> None:
    path = place(fault, tmp_path)
    with pytest.raises(CheckpointError) as caught:
        load_model(path)
    said, _, hint = str(caught.value).partition("\nhint: ")
    assert said.startswith(str(path))
    assert FAULTS[fault].found in said
    assert FAULTS[fault].hint in hint
    assert "hint: " not in hint
    assert not (tmp_path / TRAP).exists()


@pytest.mark.parametrize("fault", FAULTS)
def test_the_command_refuses_it_with_code_2_and_without_a_traceback(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = place(fault, tmp_path)
    assert main(["inspect", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {path}")
    assert captured.err.count("error: ") == 1
    assert FAULTS[fault].found in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / TRAP).exists()


@pytest.mark.parametrize(
    "run",
    [
        lambda path: torch.load(path / "m.pth", weights_only=False),
        lambda path: np.load(path / "m.npz", allow_pickle=True)["opt"],
    ],
    ids=["pth", "npz"],
)
def test_the_traps_of_these_tests_do_spring_where_code_is_run(
    run: Callable[[Path], object], tmp_path: Path
) -> None:
    place("code beside the weights", tmp_path)
    place("an array of objects", tmp_path)
    assert not (tmp_path / TRAP).exists()
    run(tmp_path)
    assert (tmp_path / TRAP).exists()


def test_the_way_out_of_an_open_number_of_heads_is_one(tmp_path: Path) -> None:
    path = place("a width that leaves the heads open", tmp_path)
    target = tmp_path / "ours.safetensors"
    argv = ["convert", str(path), str(target), "--to", "tessera", "--arch.num-heads", "6"]
    assert main(argv) == 0
    assert load_model(target).header.config.num_heads == 6


class Kind(NamedTuple):
    """A layout, an architecture that it can say, and what no tensor tells."""

    layout: Layout
    arch: Mapping[str, Any] = MappingProxyType({})
    config: Mapping[str, Any] = MappingProxyType({})
    """The config.json; none is needed where it is empty."""
    optional: frozenset[str] = frozenset()
    """Tensors without which it is another model."""


TWO_TOKENS = {"layer_scale_init": 0.1, "num_registers": 2, "num_classes": 0}
MAPPED = {"cls_token": False, "pool": "map", "num_classes": 0}

RESNET = {"model": "R50x1", "stem_blocks": (2,), "stem_width": 32}

STAGES = {"model": "Swin-T", "stem_blocks": (1, 1), "stem_width": 8, "stem_heads": 1}
KINDS = (
    Kind(TIMM, optional=frozenset({"blocks.0.attn.qkv.bias"})),
    Kind(VIT, {}, folder_json()),
    Kind(
        DINOV2,
        TWO_TOKENS,
        folder_json(model_type="dinov2_with_registers", num_register_tokens=2),
    ),
    Kind(
        DINOV3,
        {**TWO_TOKENS, "pos_embed": "rope2d"},
        folder_json(model_type="dinov3_vit", num_register_tokens=2),
        frozenset({"layer.0.attention.k_proj.bias"}),
    ),
    Kind(
        CLIP,
        {"embed_norm": True},
        folder_json(model_type="clip_vision_model"),
        frozenset({"visual_projection.weight", "embeddings.patch_embedding.bias"}),
    ),
    Kind(SIGLIP, MAPPED, folder_json(model_type="siglip_vision_model")),
    Kind(GOOGLE),
    Kind(TORCHVISION),
    Kind(
        LUCIDRAINS, {"patch_embed": "linear", "patch_norm": True, "qkv_bias": False, "head_dim": 64}
    ),
    *(Kind(layout, RESNET) for layout in BIT_LAYOUTS),
    Kind(HF_SWIN, STAGES),
    Kind(SWIN, STAGES),
    Kind(TIMM_SWIN, {**STAGES, "stem_blocks": (1, 1, 1, 1)}),
    Kind(HF_HIERA, {**STAGES, "model": "Hiera-T"}, {"num_heads": [1, 2]}),
)


def damaged(state: State, optional: frozenset[str]) -> Iterator[tuple[str, State]]:
    """The tensors with one missing, one a row too long, and one a mere number."""
    for name, tensor in state.items():
        if name not in optional:
            yield f"no {name}", without(name)(state)
            yield f"more {name}", {**state, name: torch.cat([tensor, tensor[:1]])}
            yield f"flat {name}", {**state, name: torch.tensor(1.0)}


LONG = ("timm's Swin", "transformers' Swin")  # the authors' Swin is damaged by default


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(
            kind,
            id=kind.layout.title,
            marks=[pytest.mark.slow] if kind.layout.title in LONG else [],
        )
        for kind in KINDS
    ],
)
def test_every_tensor_of_every_layout_is_needed_and_in_its_shape(
    kind: Kind, tmp_path: Path
) -> None:
    state = theirs(kind.layout, **kind.arch)
    if kind.layout is CLIP:
        del state["embeddings.patch_embedding.bias"]  # theirs has none
    path = tmp_path / "model.safetensors"
    ref = path
    if kind.config:
        (tmp_path / "config.json").write_text(json.dumps(kind.config))
        ref = tmp_path
    save_file(state, path)
    load_foreign(ref)
    for what, wrong in damaged(state, kind.optional):
        save_file(wrong, path)
        try:
            load_foreign(ref)
        except CheckpointError as error:
            assert str(error).startswith(str(path))  # noqa: PT017 (of hundreds, none may pass)
            assert "\nhint: " in str(error)  # noqa: PT017
        else:
            pytest.fail(f"loaded with {what}")


def test_every_layout_of_the_table_is_damaged_here() -> None:
    assert {kind.layout.title for kind in KINDS} == {layout.title for layout in LAYOUTS}


FORMATS: dict[str, Write] = {
    "m.safetensors": safetensors(same),
    "m.pth": pth(lambda _: theirs(TIMM)),
    "old.pth": pth(lambda _: theirs(TIMM), **LEGACY),
    "m.npz": npz(arrays),
    "small.npz": lambda path: np.savez_compressed(path, **arrays(path)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_no_part_of_a_file_passes_for_the_whole(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    FORMATS[name](path)
    whole = path.read_bytes()
    for length in (*range(40), *range(40, len(whole), len(whole) // 60), len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="hint: "):
            load_foreign(path)


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_bytes_give_a_message_or_a_model_and_no_other_error(
    name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    FORMATS[name](path)
    whole = path.read_bytes()
    rng = random.Random(0)
    refused = 0
    for _ in range(150):
        content = bytearray(whole)
        for _ in range(rng.choice([1, 2, 8])):
            content[rng.randrange(min(len(whole), 1500))] = rng.randrange(256)
        path.write_bytes(content)
        try:
            load_foreign(path)
        except CheckpointError:
            refused += 1
    assert refused > 10  # the rest are changed numbers, which only a checksum would tell
