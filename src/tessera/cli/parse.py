"""From words to a command, and from an error to a message."""

import importlib
import os
import sys
from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, TypeVar, Union

import tyro

from tessera.errors import RunError

C = TypeVar("C", bound="Command")


class Command(ABC):
    """A verb: a dataclass whose fields are its arguments."""

    verb: ClassVar[str]

    @abstractmethod
    def run(self) -> int:
        """Do it; return the exit status."""

    @classmethod
    def parse(cls: type[C], args: list[str]) -> C:
        """Read the words after the verb; ends the program on ``--help`` and on mistakes."""
        return cls.read(args)

    @classmethod
    def read(cls: type[C], args: list[str], default: C | None = None) -> C:
        """Read with tyro, starting from a command that is already filled in."""
        return tyro.cli(
            cls,
            prog=f"tessera {cls.verb}",
            args=args,
            default=tyro.MISSING_NONPROP if default is None else default,
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.PositionalMetavarFromFieldName),
        )


def load_command(verb: str) -> type[Command]:
    """Import the class of a verb; none of these modules imports torch."""
    found: type[Command] = importlib.import_module(f"tessera.cli.{verb}").Arguments
    return found


def execute(verb: str, args: list[str]) -> int:
    """Parse and run; turn errors that a user can mend into a message and an exit status.

    With ``TESSERA_TRACEBACK=1`` they are raised as they are.
    """
    if os.environ.get("TESSERA_TRACEBACK") == "1":
        return load_command(verb).parse(args).run()
    try:
        return load_command(verb).parse(args).run()
    except (ValueError, FileNotFoundError, FileExistsError, PermissionError) as error:
        return fail(error, 2)
    except BrokenPipeError:
        raise
    except (RunError, OSError) as error:
        return fail(error, 1)


def print_completion(verbs: dict[str, str], args: list[str]) -> int:
    """Write completion of all verbs and flags in the language of a shell."""
    commands = tuple(
        Annotated[load_command(verb), tyro.conf.subcommand(name=verb, description=summary)]
        for verb, summary in verbs.items()
    )
    every: Any = Union[commands]  # noqa: UP007 (a union of what a loop found)
    tyro.cli(every, prog="tessera", args=args)
    return 0


def fail(error: Exception, code: int) -> int:
    """Print a message to stderr, once for all processes of torchrun, and return the code."""
    if "RANK" in os.environ:
        from tessera.devices import says_first

        if not says_first(str(error)):
            return code
    print(f"error: {error}", file=sys.stderr)
    return code
