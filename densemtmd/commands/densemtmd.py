"""One network from several small datasets, each labelled by other people with other labels.

    densemtmd <verb> [...]         in a clone the same as python tools/<verb>.py [...]
    densemtmd <verb> --help        what there is to say to it
"""

from __future__ import annotations

import ast
import difflib
import importlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap

from densemtmd.commands.cli import COMMAND, fitted, tool
from densemtmd.errors import UserError

VERBS = ("demo", "train", "infer", "export", "evaluate", "compare", "correlate", "check-data", "synthesize", "release", "bench")
"""In the order in which people need them."""


def verbs() -> dict[str, str]:
    """Each verb with the first line of what its module says of itself; nothing is imported for that."""
    found = {}
    for verb in VERBS:
        source = Path(__file__).with_name(f"{verb.replace('-', '_')}.py").read_text(encoding="utf-8")
        found[verb] = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0].rstrip(".")
    return found


def help_page() -> str:
    """What the command is, and its verbs."""
    width, indent = shutil.get_terminal_size().columns, " " * 12
    lines = [line for verb, text in verbs().items() for line in wrap(f"{verb:12}{text}", width, subsequent_indent=indent)]
    return "\n".join([fitted((__doc__ or "").strip(), width), "", *lines])


@tool
def main(argv: Sequence[str] | None = None) -> int:
    verb, *arguments = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if verb in ("-h", "--help", "help"):
        print(help_page())
        return 0
    if verb == "--version":
        print(f"{COMMAND} {sys.modules['densemtmd'].__version__}")
        return 0
    if verb.replace("_", "-") not in VERBS:
        close = difflib.get_close_matches(verb, VERBS, n=1)
        raise UserError(f"{COMMAND} has no {verb!r}; " + (f"did you mean {close[0]!r}?" if close else f"known: {', '.join(VERBS)}"))
    sys.argv = [f"{COMMAND} {verb}", *arguments]
    code = importlib.import_module(f"densemtmd.commands.{verb.replace('-', '_')}").main(arguments)
    return int(code)
