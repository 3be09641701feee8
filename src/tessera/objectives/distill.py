"""Classification that a trained model helps to teach."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from tessera.data.loader import Batch
from tessera.data.preprocessing import Preprocessing
from tessera.models.vit import ViT
from tessera.objectives.base import Objective
from tessera.objectives.classify import LabelLoss
from tessera.recipe import Distill as Settings


class Teacher:
    """A frozen model that answers for the images of a student's batch, as it wants to see them.

    Args:
        model: On the device of the batches.
        columns: Output of the teacher for every class of the student.
        own: How the teacher's images are made; only size, channels, mean and deviation count.
        seen: How the batches are made.
    """

    def __init__(
        self,
        model: nn.Module,
        columns: Sequence[int],
        *,
        own: Preprocessing,
        seen: Preprocessing,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.columns = list(columns)
        self.own, self.seen = own, seen

    @torch.no_grad()
    def logits(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Return logits for the student's classes."""
        mean, std = _as_channels(self.seen.mean, images), _as_channels(self.seen.std, images)
        x = images * std + mean
        if x.shape[1] != self.own.channels:
            x = x.mean(dim=1, keepdim=True).expand(-1, self.own.channels, -1, -1)
        if tuple(x.shape[-2:]) != tuple(self.own.size):
            x = F.interpolate(x, self.own.size, mode="bilinear", antialias=True)
        x = (x - _as_channels(self.own.mean, x)) / _as_channels(self.own.std, x)
        return self.model(x)[:, self.columns].float()


class Distill(Objective):
    """(1 - w) of the labels' loss and w of the teacher's, w being ``weight``.

    hard: cross-entropy with the teacher's answer (Touvron et al., 2021, equation 3); soft: t^2
    times the Kullback-Leibler divergence of the softmax of logits / t (Hinton et al., 2015). A
    model with a head for the distillation token learns the teacher's part there, any other where it
    learns the labels.
    """

    def __init__(self, model: ViT, labels: LabelLoss, teacher: Teacher, settings: Settings) -> None:
        super().__init__()
        self.model = model
        self.labels = labels
        self.teacher = teacher  # no module of ours, so that nothing of it is trained or saved
        self.settings = settings

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        own, taught = self.model.forward_heads(self.model.forward_features(batch["image"]))
        numbers = self.labels(own, batch)
        answer = self.teacher.logits(batch["image"])
        learner = (own if taught is None else taught).float()
        distance = self._distance(learner, answer)
        share = self.settings.weight
        agreed = (learner.argmax(dim=-1) == answer.argmax(dim=-1)).float().mean()
        loss = (1 - share) * numbers["loss"] + share * distance
        return {**numbers, "loss": loss, "agreement": agreed}

    def _distance(self, learner: Tensor, answer: Tensor) -> Tensor:
        if self.settings.kind == "hard":
            return F.cross_entropy(learner, answer.argmax(dim=-1))
        t = self.settings.temperature
        logs = [F.log_softmax(logits / t, dim=-1) for logits in (learner, answer)]
        return t**2 * F.kl_div(logs[0], logs[1], reduction="batchmean", log_target=True)


def _as_channels(values: Sequence[float], images: Tensor) -> Tensor:
    return torch.tensor(values, dtype=images.dtype, device=images.device)[:, None, None]
