"""Starting from weights: heads, frozen layers, averages, layer-wise decay."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import tessera
from tessera.models.variants import parse
from tessera.models.vit import ViT
from tessera.optim.ema import Average
from tessera.optim.groups import layer_of, parameter_groups

SMALL: dict[str, Any] = {
    "schedule.total_steps": 12,
    "schedule.warmup_steps": 2,
    "eval_every": 0.25,
    "data.batch_size": 64,
    "arch.depth": 2,
    "arch.embed_dim": 32,
    "arch.mlp_dim": 64,
}


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model trained on digits."""
    out = tmp_path_factory.mktemp("start") / "run"
    tessera.train("digits", out=out, overrides=SMALL)
    return out


def digits_by_other_names(folder: Path) -> Path:
    """Some digits as image files under other class names."""
    from tessera.data.holdout import load_data

    data = load_data("digits")["train"]
    counts = dict.fromkeys(range(3), 0)
    for i in range(len(data)):
        label = int(data.labels[i])
        if label < 3 and counts[label] < 20:
            counts[label] += 1
            place = folder / f"class-{label}"
            place.mkdir(parents=True, exist_ok=True)
            data.read(i).save(place / f"{i}.png")
    return folder


def test_other_classes_get_a_new_head_and_keep_the_backbone(start: Path, tmp_path: Path) -> None:
    run = tessera.train(
        digits_by_other_names(tmp_path / "data"),
        recipe="digits",
        weights=str(start),
        out=tmp_path / "run",
        overrides={**SMALL, "optim.lr": 1e-12, "optim.weight_decay": 0.0},
    )
    before, after = load_file(start / "model.safetensors"), load_file(run.model)
    assert after["head.weight"].shape[0] == 3
    assert after["head.weight"].abs().max() < 1e-9  # it began at zero, and hardly moved
    for name in before:
        if not name.startswith("head"):
            torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-9)


def test_the_same_classes_keep_the_head(start: Path, tmp_path: Path) -> None:
    run = tessera.train(
        "digits",
        weights=str(start),
        out=tmp_path / "run",
        overrides={**SMALL, "optim.lr": 1e-12, "optim.weight_decay": 0.0},
    )
    before = tessera.evaluate(start, "digits").result
    assert run.results["test"].score.interval == before.score.interval


def test_only_the_head_learns_at_first(start: Path, tmp_path: Path) -> None:
    changes = {**SMALL, "optim.head_only_epochs": 100.0, "optim.weight_decay": 0.0}
    data = digits_by_other_names(tmp_path / "data")
    run = tessera.train(
        data, recipe="digits", weights=str(start), out=tmp_path / "run", overrides=changes
    )
    before, after = load_file(start / "model.safetensors"), load_file(run.model)
    assert after["head.weight"].abs().max() > 1e-4
    assert all(torch.equal(after[n], before[n]) for n in before if not n.startswith("head"))


def test_the_backbone_learns_after_that(start: Path, tmp_path: Path) -> None:
    changes = {**SMALL, "schedule.total_steps": 12, "optim.head_only_epochs": 1.0}
    data = digits_by_other_names(tmp_path / "data")
    run = tessera.train(
        data, recipe="digits", weights=str(start), out=tmp_path / "run", overrides=changes
    )
    last = torch.load(run.folder / "checkpoints/last.pt", weights_only=True)["tensors"]
    before = load_file(start / "model.safetensors")
    name = "blocks.0.mlp.fc1.weight"
    assert not torch.equal(last[f"objective/model.{name}"], before[name])


def test_what_cannot_differ_from_the_weights_is_refused(start: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mlp_dim"):
        tessera.train(
            "digits",
            weights=str(start),
            out=tmp_path / "run",
            overrides={**SMALL, "arch.mlp_dim": 128},
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_another_size_resamples_the_positions(start: Path, tmp_path: Path) -> None:
    run = tessera.train(
        "digits",
        weights=str(start),
        out=tmp_path / "run",
        overrides={**SMALL, "arch.img_size": 24},
    )
    assert load_file(run.model)["pos_embed.table"].shape == (1, 1 + 6 * 6, 32)
    assert tessera.load(run.folder).header.preprocessing.size == (24, 24)


def test_the_linear_probe_leaves_the_backbone_alone(start: Path, tmp_path: Path) -> None:
    data = digits_by_other_names(tmp_path / "data")
    run = tessera.train(data, recipe="linear-probe", weights=str(start), out=tmp_path / "run")
    before, after = load_file(start / "model.safetensors"), load_file(run.model)
    assert all(torch.equal(after[n], before[n]) for n in before if not n.startswith("head"))
    assert run.results["val"].score.interval.value > 0.5  # of three classes
    again = tessera.train(data, out=run.folder, resume=True)  # from the features it kept
    assert again.results["val"].score.interval == run.results["val"].score.interval


def test_layer_decay_makes_lower_layers_slower() -> None:
    model = ViT(parse("vit_mu_patch16", img_size=32, depth=3, num_registers=1, pool="map"))
    groups = parameter_groups(model, 0.1, layer_decay=0.5, depth=3)
    scales = {id(p): g["lr_scale"] for g in groups for p in g["params"]}
    for name, parameter in model.named_parameters():
        layer = layer_of(name, 3)
        assert scales[id(parameter)] == 0.5 ** (4 - layer)
    assert layer_of("patch_embed.proj.weight", 3) == layer_of("model.register_tokens", 3) == 0
    assert layer_of("blocks.2.norm1.weight", 3) == 3
    assert layer_of("attn_pool.q.weight", 3) == layer_of("norm.weight", 3) == 4
    assert len(scales) == len(list(model.parameters()))


def test_the_average_follows_the_weights() -> None:
    model = torch.nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.fill_(0.0)
    average = Average(model, 0.9)
    with torch.no_grad():
        model.weight.fill_(1.0)
    expected = 0.0
    for step in range(200):
        average.update(model, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay)
    torch.testing.assert_close(average.weights["weight"], torch.full((1, 2), expected))
    assert expected > 0.99


@pytest.mark.slow
def test_averaged_weights_are_what_is_saved_and_survive_a_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tessera.training import run as module

    changes = {**SMALL, "optim.ema_decay": 0.9}
    whole = tessera.train("digits", out=tmp_path / "whole", overrides=changes)
    last = torch.load(whole.folder / "checkpoints/last.pt", weights_only=True)
    average = last["tensors"]["average/model.head.weight"]
    assert not torch.equal(average, last["tensors"]["objective/model.head.weight"])
    assert torch.equal(average, load_file(whole.model)["head.weight"])

    save = module.Run.save

    def save_and_die(self: module.Run, result: Any) -> bool:
        better = save(self, result)
        if self.state.step == 10:
            raise KeyboardInterrupt
        return better

    monkeypatch.setattr(module.Run, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        tessera.train("digits", out=tmp_path / "broken", overrides=changes)
    monkeypatch.undo()
    resumed = tessera.train("digits", out=tmp_path / "broken", resume=True)
    one, two = load_file(whole.model), load_file(resumed.model)
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.mark.slow
def test_a_run_that_stops_while_only_the_head_learns_goes_on_so(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = digits_by_other_names(tmp_path / "data")
    changes = {
        **SMALL,
        "optim.head_only_epochs": 0.5,
        "save_every": 1,
        "schedule.total_steps": 4,
        "data.batch_size": 16,
    }
    options: dict[str, Any] = {"recipe": "digits", "weights": str(start), "overrides": changes}
    whole = tessera.train(data, out=tmp_path / "whole", **options)

    class StopError(Exception):
        pass

    from tessera.training import run as module

    save = module.Run.save_state

    def save_and_stop(self: module.Run) -> None:
        save(self)
        if self.state.step == 1:
            raise StopError

    monkeypatch.setattr(module.Run, "save_state", save_and_stop)
    with pytest.raises(StopError):
        tessera.train(data, out=tmp_path / "broken", **options)
    monkeypatch.undo()
    again = tessera.train(data, out=tmp_path / "broken", resume=True)
    ours, theirs = load_file(again.model), load_file(whole.model)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
