"""Whole trainings of the shipped recipes."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest

import tessera
from tessera.data.dataset import Dataset
from tessera.data.sources import find_data


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


def write_archive(data: Dataset, count: int, folder: Path) -> None:
    """Write images in the format of CIFAR-10's binary archive."""
    names = "\n".join(data.class_names)
    (folder / "batches.meta.txt").write_text(names + "\n", encoding="utf-8")
    rows = []
    for i in range(count):
        planes = np.asarray(data.read(i)).transpose(2, 0, 1)
        rows.append(np.concatenate([[data.labels[i]], planes.reshape(-1)]).astype(np.uint8))
    for k, part in enumerate(np.array_split(np.stack(rows), 6)):
        name = f"data_batch_{k + 1}.bin" if k < 5 else "test_batch.bin"
        (folder / name).write_bytes(part.tobytes())


def write_shards(data: Dataset, count: int, folder: Path) -> None:
    """Write images as WebDataset shards of a training and a test split."""
    for split, numbers in (
        ("train", range(count * 5 // 6)),
        ("test", range(count * 5 // 6, count)),
    ):
        with tarfile.open(folder / f"{split}-000.tar", "w") as file:
            for i in numbers:
                stream = io.BytesIO()
                data.read(i).save(stream, "PNG")
                text = data.class_names[data.labels[i]].encode()
                for suffix, content in (("png", stream.getvalue()), ("cls", text)):
                    member = tarfile.TarInfo(f"{i:06d}.{suffix}")
                    member.size = len(content)
                    file.addfile(member, io.BytesIO(content))


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["parquet", "archive", "shards"])
def test_cifar_trains_from_wherever_it_lies(kind: str, shared: Path, tmp_path: Path) -> None:
    spec = str(shared / "data" / "cifar10")
    train = find_data(spec)["train"]
    if kind != "parquet":
        (tmp_path / "made").mkdir()
        write = write_archive if kind == "archive" else write_shards
        write(train, 1200, tmp_path / "made")
        spec = f"cifar10:{tmp_path / 'made'}" if kind == "archive" else str(tmp_path / "made")
    run = tessera.train(
        spec,
        model="vit_mu_patch8_32",
        weights="none",
        out=tmp_path / "run",
        overrides={"schedule.total_steps": 20, "arch.depth": 2, "data.near_duplicates": False},
    )
    assert run.results["test"].class_names == train.class_names
    assert len(run.results["test"].labels) == (10_000 if kind == "parquet" else 200)
