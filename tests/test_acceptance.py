"""Whole trainings of the shipped recipes."""

from pathlib import Path

import pytest

import tessera


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_digits_are_learnt_to_98_and_a_half_percent(tmp_path: Path) -> None:
    runs = [tessera.train("digits", out=tmp_path / str(seed), seed=seed) for seed in range(3)]
    accuracies = [run.results["test"].score.interval.value for run in runs]
    assert {len(run.results["test"].labels) for run in runs} == {359}
    assert sum(accuracies) / 3 >= 0.985, accuracies


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_short_training_on_real_photographs_runs(shared: Path, tmp_path: Path) -> None:
    run = tessera.train(
        shared / "data" / "ants-bees",
        model="vit_tiny_patch16_224",
        weights="none",
        out=tmp_path / "run",
        overrides={"schedule.epochs": 2, "arch.depth": 4},
    )
    assert len(run.results["test"].labels) == 153
    assert run.results["test"].class_names == ("ants", "bees")
    assert 0.4 < run.results["test"].score.interval.value <= 1
    predictor = tessera.load(run.folder)
    image = next((shared / "data" / "ants-bees" / "test" / "ants").iterdir())
    assert set(predictor.predict([image])[0].labels) == {"ants", "bees"}


TINY = Path("weights") / "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("recipe", ["linear-probe", "finetune"])
def test_a_pretrained_model_learns_ants_and_bees(recipe: str, shared: Path, tmp_path: Path) -> None:
    run = tessera.train(
        shared / "data" / "ants-bees",
        weights=str(shared / TINY),
        recipe=recipe,
        out=tmp_path / "run",
    )
    # Measured: 97.4 % for the linear probe, 94.8 % for fine-tuning.
    assert run.results["test"].score.interval.value >= 0.92
    assert len(run.results["test"].labels) == 153
    again = tessera.evaluate(run.folder, shared / "data" / "ants-bees").result
    assert again.score.interval == run.results["test"].score.interval
