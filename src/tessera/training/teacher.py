"""The trained model that a recipe names as teacher."""

import torch

from tessera.checkpoint.artifact import Header
from tessera.checkpoint.load import load_model
from tessera.objectives.distill import Teacher
from tessera.recipe import Recipe


def load_teacher(recipe: Recipe, header: Header, device: torch.device) -> Teacher | None:
    """Load the teacher, whose classes are matched by name; None where the recipe names none.

    Args:
        header: Of the student.

    Raises:
        ValueError: There is no such model, or it does not know all classes of the student.
        RunError: It cannot be fetched.
    """
    ref = recipe.distill.teacher
    if ref is None:
        return None
    loaded = load_model(ref, offline=recipe.offline)
    known = loaded.header.class_names
    lacking = [name for name in header.class_names if name not in known]
    if lacking:
        raise ValueError(
            f"distill.teacher={ref} does not know {len(lacking)} of {len(header.class_names)} "
            f"classes: {', '.join(lacking[:5])}\nhint: train the teacher on the same data first"
        )
    columns = [known.index(name) for name in header.class_names]
    return Teacher(
        loaded.model.to(device),
        columns,
        own=loaded.header.preprocessing,
        seen=header.preprocessing,
    )
