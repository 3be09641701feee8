"""The test with corruptions that cameras, weather and files cause."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from tessera.data.images import to_channels
from tessera.data.loader import cores
from tessera.robustness.corruptions import STANDARD, corrupt
from tessera.stress.levels import Level, Planned
from tessera.stress.settings import StressSettings
from tessera.stress.subject import Found, Subject


def plan_corruptions(subject: Subject, settings: StressSettings) -> Planned:
    """Corruptions at every severity, of the pixels that the model would see."""
    names = settings.corruptions or tuple(STANDARD)
    return Planned(
        levels=[
            _level(subject, name, severity) for name in names for severity in settings.severities
        ]
    )


def _level(subject: Subject, name: str, severity: int) -> Level:
    def measure() -> Found:
        def change(pixels: Tensor, rows: slice) -> Tensor:
            return corrupted(subject, rows, name, severity).to(pixels.device).float() / 255

        return subject.found([subject.answers(change)])

    return Level(
        series=name,
        value=float(severity),
        text=str(severity),
        passes=len(subject.data),
        measure=measure,
    )


def corrupted(subject: Subject, rows: slice, name: str, severity: int) -> Tensor:
    """Return bytes of corrupted images; what is random is of the image, name and severity alone."""
    purpose = f"{name} {severity}"

    def one(place: int) -> Tensor:
        image = rearrange(subject.pixels[place].numpy(), "c h w -> h w c")
        grey = image.shape[2] == 1
        colour = np.repeat(image, 3, axis=2) if grey else np.ascontiguousarray(image)
        changed = corrupt(colour, name, severity, subject.rng(purpose, subject.keys[place]))
        if grey:
            changed = np.asarray(to_channels(Image.fromarray(changed), 1))[..., None]
        return torch.from_numpy(rearrange(changed, "h w c -> c h w").copy())

    with ThreadPoolExecutor(cores()) as pool:
        return torch.stack(list(pool.map(one, range(rows.start, rows.stop))))
