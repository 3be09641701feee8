"""List models and published weights."""

import json
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from tyro.conf import Positional

from tessera.cli.parse import Command
from tessera.models.variants import (
    PATCH_SIZES,
    SIZES,
    count_parameters,
    list_models,
    paper_name,
    parse,
)


@dataclass(kw_only=True)
class Arguments(Command):
    """List models and published weights by name, with parameters and licences."""

    verb: ClassVar[str] = "models"

    filter: Positional[str] = ""
    """Part of a name, a family or a licence: tiny, patch16, ViT-B, R50, dinov2, MIT."""
    format: Literal["table", "json"] = "table"
    """A table for people, or every number for programs."""

    def run(self) -> int:
        """Print both tables, or what of them fits the filter."""
        from tessera.checkpoint.weights import published

        models = [row for row in map(_describe, list_models()) if self._fits(row)]
        weights = [asdict(w) for w in published().values()]
        weights = [row for row in weights if self._fits(row)]
        if not models and not weights:
            raise ValueError(
                f"nothing has {self.filter!r} in its name, family or licence\n"
                f"hint: sizes are {', '.join(SIZES)}; patches {', '.join(map(str, PATCH_SIZES))}"
            )
        if self.format == "json":
            print(json.dumps({"models": models, "weights": weights}, indent=2))
            return 0
        if models:
            print("Models, at 1,000 classes, and 224 pixels where the name says no other\n")
            _print_models(models)
        if weights:
            print(("\n" if models else "") + "Published weights, fetched when you name one\n")
            _print_weights(weights)
        return 0

    def _fits(self, row: dict[str, Any]) -> bool:
        keys = ("name", "paper_name", "family", "license")
        wanted = self.filter.lower()
        return any(wanted in str(row[key]).lower() for key in keys if key in row)


def _describe(name: str) -> dict[str, Any]:
    config = parse(name)
    return {
        "name": name,
        "paper_name": paper_name(name),
        "parameters": count_parameters(config),
        **asdict(config),
    }


def _print_models(rows: list[dict[str, Any]]) -> None:
    titles = ("parameters", "width", "depth", "heads", "MLP")
    print(f"{'name':<32}{'paper':<15}" + "".join(f"{title:>{_width(title)}}" for title in titles))
    for row in rows:
        encoder = [row[key] if row["depth"] else "-" for key in ("depth", "num_heads", "mlp_dim")]
        numbers = (f"{row['parameters']:,}", row["embed_dim"], *encoder)
        cells = zip(titles, numbers, strict=True)
        shown = "".join(f"{n:>{_width(t)}}" for t, n in cells)
        print(f"{row['name']:<32}{row['paper_name']:<15}{shown}")


def _width(title: str) -> int:
    return 14 if title == "parameters" else 7


def _print_weights(rows: list[dict[str, Any]]) -> None:
    print(f"{'name':<54}{'parameters':>14}{'pixels':>8}{'classes':>9}  licence")
    for row in rows:
        classes = row["num_classes"] or "none"
        print(
            f"{row['name']:<54}{row['parameters']:>14,}{row['preprocessing']['size'][0]:>8}"
            f"{classes:>9}  {row['license']}"
        )
