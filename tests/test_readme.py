"""What the README and the guides say to type can be typed."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tessera
from tessera.cli import COMMANDS
from tessera.cli.parse import load_command

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands() -> list[str]:
    found = []
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            match = re.match(r"(?: {4}|\$ |\.venv/bin/)+(tessera \w+ .*)", line)
            if match:
                found.append(match[1].partition("  #")[0].strip())
    return found


def test_there_are_commands_to_check() -> None:
    assert {command.split()[1] for command in commands()} >= {"train", "predict", "evaluate"}


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_documentation_parses(command: str) -> None:
    _, verb, *args = shlex.split(command)
    assert verb in COMMANDS
    load_command(verb).read(args)


def test_the_python_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tessera.train("digits", out="runs/demo", overrides={"schedule.total_steps": 1, "arch.depth": 1})
    for name in ("a.png", "b.png"):
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(name)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    exec(compile(blocks[0], "README.md", "exec"), {})


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
