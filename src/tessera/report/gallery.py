"""Which images a report shows: where a model is most wrong, and a sample of where it is right."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from tessera.data.dataset import Dataset
from tessera.evaluation.base import Measured
from tessera.evaluation.classify import Result
from tessera.evaluation.multilabel import MultiLabelResult
from tessera.evaluation.regress import RegressionResult
from tessera.report.figures import thumbnail

EXAMPLES = 18
"""Images shown of each kind."""


def examples(result: Measured, data: Dataset, *, wrong: bool) -> list[dict[str, Any]]:
    """Pick the worst mistakes, or an even sample of right answers, with what was answered.

    Args:
        data: The images that were measured.
    """
    is_wrong, badness, texts = _judge(result)
    if wrong:
        rows = np.flatnonzero(is_wrong)
        rows = rows[np.argsort(-badness[rows], kind="stable")][:EXAMPLES]
    else:
        rows = np.flatnonzero(~is_wrong)
        rows = rows[np.linspace(0, len(rows) - 1, min(EXAMPLES, len(rows)), dtype=int)]
    return [
        {
            "image": thumbnail(data.read(int(row))),
            "name": data.name(int(row)),
            "true": data.label_text(int(row)) or "none",
            "predicted": texts(int(row)),
        }
        for row in rows
    ]


def _judge(result: Measured) -> tuple[Bool[np.ndarray, " n"], Float[np.ndarray, " n"], Any]:
    """Return which answers are wrong, how badly, and how to write one."""
    match result:
        case Result():
            predicted: Int[np.ndarray, " n"] = result.predicted
            sure = result.probabilities.max(axis=1).astype(np.float64)
            return (
                predicted != result.labels,
                sure,
                lambda i: f"{result.class_names[predicted[i]]} {100 * sure[i]:.0f} %",
            )
        case MultiLabelResult():
            held = result.predicted
            badness = np.abs(result.probabilities - result.labels).max(axis=1)
            names = result.class_names
            return (
                (held != result.labels).any(axis=1),
                badness,
                lambda i: "|".join(names[k] for k in np.flatnonzero(held[i])) or "none",
            )
        case RegressionResult():
            sizes = np.abs(result.errors)
            worse = sizes > np.median(sizes)
            return worse, sizes, lambda i: f"{result.predicted[i]:.4g}"
    raise TypeError(f"no gallery for {type(result).__name__}")
