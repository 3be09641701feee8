"""The rules of the house: layers, sizes, names."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "tessera"

LAYERS = [  # bottom first; units of one layer do not import each other
    {
        "config",
        "overrides",
        "recipe",
        "settings",
        "devices",
        "errors",
        "fields",
        "progress",
        "run_folder",
    },
    {"nn", "data", "optim"},
    {"models"},
    {"checkpoint", "objectives"},
    {"evaluation", "predict", "explain", "robustness", "journal"},
    {"training", "report"},
    {"measuring"},
    {"benchmarking", "finishing", "comparing", "transfer", "stress"},
    {"api", "checkup", "probing", "transferring", "explaining", "stressing"},
    {"crossval", "studies"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
EXCEPTIONS = {
    ("overrides", "config"),
    ("recipe", "overrides"),
    ("recipe", "fields"),
    ("recipe", "settings"),
}
"""A recipe has tables, can change the architecture, and comes from a file."""

MODULES = sorted(PACKAGE.rglob("*.py"))


def unit(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name for name in names if name.startswith("tessera."))


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_only_point_down(path: Path) -> None:
    own = unit(path)
    if own == "__init__":
        return
    for name in imports(path):
        other = name.split(".")[1]
        allowed = other == own or RANK[other] < RANK[own] or (own, other) in EXCEPTIONS
        assert allowed, f"{path} imports {name}"


def test_every_module_has_a_layer() -> None:
    assert {unit(path) for path in MODULES} - {"__init__"} <= set(RANK)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"


def test_no_module_is_a_drawer() -> None:
    drawers = {"utils", "util", "helpers", "common", "misc"}
    assert not [path for path in MODULES if path.stem in drawers]


def test_imports_inside_functions_are_only_for_commands_slow_libraries_and_extras() -> None:
    allowed = {"sklearn.datasets", "pyarrow", "pyarrow.parquet", "cleanlab.filter"}
    allowed |= {"torch.utils.tensorboard", "pyautoattack"}
    for path in MODULES:
        if unit(path) == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                for inner in ast.walk(node):
                    if isinstance(inner, ast.ImportFrom | ast.Import):
                        module = inner.module if isinstance(inner, ast.ImportFrom) else None
                        names = {module} if module else {alias.name for alias in inner.names}
                        assert names <= allowed, f"{path}:{inner.lineno}"
