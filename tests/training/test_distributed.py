"""Two processes do what one does: the same images, the same losses, states that either reads."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tessera.data.sampling import StepSampler, rows_of

SETTINGS: dict[str, Any] = {
    "arch.depth": 2,
    "arch.embed_dim": 32,
    "arch.num_heads": 2,
    "arch.mlp_dim": 64,
    "arch.drop_rate": 0.1,
    "arch.attn_drop_rate": 0.1,
    "arch.drop_path_rate": 0.2,
    "optim.ema_decay": 0.9,
    "optim.sam_rho": 0.02,
    "augment.mixup": 0.4,
    "augment.cutmix": 1.0,
    "data.batch_size": 33,
    "schedule.total_steps": 24,
    "schedule.warmup_steps": 4,
    "eval_every": 0.1,
    "device": "cpu",
}

# Measured: at most 3e-7 between one process and two, in losses between 1 and 2.5.
TOLERANCE = 1e-5


def train(out: Path, *more: str, processes: int = 1, **changes: Any) -> str:
    start = [sys.executable, "-m"]
    if processes > 1:
        start += ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in {**SETTINGS, **changes}.items()]
    done = subprocess.run(
        [*start, "tessera", "train", "digits", "--out", str(out), *flags, *more],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def curve(run: Path, column: str = "train_loss") -> list[float]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [row[column] for row in rows]


def tensors(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(run / "model.safetensors")
    return found


def assert_same_weights(one: Path, other: Path) -> None:
    """Compare all but the biases of keys.

    Attention does not depend on them, so their gradient is rounding, of which Adam makes steps.
    """
    theirs = tensors(other)
    for name, tensor in tensors(one).items():
        kept = torch.ones(len(tensor), dtype=torch.bool)
        if name.endswith("qkv.bias"):
            kept[len(tensor) // 3 : len(tensor) * 2 // 3] = False
        # Measured: at most 4e-6.
        torch.testing.assert_close(theirs[name][kept], tensor[kept], rtol=0, atol=1e-4)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("alone") / "run"
    train(out)
    return out


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("batch_size", [10, 11, 64])
def test_parts_make_up_the_batch_and_partners_stay_together(
    batch_size: int, world_size: int
) -> None:
    parts = [rows_of(batch_size, (rank, world_size)) for rank in range(world_size)]
    assert sorted(row for part in parts for row in part) == list(range(batch_size))
    for part in parts:
        assert [batch_size - 1 - row for row in reversed(part)] == part
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 2
    whole = StepSampler(50, batch_size, seed=1, start=3, stop=6)
    cut = [
        StepSampler(50, batch_size, seed=1, start=3, stop=6, part=(rank, world_size))
        for rank in range(world_size)
    ]
    for step, *theirs in zip(whole, *cut, strict=True):
        assert [step[row] for part in parts for row in part] == [k for t in theirs for k in t]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_give_the_curve_of_one(alone: Path, parallel: str, tmp_path: Path) -> None:
    said = train(tmp_path / "run", processes=2, parallel=parallel)
    assert said.count("test accuracy") == 1, "only one process speaks"
    for column in ("train_loss", "val_loss", "train_grad_norm"):
        assert len(curve(alone)) > 5
        assert curve(tmp_path / "run", column) == pytest.approx(curve(alone, column), abs=TOLERANCE)
    assert_same_weights(alone, tmp_path / "run")
    reports = [json.loads((run / "report.json").read_text()) for run in (alone, tmp_path / "run")]
    assert [r["results"]["test"]["images"] for r in reports] == [359, 359], "each image once"


@pytest.mark.slow
def test_stages_of_a_hierarchy_are_shared_out_as_well(tmp_path: Path) -> None:
    undone = dict.fromkeys(("arch.depth", "arch.embed_dim", "arch.num_heads", "arch.mlp_dim"))
    flags: dict[str, Any] = {
        **undone,
        "model": "swin_tiny_patch4_window7_224",
        "arch.img_size": 16,
        "arch.patch_size": 4,
        "arch.stem_width": 16,
        "arch.stem_heads": 2,
        "arch.attention_window": 4,
    }
    blocks = ["--arch.stem-blocks", "1", "1"]
    train(tmp_path / "one", *blocks, **flags)
    train(tmp_path / "two", *blocks, processes=2, parallel="fsdp", **flags)
    for column in ("train_loss", "val_loss", "train_grad_norm"):
        one, two = (curve(tmp_path / run, column) for run in ("one", "two"))
        assert len(one) > 5
        assert one == pytest.approx(two, abs=TOLERANCE)


STEADY: dict[str, Any] = {"schedule.shape": "constant", "schedule.warmup_steps": 0}
"""A rate that does not depend on the length of the run, which may then be prolonged."""


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("steady") / "run"
    train(out, **STEADY)
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "then"),
    [
        ((2, "ddp"), (1, "ddp")),
        ((2, "fsdp"), (1, "ddp")),
        ((1, "ddp"), (2, "fsdp")),
        ((2, "fsdp"), (2, "fsdp")),
    ],
)
def test_any_number_of_processes_goes_on_with_a_run(
    steady: Path, first: tuple[int, str], then: tuple[int, str], tmp_path: Path
) -> None:
    out, half = tmp_path / "run", {**STEADY, "schedule.total_steps": 12}
    train(out, processes=first[0], parallel=first[1], **half)
    saved = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert saved == (["last.json", "step-12"] if first[1] == "fsdp" else ["last.pt"])
    train(out, "--resume", "--override", processes=then[0], parallel=then[1], **STEADY)
    saved = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert saved == (["last.json", "step-24"] if then[1] == "fsdp" else ["last.pt"])
    assert_same_weights(steady, out)


@pytest.mark.slow
def test_shares_refuse_what_they_cannot_do_and_take_micro_batches(
    alone: Path, tmp_path: Path
) -> None:
    for flags, said in (
        ({"optim.name": "muon"}, "optim.name=muon does not work with weights in pieces"),
        ({"data.micro_batch_size": 8}, "must be a multiple of 4"),
    ):
        with pytest.raises(AssertionError, match=said):
            train(tmp_path / "refused", processes=2, parallel="fsdp", **flags)
    even = {"data.batch_size": 32, "schedule.total_steps": 6}
    train(tmp_path / "one", **even)
    micro = {**even, "data.micro_batch_size": 3}
    train(tmp_path / "two", processes=2, parallel="fsdp", **micro)
    assert curve(tmp_path / "two") == pytest.approx(curve(tmp_path / "one"), abs=TOLERANCE)


@pytest.mark.slow
def test_an_error_of_all_processes_is_said_once(tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as caught:
        train(tmp_path / "run", processes=2, **{"data.batch_size": 3})
    assert str(caught.value).count("data.batch_size=3 is too small for 2 processes") == 1
