"""Write a model in another format."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from tyro.conf import Positional

from tessera.cli.parse import Command
from tessera.overrides import ViTOverrides

LEFT_OUT = {
    "tessera": "",
    "timm": "origin and licence",
    "hf": "origin and licence",
    "npz": "class names, preprocessing, origin and licence",
}
"""What a format cannot say, apart from tensors."""


@dataclass(kw_only=True)
class Arguments(Command):
    """Write a model in another format; what that cannot say is refused, or named."""

    verb: ClassVar[str] = "convert"

    source: Positional[str]
    """A run folder, a checkpoint file or folder, or <model>.<tag> of published weights."""
    target: Positional[Path]
    """A file for tessera and npz, a folder for timm and hf; it must not exist."""
    to: Literal["tessera", "timm", "hf", "npz"]
    """Our artefact; timm's folder; a folder for transformers; the .npz of the paper's code."""
    class_names: Path | None = None
    """A text file with one class name a line, instead of those of the source."""
    crop: Literal["crop", "squash"] | None = None
    """How the source wants images fitted; like the next four, it overrides what the file says."""
    crop_pct: float | None = None
    """Share of the resized short side that the crop keeps."""
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None = None
    """Filter for resizing."""
    mean: tuple[float, ...] | None = None
    """Mean of each channel."""
    std: tuple[float, ...] | None = None
    """Deviation of each channel."""
    offline: bool = False
    """Never fetch published weights; take them from the cache or not at all."""
    arch: ViTOverrides = field(default_factory=ViTOverrides)

    def run(self) -> int:
        """Convert."""
        from tessera.checkpoint.load import load_model
        from tessera.checkpoint.write import WRITERS

        if self.target.exists():
            raise ValueError(
                f"{self.target} exists, and nothing is overwritten\nhint: name another"
            )
        if self.to == "tessera" and self.target.suffix != ".safetensors":
            raise ValueError(f"{self.target} should end in .safetensors")
        if self.to == "npz" and self.target.suffix != ".npz":
            raise ValueError(f"{self.target} should end in .npz")
        loaded = load_model(self.source, overrides=self.arch.given(), offline=self.offline)
        given: dict[str, Any] = {
            "crop": self.crop,
            "crop_pct": self.crop_pct,
            "interpolation": self.interpolation,
            "mean": self.mean,
            "std": self.std,
        }
        header = replace(
            loaded.header,
            preprocessing=replace(
                loaded.header.preprocessing, **{k: v for k, v in given.items() if v is not None}
            ),
        )
        if self.class_names is not None:
            lines = self.class_names.read_text(encoding="utf-8").splitlines()
            header = replace(header, class_names=tuple(line for line in lines if line.strip()))
        self.target.parent.mkdir(parents=True, exist_ok=True)
        WRITERS[self.to](replace(loaded, header=header), self.target)
        for line in header.card.get("conversion", ()):
            print(line)
        if LEFT_OUT[self.to]:
            print(f"left out, since the format has no place for it: {LEFT_OUT[self.to]}")
        if header.temperature is not None and self.to != "tessera":
            print(
                f"left out: the temperature; divide the logits by {header.temperature:.6g} before "
                "the softmax for the probabilities that `tessera predict` gives"
            )
        print(f"written: {self.target}")
        return 0
