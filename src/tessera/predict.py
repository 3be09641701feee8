"""Images in, labels out: a model with its own preprocessing and class names."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from tessera.checkpoint.artifact import LoadedModel
from tessera.checkpoint.load import load_model
from tessera.data.images import as_image

Source = str | Path | Image.Image | np.ndarray
"""A path, a PIL image, or an array of uint8."""


class Prediction(NamedTuple):
    """The most likely classes of an image, most likely first; or a number."""

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]
    """They sum to 1 over all classes; of labels of which several may hold, each is its own.

    With the temperature that the model's calibration says, if it has one."""
    value: float | None = None
    """What a regression answers, which has no labels."""


class Predictor:
    """Answers for images with exactly the preprocessing that the model was evaluated with.

    Args:
        batch_size: Images per forward pass.
    """

    def __init__(
        self, loaded: LoadedModel, *, device: torch.device | str = "cpu", batch_size: int = 64
    ) -> None:
        self.device = torch.device(device)
        self.model = loaded.model.to(self.device).eval()
        self.header = loaded.header
        self.batch_size = batch_size

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the outputs; their numbers where the model was saved without names."""
        count = self.header.config.num_classes
        return self.header.class_names or tuple(str(k) for k in range(count))

    @torch.inference_mode()
    def logits(self, images: Sequence[Source]) -> Float[np.ndarray, "b k"]:
        """Return the outputs of the head as they are, without any temperature.

        Raises:
            ImageError: An image cannot be read.
        """
        parts = [self.model(batch).float().cpu() for batch in self._batches(images)]
        width = self.header.config.num_classes or self.header.config.embed_dim
        return torch.cat(parts).numpy() if parts else np.empty((0, width), np.float32)

    @torch.inference_mode()
    def embed(self, images: Sequence[Source]) -> Float[np.ndarray, "b d"]:
        """Return the pooled tokens, before the head.

        Raises:
            ImageError: An image cannot be read.
        """
        parts = [
            self.model.pool(self.model.forward_features(batch)).float().cpu()
            for batch in self._batches(images)
        ]
        width = self.header.config.embed_dim
        return torch.cat(parts).numpy() if parts else np.empty((0, width), np.float32)

    def predict(self, images: Sequence[Source], *, top_k: int = 5) -> list[Prediction]:
        """Return the ``top_k`` most likely classes of every image, or all if there are fewer.

        Raises:
            ImageError: An image cannot be read.
            ValueError: ``top_k`` is less than 1, or the model has no head.
        """
        return [self.name(row, top_k=top_k) for row in self.logits(images)]

    def name(self, logits: Float[np.ndarray, " k"], *, top_k: int = 5) -> Prediction:
        """Turn the logits of one image into names and probabilities.

        Raises:
            ValueError: ``top_k`` is less than 1, or the model has no head.
        """
        if top_k < 1:
            raise ValueError(f"top_k={top_k} must be at least 1")
        if not self.class_names:
            raise ValueError("the model has no head, so it knows no classes\nhint: use embed")
        if self.header.task == "regress":
            return Prediction((), (), float(logits[0]))
        if self.header.task == "multilabel":
            probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))
        else:
            probabilities = np.exp((logits - logits.max()) / (self.header.temperature or 1.0))
            probabilities /= probabilities.sum()
        best = np.argsort(-logits, kind="stable")[:top_k]  # rounding may make probabilities equal
        return Prediction(
            tuple(self.class_names[k] for k in best),
            tuple(float(probabilities[k]) for k in best),
        )

    def _batches(self, images: Sequence[Source]) -> Iterator[Tensor]:
        if isinstance(images, str | Path | Image.Image | np.ndarray):
            raise ValueError(
                f"images is a {type(images).__name__}, not a list of images\n"
                "hint: predictor.predict([image]), or list(images) for an array of several"
            )
        prepare = self.header.preprocessing
        for start in range(0, len(images), self.batch_size):
            chunk = images[start : start + self.batch_size]
            yield from _of_equal_size([prepare(as_image(source)) for source in chunk], self.device)


def _of_equal_size(images: list[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Stack neighbours of equal size; only images of native shape differ in it."""
    for _, same in groupby(images, key=lambda image: image.shape):
        yield torch.stack(list(same)).to(device)


def load(
    ref: str | Path, *, device: torch.device | str = "cpu", offline: bool = False
) -> Predictor:
    """Load any MODEL: an artefact, a run folder, a foreign checkpoint, or published weights.

    Raises:
        ValueError: Nothing is there, or it is not what it should be.
        RunError: Published weights cannot be fetched.
    """
    return Predictor(load_model(ref, offline=offline), device=device)
