"""Compare variants, each with several seeds, beside what the literature claims."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from tyro.conf import Positional, arg

from tessera.cli.parse import Command
from tessera.recipe import Recipe, load
from tessera.run_folder import RECIPE


@dataclass(kw_only=True)
class Arguments(Command):
    """Train the variants of a study with several seeds, and say whether a claim holds here."""

    verb: ClassVar[str] = "study"

    name: Positional[str]
    """positions, pooling, patch-size, data-size, augmentation, drop-path or attention; see
    docs/guides/study.md."""
    data: Positional[str]
    """What to train and measure on, as for `tessera train`."""
    out: Path | None = None
    """Folder for results.html, results.md, results.json and plot.svg; runs/study-<name>-<data> if
    left out."""
    recipe: str | None = None
    """A shipped recipe or a TOML file, of which the variants are changes; its values are the
    defaults of the flags below."""
    seeds: tuple[int, ...] | None = None
    """Seeds of every variant; --seed and the two after it if left out, of positions four."""
    variants: tuple[str, ...] | None = None
    """Variants to train; all if left out."""
    steps: int | None = None
    """Optimizer steps of every training; short for --schedule.total-steps."""
    train_images: int | None = None
    """Draw so many training images, stratified, by the seed."""
    places: bool = False
    """Of positions: compare every place that a scheme can have, not only its usual one."""
    jobs: int | None = None
    """Trainings at once, with one thread each on a processor; one for each core if left out, and
    one on a GPU."""
    resume: bool = False
    """Go on where the folder was left; what is finished is kept, and --seeds may add to it."""
    format: Literal["table", "json"] = "table"
    """A table for people, or every number for programs."""
    settings: Annotated[Recipe, arg(name="")] = field(default_factory=Recipe)

    @classmethod
    def parse(cls, args: list[str]) -> "Arguments":
        """Read twice: first for the study and the data, then with their recipe's defaults."""
        if {"-h", "--help"} & set(args):
            return cls.read(args)
        first = cls.read(args)
        default = cls(name=first.name, data=first.data, settings=first._base())
        return cls.read(args, default)

    def _base(self) -> Recipe:
        """Return the recipe that the flags change."""
        from tessera.studies.conduct import default_out
        from tessera.studies.plan import study_recipe

        folder = self.out or default_out(self.name, self.data)
        if self.resume and self.recipe is None and (folder / RECIPE).is_file():
            return load(folder / RECIPE)
        return study_recipe(self.name, self.data, self.recipe)

    def run(self) -> int:
        """Train, and print the table."""
        from rich.console import Console

        from tessera.studies.conduct import study
        from tessera.studies.results import markdown
        from tessera.training.faults import StoppedError

        console = Console(stderr=True)
        try:
            found = study(
                self.name,
                self.data,
                recipe=self.settings,
                variants=self.variants,
                seeds=self.seeds,
                train_images=self.train_images,
                places=self.places,
                out=self.out,
                resume=self.resume,
                jobs=self.jobs,
                overrides={} if self.steps is None else {"schedule.total_steps": self.steps},
                console=console,
            )
        except StoppedError as stopped:
            if stopped.signal_name != "SIGTERM":
                raise
            console.print(str(stopped), highlight=False, markup=False, soft_wrap=True)
            return 0
        if self.format == "json":
            print(json.dumps(found.as_dict(), indent=2))
        else:
            print(markdown(found), end="")
            print(f"\nreport  {found.folder / 'results.html'}")
        return 0
