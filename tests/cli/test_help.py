"""The command line is a contract: a changed flag shows up in the diff of these files."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tessera.cli import COMMANDS

FOLDER = Path(__file__).parent / "help"


@pytest.mark.parametrize("verb", COMMANDS)
def test_the_help_of_a_verb_is_frozen(verb: str) -> None:
    """Write the files anew with TESSERA_FREEZE_HELP=1."""
    shown = subprocess.run(
        [sys.executable, "-m", "tessera", verb, "--help"],
        env={**os.environ, "COLUMNS": "100", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    path = FOLDER / f"{verb}.txt"
    if os.environ.get("TESSERA_FREEZE_HELP") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(shown, encoding="utf-8")
    assert shown == path.read_text(encoding="utf-8")
