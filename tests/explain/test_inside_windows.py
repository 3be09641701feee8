"""Attention inside of windows as a map: Swin and Hiera, against transformers and token by token."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.models.hiera.modeling_hiera import unroll

import tessera
from tessera.checkpoint.artifact import Header, save_artifact
from tessera.checkpoint.foreign import load_foreign
from tessera.cli import main
from tessera.data.preprocessing import Preprocessing
from tessera.explain.attention import attention, has_places
from tessera.explain.faithfulness import patch_order
from tessera.explain.gradients import grad_cam
from tessera.explain.methods import METHODS, check_method
from tessera.explain.question import Question, token_grid
from tessera.explaining import ExplainSettings
from tessera.models.vit import ViT, create_model

SWIN: dict[str, Any] = {
    "image_size": 64,
    "embed_dim": 8,
    "depths": [2, 2, 2],
    "num_heads": [1, 2, 4],
    "window_size": 4,
}
HIERA: dict[str, Any] = {
    "image_size": [64, 64],
    "embed_dim": 8,
    "depths": [1, 2, 2, 1],
    "num_heads": [1, 2, 4, 8],
}
THEIRS: dict[str, tuple[str, dict[str, Any], tuple[int, int]]] = {
    "Swin, shifted": ("Swin", SWIN, (64, 64)),
    "Swin, padded and not square": ("Swin", {**SWIN, "window_size": 3}, (64, 80)),
    "Hiera": ("Hiera", HIERA, (64, 64)),
    "Hiera, not square": ("Hiera", {**HIERA, "image_size": [64, 96]}, (64, 96)),
}
REFUSED = ("relevance", "rollout", "gradient-rollout")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.enable_progress_bar()


def shake(model: nn.Module) -> None:
    """Make every parameter count."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            gain = "norm" in name and name.endswith("weight")
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + gain)


def images(count: int, size: tuple[int, int]) -> Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


class Plan(NamedTuple):
    """Where the windows of a block are, as the papers say."""

    grid: tuple[int, int]
    """Of the keys."""
    window: tuple[int, int]
    shift: int = 0
    pools: bool = False

    @property
    def padded(self) -> tuple[int, int]:
        rows, columns = (-(-g // w) * w for g, w in zip(self.grid, self.window, strict=True))
        return rows, columns

    def place(self, row: int, column: int) -> tuple[int, int]:
        """The window of a token, and the token's number there."""
        (height, width), (rows, columns) = self.padded, self.window
        row, column = (row - self.shift) % height, (column - self.shift) % width
        window = row // rows * (width // columns) + column // columns
        return window, row % rows * columns + column % columns

    def queries(self) -> "Plan":
        if not self.pools:
            return self
        (height, width), (rows, columns) = self.grid, self.window
        return Plan((height // 2, width // 2), (rows // 2, columns // 2))


def plans(model: ViT, size: tuple[int, int]) -> list[Plan]:
    """Liu et al. (2021), section 3.2, and Ryali et al. (2023), section 3.2, for every block."""
    c, found = model.config, []
    stages = c.stem_blocks
    for stage, blocks in enumerate(stages):
        finer = 2 ** (len(stages) - 1 - stage)
        rows, columns = (side // c.patch_size * finer for side in size)
        for place in range(blocks):
            if c.patch_embed == "swin":
                side = min(c.attention_window, rows, columns)
                shifts = place % 2 == 1 and min(rows, columns) > c.attention_window
                shift = c.attention_window // 2 if shifts else 0
                found.append(Plan((rows, columns), (side, side), shift))
                continue
            pools = stage > 0 and place == 0
            grid = (2 * rows, 2 * columns) if pools else (rows, columns)
            is_local = stage - pools < 2
            side = 2 * finer if pools else finer
            found.append(Plan(grid, (side, side) if is_local else grid, pools=pools))
    return found


def dense(a: Tensor, plan: Plan) -> Tensor:
    """All pairs of tokens, ``heads q k``, from windows ``w heads q k``; 0 between windows."""
    sides, places = (plan.queries().grid, plan.grid), []
    for own, (rows, columns) in zip((plan.queries(), plan), sides, strict=True):
        places.append([own.place(r, c) for r in range(rows) for c in range(columns)])
    found = torch.zeros(a.shape[1], len(places[0]), len(places[1]))
    for i, (window, q) in enumerate(places[0]):
        for j, (other, k) in enumerate(places[1]):
            if window == other:
                found[:, i, j] = a[window, :, q, k]
    return found


def theirs_of_hiera(a: Tensor, plan: Plan, order: Tensor) -> Tensor:
    """The same from ``heads w q k`` of transformers, whose tokens are in an order of their own."""
    windows, q = a.shape[1:3]
    keys = order.view(-1, windows)  # t w
    queries = order.view(4, -1)[0] if plan.pools else order
    if plan.pools:
        rows, columns = queries // plan.grid[1], queries % plan.grid[1]
        queries = rows // 2 * (plan.grid[1] // 2) + columns // 2
    queries = queries.view(q, windows)
    found = torch.zeros(a.shape[0], q * windows, keys.numel())
    for window in range(windows):
        found[:, queries[:, window, None], keys[None, :, window]] = a[:, window]
    return found


@pytest.mark.parametrize("case", THEIRS)
@torch.no_grad()
def test_the_attention_of_every_block_is_that_of_transformers(case: str, tmp_path: Path) -> None:
    kind, sizes, size = THEIRS[case]
    config = getattr(transformers, f"{kind}Config")(**sizes, attn_implementation="eager")
    theirs = getattr(transformers, f"{kind}Model")(config).eval()
    shake(theirs)
    theirs.save_pretrained(tmp_path)
    ours = load_foreign(tmp_path).model
    pixels, seen = images(1, size), list[Tensor]()

    def keep(module: nn.Module, args: Any, made: Any) -> None:
        seen.append(made[1])  # Hiera's own outputs have the last block of every stage alone

    for module in theirs.modules():
        if type(module).__name__ in ("SwinAttention", "HieraMaskUnitAttention"):
            module.register_forward_hook(keep)
    theirs(pixels, output_attentions=True)
    found, where = ours.attention_weights(pixels, range(len(seen))), plans(ours, size)
    assert len(seen) == ours.config.num_layers == len(where)
    height, strides = where[0].grid[0], len(ours.config.stem_blocks) - 1
    for a, wanted, plan in zip(found, seen, where, strict=True):
        # Measured: 8.4e-7, where attention is at most 1.
        if kind == "Swin":
            torch.testing.assert_close(a[0], wanted, rtol=0, atol=1e-5)
            continue
        tokens = torch.arange(plan.grid[0] * plan.grid[1]).view(1, -1, 1)
        left = strides - (height // plan.grid[0]).bit_length() + 1
        order = unroll(tokens, plan.grid, (1, 1), [[2, 2]] * left).flatten()
        expected = theirs_of_hiera(wanted[0], plan, order)
        torch.testing.assert_close(dense(a[0], plan), expected, rtol=0, atol=1e-5)


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "Swin": ("swin_tiny_patch4_window7_224", {"attention_window": 4, "img_size": 32}),
    "Swin, padded": ("swin_tiny_patch4_window7_224", {"attention_window": 3}),
    "Hiera": ("hiera_tiny_224", {"stem_blocks": (1, 2, 2, 1), "img_size": 64, "patch_size": 32}),
}


def make(kind: str, **changes: Any) -> ViT:
    name, arch = KINDS[kind]
    numbers = {"stem_blocks": (2, 2, 2), "stem_width": 8, "stem_heads": 2, "img_size": (32, 48)}
    model = create_model(name, **{"num_classes": 3, **numbers, **arch, **changes}).eval()
    shake(model)
    return model


@pytest.mark.parametrize("head", [None, 1])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_map_of_every_block_by_loops(kind: str, head: int | None) -> None:
    model = make(kind)
    x = images(1, model.config.image_shape)
    for block, plan in enumerate(plans(model, model.config.image_shape)):
        found = attention(model, x, Question(block=block, head=head))
        pairs = dense(model.attention_weights(x, [block])[0][0], plan)
        expected = np.zeros(plan.grid)
        for query in range(pairs.shape[1]):
            for row in range(plan.grid[0]):
                for column in range(plan.grid[1]):
                    a = pairs[:, query, row * plan.grid[1] + column]
                    value = float(a.mean() if head is None else a[head])
                    expected[row, column] += value / pairs.shape[1]
        assert found.shape == plan.grid
        # Measured: 9e-8.
        assert np.abs(found.numpy() - expected).max() <= 1e-6
        assert (plan.padded != plan.grid) == (kind == "Swin, padded")
        if plan.padded == plan.grid:
            assert float(found.sum()) == pytest.approx(1, abs=1e-5)
        elif plan.shift:  # which may leave all padding with tokens that do not look at it
            assert float(found.sum()) <= 1 + 1e-5
        else:  # what tokens give to padding is missing; measured: 0.82 to 0.93
            assert 0.3 < float(found.sum()) < 0.99


@pytest.mark.parametrize("kind", ["Swin", "Swin, padded"])
@torch.no_grad()
def test_the_last_map_says_where_the_mean_that_the_head_reads_comes_from(kind: str) -> None:
    """Values that a token brings to the mean of what a head computes are weighted by the map."""
    model = make(kind)
    x, kept = images(1, model.config.image_shape), dict[str, Tensor]()
    block = cast(Any, model.patch_embed).blocks[-1]
    handles = [
        block.attn.qkv.register_forward_hook(lambda m, a, made: kept.__setitem__("qkv", made)),
        block.attn.proj.register_forward_pre_hook(lambda m, a: kept.__setitem__("out", a[0])),
    ]
    model.forward_features(x)
    for handle in handles:
        handle.remove()
    plan, width = plans(model, model.config.image_shape)[-1], block.attn.proj.in_features
    heads = block.attn.num_heads
    padding = cast(Tensor, block.attn.qkv.bias)[-width:].view(heads, -1)  # values of zeros
    for head in range(heads):
        weights = attention(model, x, Question(head=head))
        mean = kept["out"][0].mean(dim=0).view(heads, -1)[head]
        summed = (1 - weights.sum()) * padding[head]
        for row in range(plan.grid[0]):
            for column in range(plan.grid[1]):
                window, token = plan.place(row, column)
                value = kept["qkv"][0, window, token, -width:].view(heads, -1)[head]
                summed = summed + weights[row, column] * value
        # Measured: 2.4e-7.
        torch.testing.assert_close(summed, mean, rtol=0, atol=1e-5)


def test_every_window_gets_the_same_sum_whatever_it_shows() -> None:
    model = make("Swin")
    found = attention(model, images(1, (32, 32)), Question(block=0))
    sums = found.view(2, 4, 2, 4).sum(dim=(1, 3))
    # Measured: 0.
    torch.testing.assert_close(sums, torch.full((2, 2), 0.25), rtol=0, atol=1e-5)
    assert found.std() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_counted_through_all_stages(kind: str) -> None:
    model = make(kind)
    x = images(1, model.config.image_shape)
    maps = [attention(model, x, Question(block=block)) for block in range(6)]
    for block in range(6):
        assert torch.equal(attention(model, x, Question(block=block - 6)), maps[block])
    assert torch.equal(attention(model, x, Question()), maps[-1])
    first, last = maps[0].shape, token_grid(model, x)
    assert (first[0] // last[0], first[1] // last[1]) == ((8, 8) if kind == "Hiera" else (4, 4))


def test_blocks_and_heads_that_are_not_there_are_named() -> None:
    model = make("Swin")
    x = images(1, (32, 48))
    for block in (6, -7):
        with pytest.raises(ValueError, match=f"block {block} is not in a model of depth 6"):
            attention(model, x, Question(block=block))
    for block, heads in ((0, 2), (3, 4), (-1, 8)):
        attention(model, x, Question(block=block, head=heads - 1))
        for head in (heads, -1):
            message = f"head {head} is not in an attention of {heads} heads from 0"
            with pytest.raises(ValueError, match=message):
                attention(model, x, Question(block=block, head=head))


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_runs_or_gives_one_message(kind: str) -> None:
    model = make(kind)
    x = images(1, model.config.image_shape)
    allowed = [name for name in METHODS if name not in REFUSED]
    for name in allowed:
        found = check_method(name, model).make(model, x, Question(target=1, steps=2))
        assert found.isfinite().all()
    for name in REFUSED:
        with pytest.raises(ValueError, match="through all blocks of an encoder") as caught:
            check_method(name, model)
        assert str(caught.value) == (
            f"{name} follows tokens through all blocks of an encoder, and "
            f"patch_embed={model.config.patch_embed!r} attends inside of windows on several grids\n"
            f"hint: for this model there are {', '.join(allowed)}"
        )
    assert check_method("attention", make(kind, num_classes=0)).of_class is False


def test_a_map_of_any_grid_is_turned_into_an_order_of_patches() -> None:
    coarse = torch.tensor([[0.0, 3.0], [1.0, 2.0]])
    spread = coarse.repeat_interleave(2, 0).repeat_interleave(3, 1)
    assert torch.equal(patch_order(coarse, (4, 6)), patch_order(spread, (4, 6)))
    assert torch.equal(patch_order(spread, (2, 2)), torch.tensor([1, 3, 2, 0]))


@pytest.fixture
def swin(tmp_path: Path) -> Path:
    model = make("Swin, padded")
    header = Header(
        config=model.config, preprocessing=Preprocessing(size=(32, 48)), class_names=("a", "b", "c")
    )
    save_artifact(tmp_path / "swin.safetensors", model, header)
    return tmp_path / "swin.safetensors"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (45, 61, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_a_swin_is_explained_from_end_to_end(swin: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = ExplainSettings(methods=("attention",), block=1, curve_steps=3, sanity_images=1)
    found = tessera.explain(swin, [photo], settings, out=out)
    (one,) = found.images[0].maps
    with Image.open(out / "0000-photo.attention.png") as painted, Image.open(photo) as image:
        assert painted.size == image.size
        assert not np.array_equal(np.asarray(painted), np.asarray(image))
    with np.load(out / "0000-photo.npz") as maps:
        assert maps["attention"].shape == (8, 12)  # of the first stage, where patches are 4x4
        assert np.array_equal(maps["attention"], one.values)
    assert one.faithfulness is None, "values of two windows say nothing beside each other"
    assert "inside of windows" in one.note
    numbers = json.loads((out / "explain.json").read_text())["methods"][0]
    assert numbers["sanity"]["images"] == 1


def test_maps_are_ranked_only_where_a_block_sees_the_whole_grid(tmp_path: Path) -> None:
    model = make("Hiera")
    shape = model.config.image_shape
    x, grid = images(1, shape), token_grid(model, images(1, shape))
    seen = []
    for block in range(6):
        found = attention(model, x, Question(block=block))
        pooled = F.adaptive_avg_pool2d(found[None, None], grid)[0, 0]
        tied = float((pooled.max() - pooled.min()) / pooled.mean()) < 1e-5
        assert has_places(model, grid, block) == (not tied)
        seen.append(tied)
    assert seen[0]
    assert not seen[-1]
    assert [has_places(make("Swin"), (1, 2), block) for block in (0, 1)] == [False, False]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("block", [0, -1])
def test_grad_cam_of_a_block_by_its_formula(kind: str, block: int) -> None:
    model = make(kind)
    x, kept = images(1, model.config.image_shape), list[Tensor]()
    place = cast(Any, model.patch_embed).blocks[block]
    handle = place.register_forward_hook(lambda m, a, made: kept.append(made))
    y = model(x.requires_grad_())[0, 1]
    handle.remove()
    (slope,) = torch.autograd.grad(y, kept)
    expected = [
        max(0.0, sum(float(a) * float(v) for a, v in zip(slope[0].mean(dim=0), token)))
        for token in kept[0][0].detach()
    ]
    found = grad_cam(model, x.detach(), Question(target=1, block=block))
    assert found.max() > 0
    # Measured: 3e-8.
    assert (found.flatten() - torch.tensor(expected)).abs().max() <= 1e-5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["attention", "--block", "6"], "block 6 is not in a model of depth 6"),
        (["attention", "--block", "0", "--head", "2"], "head 2 is not in an attention of 2 heads"),
        (["rollout"], "rollout follows tokens through all blocks of an encoder"),
    ],
)
def test_the_command_refuses_in_one_message(
    words: list[str], message: str, swin: Path, photo: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out"
    given = ["explain", str(swin), str(photo), "--out", str(out), "--method", *words]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(out.glob("*"))
