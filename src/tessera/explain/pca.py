"""The last tokens as colours: tokens that mean the same look the same."""

import torch
from jaxtyping import Float
from torch import Tensor

from tessera.explain.question import Question
from tessera.models.vit import ViT


@torch.no_grad()
def token_pca(
    model: ViT, image: Float[Tensor, "1 c h w"], question: Question
) -> Float[Tensor, "rows columns 3"]:
    """Return the first three principal components of the last patch tokens of one image.

    As in the figures of Oquab et al. (2023), "DINOv2". The sign of a component is free: here its
    largest value is positive. Components that do not exist are 0. Knows no class.
    """
    tokens = model.forward_features(image)
    question.on_batch(1)
    x = tokens.patches[0].cpu().double()
    x = x - x.mean(dim=0)
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    parts = (u * s)[:, :3]
    peaks = parts.gather(0, parts.abs().argmax(dim=0, keepdim=True))
    parts = parts * torch.where(peaks < 0, -1.0, 1.0)
    parts = torch.nn.functional.pad(parts, (0, 3 - parts.shape[1]))
    return parts.reshape(*tokens.grid, 3).float()
