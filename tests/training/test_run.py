import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tessera
from tessera.recipe import Recipe, load, merge
from tessera.training.loop import DivergedError

SMALL = {
    "arch.depth": 1,
    "arch.embed_dim": 32,
    "arch.mlp_dim": 64,
    "schedule.total_steps": 12,
    "schedule.warmup_steps": 2,
    "eval_every": 0.25,
    "data.batch_size": 64,
}


def small(out: Path, **changes: object) -> tessera.TrainedRun:
    return tessera.train("digits", out=out, overrides={**SMALL, **changes})


def test_a_run_folder_holds_all_that_is_promised(tmp_path: Path) -> None:
    run = small(tmp_path / "run")
    names = {path.name for path in run.folder.iterdir()}
    assert names == {
        "recipe.toml",
        "log.jsonl",
        "environment.json",
        "checkpoints",
        "model.safetensors",
        "report.html",
        "report.json",
        *(
            f"{what}-{split}.csv"
            for what in ("predictions", "confusion")
            for split in ("test", "val")
        ),
    }
    assert load(run.folder / "recipe.toml").schedule.total_steps == 12
    rows = [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [5, 10, 12]
    report = json.loads((run.folder / "report.json").read_text())
    assert report["results"]["test"]["images"] == 359
    accuracy = report["results"]["test"]["accuracy"]["value"]
    assert accuracy == run.results["test"].score.interval.value
    assert report["data"]["fingerprint"]["train"]


def test_the_same_seed_gives_the_same_file_bit_for_bit(tmp_path: Path) -> None:
    one, two = small(tmp_path / "a"), small(tmp_path / "b")
    other = small(tmp_path / "c", seed=1)
    weights = [load_file(run.model) for run in (one, two, other)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_a_resumed_run_ends_where_an_unbroken_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"arch.drop_rate": 0.1, "augment.mixup": 0.2}
    whole = small(tmp_path / "whole", **changes)

    from tessera.training import run as module

    save = module.Run.save

    def save_and_die(self: module.Run, result: object) -> bool:
        better = save(self, result)  # type: ignore[arg-type]
        if self.state.step == 10:
            raise KeyboardInterrupt
        return better

    monkeypatch.setattr(module.Run, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path / "broken", **changes)
    monkeypatch.undo()
    resumed = tessera.train("digits", out=tmp_path / "broken", resume=True)
    name = "checkpoints/last.pt"
    one = torch.load(whole.folder / name, weights_only=True)
    two = torch.load(resumed.folder / name, weights_only=True)
    assert one["numbers"]["step"] == two["numbers"]["step"] == 12
    for key, tensor in one["tensors"].items():
        assert torch.equal(tensor, two["tensors"][key])
    steps = [json.loads(r)["step"] for r in (resumed.folder / "log.jsonl").read_text().splitlines()]
    assert steps == [5, 10, 12]


def test_resuming_a_complete_run_changes_nothing(tmp_path: Path) -> None:
    run = small(tmp_path / "run")
    before = run.model.read_bytes()
    again = tessera.train("digits", out=run.folder, resume=True)
    assert run.model.read_bytes() == before
    assert again.results["test"].score.interval == run.results["test"].score.interval


def test_resuming_with_another_recipe_names_the_difference(tmp_path: Path) -> None:
    run = small(tmp_path / "run")
    with pytest.raises(ValueError, match=r"optim\.lr was .*, now 0\.5"):
        tessera.train("digits", out=run.folder, resume=True, overrides={"optim.lr": 0.5})
    with pytest.raises(ValueError, match="holds no run that could be resumed"):
        tessera.train("digits", out=tmp_path / "nothing", resume=True)


def test_a_folder_that_holds_another_run_is_left_alone(tmp_path: Path) -> None:
    run = small(tmp_path / "run")
    before = {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=r"already holds another run.*\nhint: .*--out"):
        small(tmp_path / "run")
    assert {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file()} == before


def test_a_loss_that_is_not_finite_ends_the_run_with_a_message(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match=r"hint: lower --optim\.lr"):
        small(tmp_path / "run", **{"optim.lr": 1e30, "optim.clip_grad_norm": "none"})


def test_evaluating_the_artefact_repeats_the_numbers_of_the_run(tmp_path: Path) -> None:
    run = small(tmp_path / "run")
    for split in ("val", "test"):
        again = tessera.evaluate(run.folder, "digits", split=split).result
        assert again.score.interval == run.results[split].score.interval
        assert (again.logits == run.results[split].logits).all()


def test_weights_that_cannot_be_had_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no model at 'somebody'\nhint: "):
        small(tmp_path / "run", weights="somebody")


def test_a_recipe_in_code_trains_like_a_recipe_in_a_file(tmp_path: Path) -> None:
    recipe = merge(load("digits"), {"schedule": {"total_steps": 2}, "arch": {"depth": 1}})
    assert isinstance(recipe, Recipe)
    run = tessera.train("digits", recipe=recipe, out=tmp_path / "run", seed=3)
    assert load(run.folder / "recipe.toml").seed == 3


def test_a_run_does_not_go_on_with_other_images(tmp_path: Path) -> None:
    run = small(tmp_path / "run")
    path = run.folder / "environment.json"
    facts = json.loads(path.read_text(encoding="utf-8"))
    facts["data"]["train"] = "0" * 16
    path.write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(ValueError, match=r"other images than those of digits: train differ\nhint:"):
        tessera.train("digits", out=run.folder, resume=True)


@pytest.mark.slow
def test_a_run_that_failed_before_anything_was_saved_can_be_taken_up(tmp_path: Path) -> None:
    run = small(tmp_path / "run")
    (run.folder / "checkpoints" / "last.pt").unlink()
    again = tessera.train("digits", out=run.folder, resume=True)
    assert (again.results["test"].logits == run.results["test"].logits).all()


@pytest.mark.slow
def test_a_model_of_ours_is_named_as_the_start_of_another(tmp_path: Path) -> None:
    first = small(tmp_path / "first")
    second = small(tmp_path / "second", weights=str(first.folder))
    card = tessera.load(second.folder).header.card
    assert card["weights"] == str(first.folder)
    assert card["which_started_from"] == "none"
