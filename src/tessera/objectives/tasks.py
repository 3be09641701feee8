"""Which objective learns which task, with the numbers that it takes from the training labels."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from tessera.data.dataset import Dataset
from tessera.models.vit import ViT
from tessera.objectives.base import Objective
from tessera.objectives.classify import Classify, LabelLoss
from tessera.objectives.distill import Distill, Teacher
from tessera.objectives.multilabel import MultiLabel
from tessera.objectives.regress import Regress
from tessera.recipe import Recipe


def make_objective(
    model: ViT, data: Dataset, recipe: Recipe, teacher: Teacher | None = None
) -> Objective:
    """Return the objective for the task of the training images.

    Raises:
        ValueError: The recipe asks for what is not defined for that task.
    """
    if data.task != "classify" and (recipe.loss != "cross-entropy" or teacher is not None):
        what = "loss" if teacher is None else "distill.teacher"
        raise ValueError(
            f"{what} is for one class an image, and the labels are of the task {data.task}\n"
            f"hint: leave --{what} out"
        )
    if data.task == "regress":
        values = data.labels.astype(np.float64)
        return Regress(model, mean=float(values.mean()), std=float(values.std()) or 1.0)
    weights = class_weights(data) if recipe.class_weights == "balanced" else None
    if data.task == "multilabel":
        return MultiLabel(model, label_smoothing=recipe.label_smoothing, class_weights=weights)
    smoothing = recipe.label_smoothing
    labels = LabelLoss(recipe.loss, label_smoothing=smoothing, class_weights=weights)
    if teacher is None:
        return Classify(model, labels)
    return Distill(model, labels, teacher, recipe.distill)


def class_weights(data: Dataset) -> Float[Tensor, " k"]:
    """Return factors that let every class weigh the same, rare or not.

    For one class an image they are images / (classes * images of the class), sklearn's "balanced";
    for several labels the number of images without the label over that of those with it.
    """
    counts = data.class_counts().astype(np.float64)
    if data.task == "multilabel":
        factors = (len(data) - counts) / np.maximum(counts, 1)
    else:
        factors = len(data) / (len(counts) * np.maximum(counts, 1))
    return torch.tensor(factors, dtype=torch.float32)
