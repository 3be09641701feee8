"""Classes of data and of models, matched by name."""

import numpy as np

from tessera.checkpoint.artifact import LoadedModel
from tessera.data.dataset import Dataset
from tessera.data.splits import DataSplits

NAMED = 5
"""Classes that a message names."""


def names_of(loaded: LoadedModel) -> tuple[str, ...]:
    """Return the names of a model's classes; their numbers where it was saved without names.

    Raises:
        ValueError: The model has no head, or does not answer with one class.
    """
    header = loaded.header
    if header.task != "classify" or header.config.num_classes < 2:
        what = "no head" if not header.config.num_classes else f"the task {header.task}"
        raise ValueError(
            f"{loaded.path} has {what}, and stress counts right answers\n"
            "hint: give a model that answers with one of its classes"
        )
    return header.class_names or tuple(str(k) for k in range(header.config.num_classes))


def require_known(found: DataSplits, names: tuple[str, ...], model: str) -> None:
    """Refuse a model that does not know all classes of the data.

    Raises:
        ValueError: It does not; the message says whether it knows any.
    """
    unknown = [name for name in found.class_names if name not in set(names)]
    if not unknown:
        return
    if len(unknown) == len(found.class_names):
        raise ValueError(_nothing_in_common(model, names, found.spec, found.class_names))
    raise ValueError(
        f"{model} does not know {len(unknown)} of the {len(found.class_names)} classes of "
        f"{found.spec}: {_some(unknown)}\nhint: give data whose classes the model knows"
    )


def known_only(data: Dataset, names: tuple[str, ...], model: str, spec: str) -> Dataset:
    """Return the images of classes that a model knows, numbered as it does.

    Raises:
        ValueError: It knows none of them.
    """
    known = [k for k, name in enumerate(data.class_names) if name in set(names)]
    rows = np.flatnonzero(np.isin(data.labels, known))
    if not len(rows):
        raise ValueError(_nothing_in_common(model, names, spec, data.class_names))
    return data.subset(rows).relabel(names)


def _nothing_in_common(
    model: str, names: tuple[str, ...], spec: str, classes: tuple[str, ...]
) -> str:
    return (
        f"{model} and {spec} have no class in common: the model knows {_some(names)}, the data "
        f"has {_some(classes)}\nhint: classes are matched by name; rename the folders or labels, "
        "or give another model"
    )


def _some(names: tuple[str, ...] | list[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
