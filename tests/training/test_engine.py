"""Options of a recipe: precision, compilation, sharpness, teachers, averages, stopping, batches."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing import event_accumulator as events
from torch import Tensor, nn
from torch.nn import functional as F

import tessera
from tessera.cli import main
from tessera.data.loader import Batch
from tessera.data.preprocessing import Preprocessing
from tessera.finishing import TrainedRun
from tessera.models.variants import parse
from tessera.models.vit import ViT
from tessera.objectives.classify import Classify, LabelLoss
from tessera.objectives.distill import Distill, Teacher
from tessera.optim.ema import Average
from tessera.optim.sam import uphill
from tessera.recipe import Distill as Settings
from tessera.recipe import Optim, Recipe
from tessera.training.batch_size import largest_power_of_two
from tessera.training.loop import make_state, train_step

CPU = torch.device("cpu")

TINY: dict[str, Any] = {
    "arch.depth": 1,
    "arch.embed_dim": 32,
    "arch.num_heads": 2,
    "arch.mlp_dim": 64,
    "data.batch_size": 16,
    "schedule.total_steps": 12,
    "schedule.warmup_steps": 2,
    "eval_every": 0.1,
}


def small(out: Path, **changes: Any) -> TrainedRun:
    return tessera.train("digits", out=out, overrides={**TINY, **changes})


def mu(**arch: Any) -> ViT:
    torch.manual_seed(0)
    return ViT(parse("vit_mu_patch16", img_size=32, num_classes=4, **arch))


def batch(size: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(5)
    images = torch.randn(size, 3, 32, 32, generator=generator)
    return {"image": images, "label": torch.arange(size) % 4}


def losses(recipe: Recipe, steps: int) -> list[float]:
    state = make_state(Classify(mu()), recipe, depth=1, stop=steps)
    lr = recipe.optim.lr
    return [
        train_step(state, batch(), recipe, lr=lr, device=CPU)["loss"].item() for _ in range(steps)
    ]


def test_float16_scales_the_loss_and_learns() -> None:
    recipe = Recipe(precision="float16", optim=Optim(lr=3e-3))
    state = make_state(Classify(mu()), recipe, depth=1, stop=80)
    assert state.scaler.get_scale() == 2.0**16
    numbers = [train_step(state, batch(), recipe, lr=3e-3, device=CPU) for _ in range(80)]
    assert numbers[-1]["loss"] < 0.1
    # What is clipped and shown is the true gradient, not the scaled one: 0.03 apart in the first.
    whole = make_state(Classify(mu()), replace(recipe, precision="float32"), depth=1, stop=80)
    exact = train_step(whole, batch(), replace(recipe, precision="float32"), lr=3e-3, device=CPU)
    assert numbers[0]["grad_norm"].item() == pytest.approx(exact["grad_norm"].item(), rel=0.02)


def test_float16_passes_over_a_step_that_overflows() -> None:
    recipe = Recipe(precision="float16")
    state = make_state(Classify(mu()), recipe, depth=1, stop=9)
    state.scaler.scale(torch.ones(()))  # which makes it
    state.scaler.update(2.0**40)
    before = {name: p.clone() for name, p in state.objective.named_parameters()}
    train_step(state, batch(), recipe, lr=1e-3, device=CPU)
    assert all(torch.equal(p, before[n]) for n, p in state.objective.named_parameters())
    assert state.scaler.get_scale() == 2.0**39


@pytest.mark.slow
def test_the_scale_survives_a_resume(tmp_path: Path) -> None:
    changes = {"precision": "float16", "schedule.shape": "constant", "schedule.warmup_steps": 0}
    whole = small(tmp_path / "whole", **changes)
    small(tmp_path / "half", **changes, **{"schedule.total_steps": 6})
    wanted = {"schedule.total_steps": 12}
    half = tessera.train(
        "digits", out=tmp_path / "half", resume=True, override=True, overrides=wanted
    )
    one, two = load_file(whole.model), load_file(half.model)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("name", get_args(Optim.__annotations__["name"]))
def test_every_optimizer_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    changes = {"optim.name": name, "schedule.shape": "constant", "schedule.warmup_steps": 0}
    changes |= {"optim.lr": 1e-3, "save_every": 4, "schedule.total_steps": 8}
    whole = small(tmp_path / "whole", **changes)
    small(tmp_path / "half", **{**changes, "schedule.total_steps": 4})
    wanted = {"schedule.total_steps": 8}
    half = tessera.train(
        "digits", out=tmp_path / "half", resume=True, override=True, overrides=wanted
    )
    saved = [
        torch.load(run.folder / "checkpoints" / "last.pt", weights_only=True)["tensors"]
        for run in (whole, half)
    ]
    assert any(key.startswith("optimizer/") for key in saved[0])
    assert all(torch.equal(saved[0][key], saved[1][key]) for key in saved[0])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_compiled_run_learns_the_same(tmp_path: Path) -> None:
    plain = small(tmp_path / "plain")
    done = subprocess.run(
        [sys.executable, "-m", "tessera", "train", "digits", "--out", str(tmp_path / "compiled")]
        + [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
        + ["--compile"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    ours, theirs = load_file(plain.model), load_file(tmp_path / "compiled" / "model.safetensors")
    assert set(ours) == set(theirs)
    for name, tensor in ours.items():
        kept = slice(None, 32) if name.endswith("qkv.bias") else slice(None)
        # Measured: 3e-6.
        torch.testing.assert_close(theirs[name][kept], tensor[kept], rtol=0, atol=1e-4)


def test_sam_takes_the_gradient_at_the_worst_point_nearby() -> None:
    """Against two lines of Foret et al. (2021), on a function whose gradient is known."""
    x = nn.Parameter(torch.tensor([3.0, -4.0], dtype=torch.float64))
    x.grad = 2 * x.detach()  # of |x|^2
    with uphill([x], 0.5):
        moved = x.detach().clone()
        x.grad = 2 * x.detach()
    torch.testing.assert_close(moved, torch.tensor([3.3, -4.4], dtype=torch.float64))
    assert torch.equal(x.detach(), torch.tensor([3.0, -4.0], dtype=torch.float64)), "and back"
    torch.testing.assert_close(x.grad, torch.tensor([6.6, -8.8], dtype=torch.float64))


def test_sam_learns_and_without_a_radius_is_the_plain_step() -> None:
    assert losses(Recipe(optim=Optim(lr=3e-3, sam_rho=0.05)), 60)[-1] < 0.1
    # By SGD: Adam makes whole steps of gradients that are all but zero.
    plain = Optim(name="sgd", lr=0.1)
    tiny = losses(Recipe(optim=replace(plain, sam_rho=1e-9)), 5)
    assert tiny == pytest.approx(losses(Recipe(optim=plain), 5), abs=1e-5)
    assert losses(Recipe(optim=replace(plain, sam_rho=0.5)), 5)[-1] != pytest.approx(tiny[-1])


def test_binary_cross_entropy_is_summed_over_classes() -> None:
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3, 0, 1])
    found = LabelLoss("bce", label_smoothing=0.1)(logits, {"label": labels})["loss"]
    expected = 0.0
    for row, label in zip(logits.double(), labels, strict=True):
        for k in range(4):
            wanted = (1.0 if k == label else 0.0) * 0.9 + 0.1 / 4
            p = 1 / (1 + torch.exp(-row[k]))
            expected -= float(wanted * p.log() + (1 - wanted) * (1 - p).log())
    assert found.item() == pytest.approx(expected / 6, rel=1e-6)


@pytest.mark.slow
def test_binary_cross_entropy_learns(tmp_path: Path) -> None:
    changes = {"loss": "bce", "data.batch_size": 64, "schedule.total_steps": 120, "eval_every": 2}
    run = small(tmp_path / "run", **changes)
    assert run.results["test"].score.interval.value > 0.5  # 0.71, where guessing has 0.1


def preprocessing(size: int, mean: float = 0.5, std: float = 0.5) -> Preprocessing:
    return Preprocessing(size=(size, size), channels=3, mean=(mean,) * 3, std=(std,) * 3)


def test_a_teacher_sees_images_as_it_was_trained_to() -> None:
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images)
            return torch.arange(5.0).expand(len(images), -1)

    own = preprocessing(16, mean=0.25, std=0.125)
    teacher = Teacher(Spy(), [3, 1], own=own, seen=preprocessing(32))
    pixels = torch.full((2, 3, 32, 32), 0.75)
    answer = teacher.logits((pixels - 0.5) / 0.5)
    assert answer.tolist() == [[3.0, 1.0]] * 2, "its outputs for our classes, in our order"
    assert seen[0].shape == (2, 3, 16, 16)
    torch.testing.assert_close(seen[0], torch.full((2, 3, 16, 16), 4.0))


@pytest.mark.parametrize("kind", ["hard", "soft"])
@pytest.mark.parametrize("token", [False, True])
def test_the_loss_of_distillation_is_the_published_one(kind: Any, token: bool) -> None:
    student = mu(dist_token=token, dist_head=token)
    with torch.no_grad():
        for p in student.parameters():
            p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    torch.manual_seed(9)
    other = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 4))
    teacher = Teacher(other, range(4), own=preprocessing(32), seen=preprocessing(32))
    settings = Settings(teacher="x", kind=kind, weight=0.3, temperature=2.0)
    objective = Distill(student, LabelLoss(), teacher, settings)
    found = objective(batch())["loss"]
    assert len(objective.state_dict()) == len(student.state_dict()), "nothing of the teacher"

    own, taught = student.forward_heads(student.forward_features(batch()["image"]))
    assert (taught is not None) == token
    learner = own if taught is None else taught
    answer = other(batch()["image"])
    if kind == "hard":
        distance = F.cross_entropy(learner, answer.argmax(1))
    else:
        p, q = (answer / 2).softmax(1), (learner / 2).softmax(1)
        distance = 4 * (p * (p.log() - q.log())).sum(1).mean()
    expected = 0.7 * F.cross_entropy(own, batch()["label"]) + 0.3 * distance
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_a_student_learns_from_a_run(tmp_path: Path) -> None:
    length = {"data.batch_size": 64, "schedule.total_steps": 120, "eval_every": 1}
    teacher = small(tmp_path / "teacher", **length)
    changes = {"arch.pool": "cls", "arch.cls_token": True, "arch.dist_token": True}
    changes |= {"arch.dist_head": True, "distill.weight": 1.0}
    student = small(
        tmp_path / "student", **length, **changes, **{"distill.teacher": str(teacher.folder)}
    )
    rows = [json.loads(r) for r in (student.folder / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["train_agreement"] > 0.35  # 0.52, where guessing has 0.1
    assert rows[-1]["train_agreement"] > rows[0]["train_agreement"] + 0.2


def test_a_teacher_must_know_the_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = small(tmp_path / "teacher")
    rng = np.random.default_rng(0)
    for k in range(24):
        path = tmp_path / "photos" / ("ant", "7")[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)
    flags = ["--weights", "none", "--model", "vit_mu_patch8_16", "--out", str(tmp_path / "run")]
    flags += ["--distill.teacher", str(teacher.folder)]
    assert main(["train", str(tmp_path / "photos"), *flags]) == 2
    assert "does not know 1 of 2 classes: ant" in capsys.readouterr().err


def test_the_plain_mean_is_of_the_last_steps() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = Average(model, None, start=3)
    for step in range(7):
        with torch.no_grad():
            model.weight.fill_(float(step))
        average.update(model, step)
    assert average.steps == 4
    assert average.weights["weight"].item() == pytest.approx((3 + 4 + 5 + 6) / 4)


@pytest.mark.slow
def test_a_run_uses_the_plain_mean_and_its_own_weights_before(tmp_path: Path) -> None:
    run = small(tmp_path / "run", **{"optim.average_from": 0.5, "schedule.total_steps": 40})
    saved = torch.load(run.folder / "checkpoints" / "last.pt", weights_only=True)
    assert saved["numbers"]["average_steps"] == 20
    rows = [json.loads(r) for r in (run.folder / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["val_loss"] < rows[0]["val_loss"]


def test_sharpness_is_refused_in_float16() -> None:
    with pytest.raises(ValueError, match=r"hint: --precision bfloat16"):
        Recipe(precision="float16", optim=Optim(sam_rho=0.05))


def test_two_averages_are_refused() -> None:
    with pytest.raises(ValueError, match=r"are two averages\nhint: give one"):
        Optim(ema_decay=0.9, average_from=0.5)


@pytest.mark.slow
def test_patience_ends_a_run_that_no_longer_learns_and_resume_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {**TINY, "optim.lr": 1e-12, "patience": 3, "schedule.total_steps": 400}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in changes.items()]
    call = ["train", "digits", "--out", str(tmp_path / "run"), *flags]
    assert main(call) == 0
    assert "has not fallen for 3 looks: training ends" in capsys.readouterr().err
    rows = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert 4 <= len(rows) <= 12
    assert main([*call, "--resume"]) == 0
    assert "is complete: nothing is left to train" in capsys.readouterr().err


@pytest.mark.parametrize(("room", "found"), [(1000, 256), (100, 64), (3, 2), (1, 0)])
def test_the_largest_power_of_two_is_found(room: int, found: int) -> None:
    def attempt(count: int) -> None:
        if count > room:
            raise torch.OutOfMemoryError("no room")

    assert largest_power_of_two(attempt, 256) == found


def test_no_batch_is_tried_that_would_end_the_process() -> None:
    held: list[bytearray] = []

    def attempt(count: int) -> None:
        held.append(bytearray(os.urandom(1)) * (count * (8 << 20)))

    found = largest_power_of_two(attempt, 1024, room=lambda: 200 << 20)
    assert 2 <= found <= 16, "32 would take 256 MiB of 200"


@pytest.mark.slow
def test_the_batch_size_that_fits_is_written_down(tmp_path: Path) -> None:
    run = small(tmp_path / "run", **{"data.batch_size": "auto"})
    text = (run.folder / "recipe.toml").read_text()
    assert "batch_size = 128\n" in text, "1,222 images give 152 an eighth of an epoch"


def test_tensorboard_gets_every_number_of_the_log(tmp_path: Path) -> None:
    run = small(tmp_path / "run", tensorboard=True)
    found = events.EventAccumulator(str(run.folder / "tensorboard"))
    found.Reload()
    rows = [json.loads(r) for r in (run.folder / "log.jsonl").read_text().splitlines()]
    for name in set(rows[0]) - {"step"}:
        points = found.Scalars(name)
        assert [p.step for p in points] == [row["step"] for row in rows]
        assert [p.value for p in points] == pytest.approx([row[name] for row in rows], rel=1e-6)


@pytest.mark.slow
def test_hardware_may_change_on_resume_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small(tmp_path / "run")
    call = ["train", "digits", "--out", str(tmp_path / "run"), "--resume"]
    assert main([*call, "--data.workers", "1", "--data.micro-batch-size", "5"]) == 0
    assert main([*call, "--optim.lr", "1"]) == 2
    assert "optim.lr was 0.005, now 1.0" in capsys.readouterr().err


def test_micro_batches_change_nothing_with_all_kinds_of_dropout() -> None:
    found = []
    for size in (None, 3):
        model = mu(depth=2, drop_rate=0.2, attn_drop_rate=0.2, drop_path_rate=0.3)
        recipe = Recipe()
        recipe = replace(recipe, data=replace(recipe.data, micro_batch_size=size))
        state = make_state(Classify(model), recipe, depth=2, stop=9)
        found.append(
            [train_step(state, batch(), recipe, lr=1e-3, device=CPU)["loss"] for _ in range(5)]
        )
    # Measured: 1.2e-7.
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-5)
