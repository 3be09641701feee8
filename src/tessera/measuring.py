"""Measurement of any MODEL on any DATA, with a report."""

import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tessera.checkpoint.artifact import Header
from tessera.checkpoint.load import load_model
from tessera.data.holdout import load_data
from tessera.data.sources import find_data
from tessera.data.splits import DataSplits
from tessera.devices import pick_device
from tessera.evaluation.base import Measured
from tessera.evaluation.measure import measure
from tessera.recipe import Data, Recipe, merge
from tessera.report.environment import environment, peak_memory
from tessera.report.facts import data_facts, model_facts
from tessera.report.predictions import write_predictions
from tessera.report.report import Report, write_report
from tessera.report.tables import TableFormat, require_pyarrow
from tessera.run_folder import refuse_used


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured, and where it is written."""

    result: Measured
    report: Path | None

    def as_dict(self) -> dict[str, Any]:
        """Return the numbers as JSON knows them."""
        return self.result.as_dict()


def evaluate(
    model: str | Path,
    data: str | Path,
    *,
    split: str = "test",
    out: str | Path | None = None,
    predictions: TableFormat = "csv",
    device: str = "auto",
    batch_size: int = 256,
    bad_share: float = 0.05,
    offline: bool = False,
) -> Evaluation:
    """Measure a MODEL on a split of DATA; write report and tables where ``out`` names a folder.

    Classes are matched by name. Validation that training cut off is cut off in the same place.

    Args:
        predictions: Kind of file for the answers to every image.
        bad_share: Share of the images that may be unreadable; they are left out, and named.

    Raises:
        ValueError: The data has no such split, or classes that the model does not know.
        RunError: Parquet is wanted, and pyarrow is not installed.
    """
    if out is not None:
        refuse_used(Path(out))
        if predictions == "parquet":  # else hours of measuring might end in this
            require_pyarrow()
    loaded = load_model(model, offline=offline)
    card = loaded.header.card
    splits = splits_as_in_training(str(data), split, loaded.header)
    chosen = splits[split].relabel(loaded.header.class_names)
    picked = pick_device(device)
    result = measure(
        loaded.model.to(picked),
        chosen,
        loaded.header.preprocessing,
        split=split,
        device=picked,
        batch_size=batch_size,
        bad_share=bad_share,
    )
    result = replace(result, temperature=loaded.header.temperature)
    if out is None:
        return Evaluation(result=result, report=None)
    folder, measured = Path(out), chosen.subset(result.rows)
    folder.mkdir(parents=True, exist_ok=True)
    tables = write_predictions(folder, result, measured, predictions)
    report = Report(
        title=f"{Path(model).name} on {data}",
        model=model_facts(loaded.model, loaded.header),
        data=data_facts(splits, [split]),
        results=[(result, measured)],
        environment=environment(picked),
        recipe=str(card.get("recipe", "")),
        seed=card.get("seed"),
        memory=peak_memory(picked),
        files=[path.name for path in tables],
    )
    return Evaluation(result=result, report=write_report(folder, report))


def splits_as_in_training(spec: str, split: str, header: Header) -> DataSplits:
    """Find the data; where it lacks the split, cut it as the run did that made the model."""
    found = find_data(spec)
    if found.task != header.task:
        raise ValueError(
            f"the model answers the task {header.task}, and {spec} is labelled for {found.task}\n"
            "hint: give data of the kind that the model was trained on"
        )
    for part in found.splits.values():
        part.relabel(header.class_names)
    if split in found.splits and split != "train":
        return found
    text = str(header.card.get("recipe", ""))
    settings = merge(Recipe(), tomllib.loads(text)).data if text else Data()
    return load_data(spec, settings)
