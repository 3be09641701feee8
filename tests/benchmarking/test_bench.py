"""What `tessera bench` measures: positive, consistent, and of what it says."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tessera
from tessera.benchmarking.bench import Plan, Report, bench, percentile, pieces
from tessera.benchmarking.memory import ask_child, measure
from tessera.benchmarking.timing import interleave
from tessera.benchmarking.work import Case, Subject, draw_images, open_model
from tessera.checkpoint.artifact import Header, save_artifact
from tessera.cli import main
from tessera.cli.bench import as_table
from tessera.data.preprocessing import Preprocessing
from tessera.errors import RunError

CPU = torch.device("cpu")
TINY = "vit_mu_patch16_32"


def plan(**changes: object) -> Plan:
    settings: dict[str, object] = {
        "models": (TINY,),
        "batch_sizes": (1, 3),
        "modes": ("float32", "bfloat16"),
        "tasks": ("forward", "train"),
        "rounds": 2,
        "seconds": 1e-3,
        "memory": False,
    }
    return Plan(**{**settings, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def report() -> Report:
    return bench(plan(), CPU)


def test_every_combination_is_a_row(report: Report) -> None:
    cases = [row.case for row in report.rows]
    assert cases == plan().cases()
    assert len(set(cases)) == 8
    assert len(plan(models=(TINY, TINY), batch_sizes=(1, 1)).cases()) == 4


def test_numbers_are_positive_and_agree(report: Report) -> None:
    for row in report.rows:
        assert row.latency_ms > 0
        assert row.calls >= 2
        assert row.latency_p90_ms >= row.latency_ms
        speed = row.case.batch_size / (row.latency_ms / 1e3)
        assert row.images_per_second == pytest.approx(speed)
        peak = report.peaks[row.case.mode]
        assert peak is not None
        passes = 3 if row.case.task == "train" else 1
        mfu = passes * 2 * row.gmac * 1e9 * speed / (peak.tflops * 1e12)
        assert row.mfu == pytest.approx(mfu)


def test_the_difference_of_logits_is_the_real_one(report: Report) -> None:
    model = open_model(TINY).eval()
    for row in report.rows:
        if row.case.mode == "float32" or row.case.task == "train":
            assert row.logit_difference is None
            continue
        images = draw_images(model.config, row.case.batch_size, CPU)
        with torch.inference_mode():
            exact = model(images)
            with torch.autocast("cpu", torch.bfloat16):
                half = model(images).float()
        assert row.logit_difference == float((half - exact).abs().max())
        assert 0 < row.logit_difference < 0.1


def test_progress_ends_where_it_was_said_to() -> None:
    counts: list[int] = []
    small = plan(tasks=("forward",))
    bench(small, CPU, done=counts.append)
    assert sum(counts) == pieces(small, CPU)


def test_a_training_step_moves_its_own_copy_only() -> None:
    case = Case(TINY, "train", "float32", 2)
    model = open_model(TINY)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    subject = Subject(model, CPU, [case])
    subject.work(case)()
    for name, tensor in subject.models["forward"].state_dict().items():
        assert torch.equal(tensor, before[name])
    moved = subject.models["train"].state_dict()
    assert not torch.equal(moved["head.weight"], before["head.weight"])


def test_cases_take_turns_in_another_order_each_round() -> None:
    order: list[str] = []
    cases = {name: lambda name=name: order.append(name) for name in "abcd"}
    times = interleave(cases, rounds=6, seconds=1e-12, device=CPU)
    assert order[:8] == list("aabbccdd")  # two calls to warm up
    rounds = ["".join(order[8 + 4 * k : 12 + 4 * k]) for k in range(6)]
    assert all(sorted(each) == list("abcd") for each in rounds)
    assert len(set(rounds)) > 2
    assert all(len(found) == 6 for found in times.values())


def test_a_limit_of_time_leaves_two_rounds() -> None:
    done: list[int] = []
    found = interleave(
        {"a": lambda: None}, rounds=9, seconds=1e-9, limit=0.0, device=CPU, done=done.append
    )
    assert len(found["a"]) == 2
    assert sum(done) == 10


def test_percentiles_are_interpolated() -> None:
    assert percentile([3.0, 1.0, 2.0], 0.5) == 2
    assert percentile([0.0, 10.0], 0.9) == pytest.approx(9)
    assert percentile([4.0], 0.9) == 4


def test_an_artefact_is_measured_as_it_is(tmp_path: Path) -> None:
    model = tessera.create_model(TINY, num_classes=3)
    header = Header(
        config=model.config, preprocessing=Preprocessing(size=(32, 32)), class_names=("a", "b", "c")
    )
    save_artifact(tmp_path / "m.safetensors", model, header)
    found = open_model(str(tmp_path / "m.safetensors"))
    assert torch.equal(found.state_dict()["cls_token"], model.state_dict()["cls_token"])
    headless = tessera.create_model(TINY, num_classes=0)
    save_artifact(
        tmp_path / "h.safetensors",
        headless,
        Header(config=headless.config, preprocessing=Preprocessing(size=(32, 32)), class_names=()),
    )
    with pytest.raises(ValueError, match=r"has no head.*\nhint: --what forward"):
        bench(plan(models=(str(tmp_path / "h.safetensors"),)), CPU)


FAST = ["--rounds", "1", "--seconds", "0.001", "--batch-size", "1", "--no-memory"]


def run(args: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    status = main(["bench", *args])
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def test_the_table_has_a_line_a_row_and_says_what_it_means(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    args = [TINY, *FAST, "--mode", "float32", "bfloat16", "--what", "both", "--threads", "1"]
    status, out, _ = run(args, capsys)
    assert status == 0
    assert len([line for line in out.splitlines() if line.startswith(TINY)]) == 4
    for words in ("1 threads of", "measured matmul", "max logit difference", "interleaved"):
        assert words in out
    file = tmp_path / "b.json"
    assert run([TINY, *FAST, "--format", "json", "--out", str(file)], capsys)[0] == 0
    found = json.loads(file.read_text())
    assert found["rows"][0]["images_per_second"] > 0
    assert found["threads"] == torch.get_num_threads()
    status, _, err = run([TINY, *FAST, "--out", str(file)], capsys)
    assert status == 2
    assert "nothing is overwritten" in err


def test_long_names_are_cut_on_the_left(report: Report) -> None:
    name = "/home/somebody/" + "x" * 50 + "/model.safetensors"
    long = replace(report.rows[0], case=replace(report.rows[0].case, model=name))
    text = as_table(replace(report, rows=[long]))
    assert name not in text
    assert f"...{name[-46:]}  forward" in text


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["vit_mo_patch16"], "unknown model 'vit_mo_patch16'"),
        (["runs/none.safetensors"], "no model at 'runs/none.safetensors'"),
        ([TINY, "--batch-size", "0"], "batch size 0 must be at least 1"),
        ([TINY, "--mode", "bfloat"], "did you mean 'bfloat16'?"),
        ([TINY, "--rounds", "0"], "rounds=0 must be at least 1"),
        ([TINY, "--threads", "0"], "--threads 0 must be at least 1"),
        ([TINY, "--device", "cuba"], "device 'cuba' cannot be used here"),
        ([TINY, "--out", "no/where.json"], "no is no folder"),
    ],
)
def test_mistakes_are_messages(
    args: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(args, capsys)
    assert (status, out) == (2, "")
    assert f"error: {message}" in err or message in err
    assert "Traceback" not in err


def test_without_a_compiler_the_compile_mode_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    status, _, err = run([TINY, *FAST, "--mode", "compile"], capsys)
    assert status == 1
    assert "error: compile modes need a C++ compiler" in err
    assert "hint:" in err


def test_a_process_that_fails_is_a_message() -> None:
    with pytest.raises(RunError, match="memory cannot be measured: no luck"):
        ask_child(["-c", "import sys; sys.exit('no luck')"])
    assert ask_child(["-c", "print('noise'); print(12)"]) == 12


def test_memory_is_what_the_work_holds() -> None:
    # Measured: 64.1 MB for 64 MB.
    def prepare() -> Callable[[], object]:
        held = torch.ones(16_000_000)
        return held.sum

    peak = measure(prepare, CPU)
    assert peak is not None
    assert 60e6 < peak < 90e6


@pytest.mark.slow
def test_memory_grows_with_the_batch_and_with_training() -> None:
    found = bench(plan(batch_sizes=(1, 64), modes=("float32",), memory=True), CPU)
    forward1, forward64, train1, train64 = (row.peak_memory for row in found.rows)
    assert forward1 is not None
    assert forward64 is not None
    assert train1 is not None
    assert train64 is not None
    assert 0 < forward1 < forward64 < train64
    assert forward1 < train1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiled_model_gives_the_same_logits_in_silence(tmp_path: Path) -> None:
    args = ["bench", TINY, *FAST, "--mode", "compile", "--what", "both", "--format", "json"]
    shown = subprocess.run(
        [sys.executable, "-m", "tessera", *args],
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stderr == ""
    rows = json.loads(shown.stdout)["rows"]
    assert [row["task"] for row in rows] == ["forward", "train"]
    assert rows[0]["logit_difference"] < 1e-5  # measured: 2e-7
