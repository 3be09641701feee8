"""What befalls a run from outside: kills, signals, broken losses, full disks, dead workers."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

import tessera
from tessera.api import replay_run
from tessera.cli import main
from tessera.errors import RunError
from tessera.finishing import TrainedRun
from tessera.training.faults import explained, largest_that_fits
from tessera.training.loop import DivergedError

TINY = {
    "arch.depth": 1,
    "arch.embed_dim": 32,
    "arch.num_heads": 2,
    "arch.mlp_dim": 64,
    "optim.ema_decay": 0.9,
    "augment.mixup": 0.4,
    "data.batch_size": 16,
    "schedule.total_steps": 60,
    "schedule.warmup_steps": 5,
    "save_every": 3,
    "eval_every": 0.5,
}


def small(out: Path, **changes: Any) -> TrainedRun:
    return tessera.train("digits", out=out, overrides={**TINY, **changes})


def command(data: str | Path, out: Path, *more: str, **changes: Any) -> list[str]:
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in {**TINY, **changes}.items()]
    return [sys.executable, "-m", "tessera", "train", str(data), "--out", str(out), *flags, *more]


def photos(folder: Path, count: int = 24) -> Path:
    rng = np.random.default_rng(0)
    for k in range(count):
        path = folder / ("ant", "bee")[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    return folder


def wait_for_another_state(process: "subprocess.Popen[bytes]", saved: Path) -> None:
    """Wait until a process has saved something new, or has ended."""
    before = saved.stat().st_mtime_ns if saved.exists() else 0
    end = time.monotonic() + 60
    while process.poll() is None:
        if saved.exists() and saved.stat().st_mtime_ns != before:
            return
        assert time.monotonic() < end, "it never saves anything"
        time.sleep(0.01)


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_killed_again_and_again_ends_bit_for_bit_where_an_unbroken_one_does(
    workers: int, tmp_path: Path
) -> None:
    data = photos(tmp_path / "photos", 60)
    changes: dict[str, Any] = {
        "model": "vit_mu_patch8_16",
        "weights": "none",
        "data.workers": workers,
        "data.near_duplicates": False,
        "schedule.total_steps": 400,
        "save_every": 7,
        "eval_every": 12,
    }
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(
        command(data, whole, **changes), env=environment(), check=True, capture_output=True
    )
    rng, kills = random.Random(workers), 0
    saved = broken / "checkpoints" / "last.pt"
    for _ in range(12):
        more = ["--resume"] if saved.exists() else []
        if broken.exists() and not more:
            subprocess.run(["rm", "-r", str(broken)], check=True)
        process = subprocess.Popen(
            command(data, broken, *more, **changes),
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_for_another_state(process, saved)
        time.sleep(rng.random() * 0.4)
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 3, "the run must be killed in the middle, or nothing is shown"
    subprocess.run(
        command(data, broken, "--resume", **changes),
        env=environment(),
        check=True,
        capture_output=True,
    )
    states = [
        torch.load(folder / "checkpoints" / "last.pt", weights_only=True)
        for folder in (whole, broken)
    ]
    assert states[0]["numbers"]["step"] == states[1]["numbers"]["step"] == 400
    names = list(states[0]["tensors"])
    assert {name.partition("/")[0] for name in names} == {"objective", "average", "optimizer"}
    for name, tensor in states[0]["tensors"].items():
        assert torch.equal(tensor, states[1]["tensors"][name]), name
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (whole, broken))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_sigterm_saves_and_ends_well_and_the_run_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    changes = {"schedule.total_steps": 4000, "eval_every": 1000, "save_every": 4000}
    process = subprocess.Popen(
        command("digits", out, **changes), env=environment(), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("run "):  # the last line before training begins
            break
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    text = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=60) == 0, text
    assert "stopped by SIGTERM" in text
    assert "--resume" in text
    assert "Traceback" not in text
    step = torch.load(out / "checkpoints" / "last.pt", weights_only=True)["numbers"]["step"]
    assert 0 < step < 4000
    again = tessera.train(
        "digits",
        out=out,
        resume=True,
        override=True,
        overrides={"schedule.total_steps": step + 5},
    )
    assert len(again.results["test"].labels) == 359


def test_a_broken_loss_leaves_a_replay_that_meets_it_again(tmp_path: Path) -> None:
    changes = {"optim.lr": 1e4, "optim.clip_grad_norm": "none", "save_every": 1}
    with pytest.raises(DivergedError, match=r"hint: lower --optim\.lr") as caught:
        small(tmp_path / "run", **changes)
    facts = json.loads((tmp_path / "run" / "replay.json").read_text())
    assert facts["command"] in str(caught.value)
    assert len(facts["images"]) == 16
    assert all(image["name"].startswith("digits/") for image in facts["images"])

    with (tmp_path / "out").open("w") as file:
        before = (tmp_path / "run" / "checkpoints" / "last.pt").read_bytes()
        replay_run("digits", tmp_path / "run", console=Console(file=file, width=200))
    lines = (tmp_path / "out").read_text().splitlines()
    steps = [line for line in lines if line.startswith("step ")]
    assert steps[-1].startswith(f"step {facts['step']} ")
    assert "nan" in steps[-1] or "inf" in steps[-1]
    assert not any("loss nan" in line for line in steps[:-1]), "and in no step before"
    assert facts["images"][0]["name"] in lines[-1]
    assert (tmp_path / "run" / "checkpoints" / "last.pt").read_bytes() == before


def test_a_run_without_a_broken_loss_has_nothing_to_replay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small(tmp_path / "run", **{"schedule.total_steps": 2})
    assert main(["train", "digits", "--out", str(tmp_path / "run"), "--replay"]) == 2
    assert "no loss broke" in capsys.readouterr().err


@pytest.mark.slow
def test_a_full_disk_keeps_what_was_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, calls = torch.save, []

    def full(value: Any, path: Path) -> None:
        calls.append(path)
        if len(calls) < 4:  # at the start, and after steps 3 and 6
            save(value, path)
            return
        Path(path).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(RunError, match=r"No space left on device.*\nhint: make room") as caught:
        small(tmp_path / "run")
    assert str(tmp_path / "run") in str(caught.value)
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)
    assert state["numbers"]["step"] == 6, "the last one that is whole"
    assert not list((tmp_path / "run" / "checkpoints").glob("*.part"))
    monkeypatch.undo()
    again = tessera.train("digits", out=tmp_path / "run", resume=True)
    unbroken = small(tmp_path / "whole")
    ours, theirs = load_file(again.model), load_file(unbroken.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.slow
def test_a_dead_worker_is_reported_with_the_file_it_held(tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "model": "vit_mu_patch8_16",
        "weights": "none",
        "data.workers": 1,
        "data.near_duplicates": False,
        "schedule.total_steps": 100_000,
        "eval_every": 100_000,
        "save_every": 10,
    }
    out = tmp_path / "run"
    process = subprocess.Popen(
        command(photos(tmp_path / "photos"), out, **changes),
        env=environment(),
        stderr=subprocess.PIPE,
    )
    for _ in range(2):  # the first is saved before any image is read
        wait_for_another_state(process, out / "checkpoints" / "last.pt")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    workers = [pid for pid in children if b"\0train\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 1
    os.kill(int(workers[0]), signal.SIGKILL)
    _, text = process.communicate(timeout=60)
    message = text.decode()
    assert process.returncode == 1
    assert "error: a process that reads images died" in message, message
    assert ".png" in message.partition("held")[2], "the file that it held"
    assert "hint:" in message
    assert "Traceback" not in message


@pytest.mark.parametrize(("room", "found"), [(100, 32), (20, 16), (1, 1), (0, None)])
def test_the_largest_batch_that_fits_is_found(room: int, found: int | None) -> None:
    tried: list[int] = []

    def attempt(size: int) -> None:
        tried.append(size)
        if size > room:
            raise torch.OutOfMemoryError("no room")

    assert largest_that_fits(attempt, 64) == found
    assert tried[0] == 32
    assert tried == sorted(tried, reverse=True)


def test_no_memory_names_the_batch_that_fits(tmp_path: Path) -> None:
    message = r"64 images at a time.*\nhint: 16 do: .*size 16"
    with (
        pytest.raises(RunError, match=message),
        explained(tmp_path, lambda: (64, 16), list),
    ):
        raise torch.OutOfMemoryError("no room")


@pytest.mark.slow
def test_a_changed_recipe_needs_the_word_of_the_user(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = small(tmp_path / "run", **{"schedule.total_steps": 4})
    flags = ["train", "digits", "--out", str(run.folder), "--resume"]
    assert main([*flags, "--schedule.total-steps", "6"]) == 2
    message = capsys.readouterr().err
    assert "schedule.total_steps was 4, now 6" in message
    assert "--override" in message
    assert main([*flags, "--schedule.total-steps", "6", "--override"]) == 0
    assert "changed from here on" in capsys.readouterr().err
    saved = torch.load(run.folder / "checkpoints" / "last.pt", weights_only=True)
    assert saved["numbers"]["step"] == 6
    assert main(flags) == 0, "what was overridden is the run's recipe now"
    assert "complete" in capsys.readouterr().err


def test_a_log_with_half_a_line_is_taken_up(tmp_path: Path) -> None:
    run = small(tmp_path / "run", **{"schedule.total_steps": 4})
    log = run.folder / "log.jsonl"
    whole = log.read_text()
    log.write_text(whole + '{"step": 9, "lo')
    tessera.train("digits", out=run.folder, resume=True)
    assert log.read_text() == whole
