"""List the models that have a name."""

import json
from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

from tyro.conf import Positional

from tessera.cli.parse import Command
from tessera.models.variants import PATCH_SIZES, SIZES, count_parameters, list_models, parse


@dataclass(kw_only=True)
class Arguments(Command):
    """List models by name, with their parameters at 224 pixels and 1,000 classes."""

    verb: ClassVar[str] = "models"

    filter: Positional[str] = ""
    """Part of a name, such as tiny, patch16 or ViT-B."""
    format: Literal["table", "json"] = "table"
    """A table for people, or every number for programs."""

    def run(self) -> int:
        """Print the table."""
        names = {word: size.letter for word, size in SIZES.items()}
        rows = []
        for name in list_models():
            config = parse(name)
            letter = names[name.removeprefix("vit_").partition("_")[0]]
            paper = f"ViT-{letter}/{config.patch_size}"
            if self.filter.lower() in name or self.filter in paper:
                rows.append((name, paper, config))
        if not rows:
            raise ValueError(
                f"no model has {self.filter!r} in its name\n"
                f"hint: sizes are {', '.join(SIZES)}; patches {', '.join(map(str, PATCH_SIZES))}"
            )
        if self.format == "json":
            print(
                json.dumps(
                    [
                        {"name": n, "paper": p, "parameters": count_parameters(c), **asdict(c)}
                        for n, p, c in rows
                    ],
                    indent=2,
                )
            )
            return 0
        print(
            f"{'name':<24}{'paper':<15}{'parameters':>14}{'width':>7}{'depth':>7}{'heads':>7}"
            f"{'MLP':>7}"
        )
        for name, paper, c in rows:
            print(
                f"{name:<24}{paper:<15}{count_parameters(c):>14,}{c.embed_dim:>7}{c.depth:>7}"
                f"{c.num_heads:>7}{c.mlp_dim:>7}"
            )
        return 0
