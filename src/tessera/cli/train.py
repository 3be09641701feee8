"""Train a Vision Transformer on labelled images."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from tyro.conf import Positional, arg

from tessera.cli.parse import Command
from tessera.recipe import Recipe, default_recipe, default_recipe_name, load
from tessera.run_folder import RECIPE, default_folder

if TYPE_CHECKING:
    from rich.console import Console


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
    override: bool = False
    """Go on although flags change the recipe."""
    replay: bool = False
    """Repeat the steps that led to a loss that is not finite, and save nothing."""
    settings: Annotated[Recipe, arg(name="")] = field(default_factory=Recipe)

    @classmethod
    def parse(cls, args: list[str]) -> "Arguments":
        """Read twice: first for DATA and the recipe's name, then with that recipe's defaults."""
        if {"-h", "--help"} & set(args):
            return cls.read(args)
        first = cls.read(args)
        return cls.read(args, cls(data=first.data, settings=first._base()))

    def _base(self) -> Recipe:
        """Return the recipe that the flags change."""
        recorded = (self.out or default_folder(self.data)) / RECIPE
        if (self.resume or self.replay) and recorded.is_file():
            return load(recorded)
        if self.recipe:
            return load(self.recipe)
        return default_recipe(self.data, self.settings.weights)

    def run(self) -> int:
        """Train."""
        from rich.console import Console

        from tessera.devices import is_main, joined
        from tessera.training.faults import StoppedError

        console = Console(stderr=True, quiet=not is_main())
        try:
            with joined(self.settings.device):
                self._run(console)
        except StoppedError as stopped:
            if stopped.signal_name != "SIGTERM":
                raise
            console.print(str(stopped), highlight=False, markup=False, soft_wrap=True)
        return 0

    def _run(self, console: "Console") -> None:
        from tessera.api import replay_run, resume_run, start_run
        from tessera.crossval import cross_validate

        if self.exclude is not None:
            settings = replace(self.settings.data, exclude=str(self.exclude))
            self.settings = replace(self.settings, data=settings)
        folder = self.out or default_folder(self.data)
        if self.replay:
            replay_run(self.data, folder, console=console)
        elif self.folds is not None:
            cross_validate(
                self.data, self.settings, folder, self.folds, resume=self.resume, console=console
            )
        elif self.resume:
            resume_run(
                self.data, folder, recipe=self.settings, override=self.override, console=console
            )
        else:
            name = self.recipe or default_recipe_name(self.data, self.settings.weights)
            start_run(self.data, self.settings, folder, console=console, recipe_name=name)
