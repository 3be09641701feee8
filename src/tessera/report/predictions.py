"""What a model answered for every image of a split, as a table; and the confusion matrix as one."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from tessera.data.dataset import Dataset
from tessera.evaluation.base import Measured
from tessera.evaluation.classify import Result
from tessera.evaluation.multilabel import MultiLabelResult
from tessera.evaluation.regress import RegressionResult
from tessera.report.tables import TableFormat, write_table

MOST_CLASSES = 20
"""Up to so many classes, the probability of each has a column of its own."""


def predictions_name(split: str) -> str:
    """Return the name of a split's table, without the suffix."""
    return f"predictions-{split}"


def confusion_name(split: str) -> str:
    """Return the name of the file with a split's confusion matrix."""
    return f"confusion-{split}.csv"


def write_predictions(
    folder: Path, result: Measured, data: Dataset, kind: TableFormat = "csv"
) -> list[Path]:
    """Write the answers for a split, and for a classifier the confusion matrix, into a folder.

    Args:
        data: The images that were measured, in that order.

    Raises:
        RunError: Parquet is wanted, and pyarrow is not installed.
    """
    name = f"{predictions_name(result.split)}.{kind}"
    written = [write_table(folder / name, prediction_columns(result, data))]
    if isinstance(result, Result):
        matrix = zip(result.class_names, result.confusion.T.tolist(), strict=True)
        columns = {"true": list(result.class_names)} | {f"as {k}": cells for k, cells in matrix}
        written.append(write_table(folder / confusion_name(result.split), columns))
    return written


def prediction_columns(result: Measured, data: Dataset) -> dict[str, list[Any]]:
    """Return image, label, predicted and what else the task knows, a row an image.

    For a classifier: whether the answer is correct, its probability with the model's temperature,
    and up to 20 classes the probability of each, in a column ``p_<class>``. For several labels an
    image: the same without ``probability``, and correct means that all of them are. For a number:
    its error.
    """
    images = range(len(data))
    columns: dict[str, list[Any]] = {
        "image": [data.name(i) for i in images],
        "label": [data.label_text(i) for i in images],
    }
    names = result.class_names
    match result:
        case Result():
            probabilities = result.probabilities
            columns |= {
                "predicted": [names[k] for k in result.predicted],
                "correct": result.correct.tolist(),
                "probability": probabilities.max(axis=1).astype(np.float64).tolist(),
            }
            return columns | _per_class(names, probabilities)
        case MultiLabelResult():
            held = result.predicted
            columns |= {
                "predicted": ["|".join(names[k] for k in np.flatnonzero(row)) for row in held],
                "correct": (held == result.labels).all(axis=1).tolist(),
            }
            return columns | _per_class(names, result.probabilities)
        case RegressionResult():
            return columns | {
                "predicted": result.predicted.tolist(),
                "error": result.errors.tolist(),
            }
    raise TypeError(f"no table for {type(result).__name__}")


def _per_class(
    names: tuple[str, ...], probabilities: Float[np.ndarray, "n k"]
) -> dict[str, list[float]]:
    if len(names) > MOST_CLASSES:
        return {}
    columns = probabilities.T.astype(np.float64).tolist()
    return {f"p_{name}": column for name, column in zip(names, columns, strict=True)}
