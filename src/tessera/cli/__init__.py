"""The ``tessera`` command: one module a verb, loaded when it is asked for."""

import sys
from difflib import get_close_matches
from importlib.metadata import version

COMMANDS = {
    "train": "train a Vision Transformer on your images",
    "predict": "label images, or a folder of them",
    "evaluate": "measure a model on labelled images",
    "compare": "say whether one model is better than another, or only luckier",
    "explain": "show what a model looks at, and whether to believe it",
    "probe": "measure what a model's features are worth on labelled images",
    "transfer": "measure a model on a suite of data sets",
    "study": "compare variants beside what the literature claims",
    "stress": "measure when a model breaks: occlusion, shuffling, corruptions, attacks",
    "doctor": "say what is wrong with a data set, file by file",
    "models": "list models and their sizes",
    "inspect": "say what is in a model file",
    "convert": "write a model for timm, transformers or the paper's code",
    "bench": "measure speed, latency and memory of models here",
}
"""Every verb with its summary; the module of the same name has a class ``Arguments``."""

EXAMPLES = """\
  tessera train digits                              handwritten digits, a minute on a laptop
  tessera train photos/ --out runs/photos           one folder of images per class
  tessera doctor photos/
  tessera predict runs/photos new/*.jpg
  tessera evaluate runs/photos photos/ --split val
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit status: 0 done, 1 failed at run time, 2 wrong input."""
    args = sys.argv[1:] if argv is None else argv
    if not args or args[0] in ("-h", "--help"):
        print(_help())
        return 0 if args else 2
    if args[0] in ("-V", "--version"):
        print(f"tessera {version('tessera-vit')}")
        return 0
    if args[0].startswith("--tyro-"):
        from tessera.cli.parse import print_completion

        return print_completion(COMMANDS, args)
    if args[0] not in COMMANDS:
        return _unknown(args[0])
    try:
        from tessera.cli.parse import execute  # the parser is loaded only for a real command

        return execute(args[0], args[1:])
    except KeyboardInterrupt:
        print("error: stopped by hand", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stderr.close()
        return 0


def _unknown(verb: str) -> int:
    close = get_close_matches(verb, COMMANDS, n=1)
    guess = f"did you mean {close[0]!r}? " if close else ""
    known = ", ".join(COMMANDS)
    print(f"error: no command {verb!r}\nhint: {guess}commands are {known}", file=sys.stderr)
    return 2


def _help() -> str:
    width = max(map(len, COMMANDS))
    verbs = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return (
        "usage: tessera COMMAND ...\n\n"
        "Turn a folder of images into a Vision Transformer that you can trust.\n\n"
        f"commands:\n{verbs}\n\nexamples:\n{EXAMPLES}\n"
        "`tessera COMMAND --help` lists its options; "
        "`tessera --tyro-print-completion bash` writes shell completion."
    )
