"""Show what a model looks at."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from tyro.conf import Positional

from tessera.cli.parse import Command

if TYPE_CHECKING:
    from tessera.explain.results import Explanation


@dataclass(kw_only=True)
class Arguments(Command):
    """Show what a model looks at in images, and how far to believe the map.

    Writes the map over each image, the raw maps, and a page with the scores: does the model use
    what the map points at, and does the map change when the weights are random?
    """

    verb: ClassVar[str] = "explain"

    model: Positional[str]
    """A run folder, a checkpoint file or folder, or <model>.<tag> of published weights."""
    inputs: Positional[tuple[str, ...]] = ()
    """Image files, folders of them, or images of a data set, such as digits:test."""
    method: tuple[
        Literal[
            "relevance",
            "rollout",
            "gradient-rollout",
            "attention",
            "grad-cam",
            "integrated-gradients",
            "occlusion",
            "pca",
        ],
        ...,
    ] = ()
    """One or more; left out: relevance, or the nearest to it without encoder or head."""
    target: str | None = None
    """The class to explain, by name or number; left out: what the model says of each image."""
    block: int | None = None
    """For attention and grad-cam: which block, from 0 over all stages, or from the end below 0."""
    head: int | None = None
    """For attention: which head, from 0; left out: the mean of all."""
    steps: int = 32
    """Points of integrated gradients between the mean colour and the image."""
    curve_steps: int = 10
    """Points of the deletion and insertion curves; 0 leaves these scores out."""
    sanity_images: int = 3
    """Images on which maps of random weights are looked at; 0 leaves the check out."""
    seed: int = 0
    """Of random maps and random weights."""
    limit: int | None = None
    """Stop after so many images."""
    model_only: bool = False
    """What the model has learnt instead; attention distance and token norms want some images."""
    out: Path | None = None
    """Folder to write; runs/explain-<name of the model> if left out. It must be new or empty."""
    device: str = "auto"
    """auto takes cuda, else mps, else cpu."""
    offline: bool = False
    """Never fetch published weights; take them from the cache or not at all."""

    def run(self) -> int:
        """Explain; the status is 1 when some image could not be read."""
        import sys

        from rich.console import Console

        from tessera.data.inputs import find_images
        from tessera.explaining import ExplainSettings, explain, explain_model

        if not self.inputs and not self.model_only:
            raise ValueError(
                "no images given\nhint: give files, folders, or digits:test; or --model-only"
            )
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"--limit {self.limit} must be at least 1")
        out = self.out or Path("runs") / f"explain-{Path(self.model).resolve().name}"
        console = Console(stderr=True)
        sources = [source for _, source in find_images(self.inputs)][: self.limit]
        if self.model_only:
            sections = explain_model(
                self.model,
                sources,
                out=out,
                device=self.device,
                offline=self.offline,
                console=console,
            )
            for name, section in sections.items():
                print(f"{name:<10} {section.note or section.text}")
            print(f"page       {out / 'explain.html'}")
            return 0
        settings = ExplainSettings(
            methods=self.method,
            target=self.target,
            block=self.block,
            head=self.head,
            steps=self.steps,
            curve_steps=self.curve_steps,
            sanity_images=self.sanity_images,
            seed=self.seed,
        )
        found = explain(
            self.model,
            sources,
            settings,
            out=out,
            device=self.device,
            offline=self.offline,
            console=console,
        )
        print(_table(found))
        for message in found.facts["unreadable"]:
            print(f"error: {message}", file=sys.stderr)
        return 1 if found.facts["unreadable"] else 0


def _table(found: "Explanation") -> str:
    lines = []
    for image in found.images[:10]:
        target = "" if image.target is None else f"  {image.target} {image.answer:.3f}"
        lines.append(f"{image.name}{target}")
        lines += [f"  {one.method:<21} {one.verdict or one.note}".rstrip() for one in image.maps]
    if len(found.images) > 10:
        lines.append(f"and {len(found.images) - 10} more")
    for name in found.facts["methods"]:
        summary = found.summary(name)
        if summary["sanity"] is not None:
            lines.append(f"{name:<21} {summary['sanity']['words']}")
    return "\n".join([*lines, f"page                  {found.page}"])
