"""Train a Vision Transformer on labelled images."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, ClassVar

from tyro.conf import Positional, arg

from tessera.cli.parse import Command
from tessera.recipe import Recipe, default_recipe, load


@dataclass(kw_only=True)
class Arguments(Command):
    """Train a Vision Transformer on labelled images, measure it, and write a run folder."""

    verb: ClassVar[str] = "train"

    data: Positional[str]
    """A folder with one folder of images per class, with or without train/ val/ test/ around them;
    a CSV or TSV table image,label[,split][,group]; parquet; tar shards; a folder saved by datasets;
    cifar10:DIR, cifar100:DIR, mnist:DIR, fashion-mnist:DIR; or `digits`."""
    out: Path | None = None
    """Run folder; runs/<name of the data> if left out. Nothing in it is ever overwritten."""
    recipe: str | None = None
    """A shipped recipe or a TOML file, whose values are the defaults of the flags below."""
    exclude: Path | None = None
    """A CSV whose column `image` names images to leave out, such as the doctor's."""
    folds: int | None = None
    """Cut the training images into so many folds, train once for each of them as validation, and
    give the mean; the runs go to fold-0, fold-1, ... in the run folder."""
    resume: bool = False
    """Go on with the run in the folder, with its own recipe."""
    settings: Annotated[Recipe, arg(name="")] = field(default_factory=Recipe)

    @classmethod
    def parse(cls, args: list[str]) -> "Arguments":
        """Read twice: first for DATA and the recipe's name, then with that recipe's defaults."""
        if {"-h", "--help"} & set(args):
            return cls.read(args)
        first = cls.read(args)
        if first.resume:
            return first
        base = (
            load(first.recipe)
            if first.recipe
            else default_recipe(first.data, first.settings.weights)
        )
        return cls.read(args, cls(data=first.data, settings=base))

    def run(self) -> int:
        """Train."""
        from rich.console import Console

        from tessera.api import default_folder, resume_run, start_run
        from tessera.crossval import cross_validate

        console = Console(stderr=True)
        if self.exclude is not None:
            settings = replace(self.settings.data, exclude=str(self.exclude))
            self.settings = replace(self.settings, data=settings)
        folder = self.out or default_folder(self.data)
        if self.folds is not None:
            cross_validate(
                self.data, self.settings, folder, self.folds, resume=self.resume, console=console
            )
        elif self.resume:
            resume_run(self.data, folder, console=console)
        else:
            start_run(self.data, self.settings, folder, console=console)
        return 0
