"""What all command-line tools share: how they end, and which run they speak of when none is named.

A tool is a function ``main(argv) -> exit code`` under :func:`tool`, with the parser that :func:`make_parser` begins.
Nothing heavy is imported here, and a tool imports torch inside its functions: so that ``--help`` answers at once.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import io
import itertools
import os
import re
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from densemtmd.errors import UserError, about_files, about_installation, about_memory, one_line
from densemtmd.released import FOLDER
from densemtmd.stopping import REASONS, Stopped, answering, reason_of
from densemtmd.terminal import folded

Main = Callable[..., int]

COMMAND = "densemtmd"
"""The command that a wheel installs; what it calls sees ``sys.argv[0]`` as ``densemtmd <verb>``."""

SIGNALLED = 128  # and the number of a signal, what a shell reports of a program that the signal stopped: 130 after Ctrl-C
BROKEN_PIPE = SIGNALLED + 13  # SIGPIPE: of a program whose reader went away, as in `tool | head`


def tool(main: Main) -> Main:
    """Make a tool out of ``main``: its errors end as a sentence on stderr and an exit code, not as a traceback.

    A :class:`UserError` is shown as ``error: ...`` and ends with 1; ``--debug`` among the arguments adds its traceback. So
    is memory that does not suffice, or a file that the system refuses. Ctrl-C ends with 130, SIGTERM with 143 and a closed terminal
    with 129, each after what must be put in order; a reader that went away ends with 141, in silence. Any other exception is a
    defect and keeps its traceback.

    >>> @tool
    ... def main(argv=None):
    ...     arguments = make_parser("Say hello.").parse_args(argv)
    ...     return 0
    >>> main([])
    0
    """

    @functools.wraps(main)
    def run(argv: Sequence[str] | None = None) -> int:
        if isinstance(sys.stdout, io.TextIOWrapper):  # what the terminal's encoding does not know is shown escaped
            sys.stdout.reconfigure(errors="backslashreplace")
        try:
            with answering(_stop, *(number for number in REASONS if number != signal.SIGINT)):  # which Python answers so itself
                code = main(argv)
            sys.stdout.flush()  # a reader that went away shows itself here, not at the interpreter's end
            return code
        except BrokenPipeError:
            _discard_stdout()
            return BROKEN_PIPE
        except Exception as error:
            known = about_memory(error) or about_files(error) or about_installation(error)
            sentence = str(error) if isinstance(error, UserError) else known
            if sentence is None:
                raise
            if "--debug" in (sys.argv[1:] if argv is None else argv):
                traceback.print_exc()
            complain(f"error: {one_line(sentence)}")
            return 1
        except KeyboardInterrupt as error:
            number, reason = reason_of(error)
            print(f"\nstopped: {reason}", file=sys.stderr)
            return SIGNALLED + number

    return run


def say(text: str) -> None:
    """Prints what a tool has to say: sentences no wider than the terminal, a command on a line of its own that is indented.

    Tools are named as in a clone, ``python tools/infer.py``, and as they were called where that is otherwise; see :func:`as_called`.
    """
    from densemtmd import progress

    progress.say(as_called(text))


def complain(text: str) -> None:
    """:func:`say` on stderr."""
    print(folded(as_called(text)), file=sys.stderr)


class Parser(argparse.ArgumentParser):
    """A parser that raises its errors: :func:`tool` shows them, without the page of usage before them."""

    def error(self, message: str) -> NoReturn:
        """Raises the error that ``argparse`` found, with the option that was probably meant."""
        commands = [action.choices.values() for action in self._actions if isinstance(action, argparse._SubParsersAction)]
        parsers = [self, *itertools.chain(*commands)]
        options = [option for parser in parsers for action in parser._actions for option in action.option_strings]
        words = re.findall(r"--[\w-]+", message) if message.startswith("unrecognized") else []
        close = difflib.get_close_matches(words[0], options, n=1) if words else []
        raise UserError(f"{message}; " + (f"did you mean {close[0]}?" if close else f"{self.prog} --help shows what there is"))


def make_parser(description: str, add_help: bool = True) -> argparse.ArgumentParser:
    """The parser of a tool, with ``--help``, which shows ``description`` as it stands, and ``--debug``."""
    about = as_called(description.strip())
    parser = Parser(Path(sys.argv[0]).name, description=about, formatter_class=Page, allow_abbrev=False, add_help=add_help)
    parser.add_argument("--debug", action="store_true", help="show the traceback of every error")
    return parser


class Page(argparse.HelpFormatter):
    """A page of help whose description stays as it stands where the terminal is wide enough."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return fitted(text, width)


def fitted(text: str, width: int) -> str:
    """A text of paragraphs and indented lists of two columns, in lines of so many letters.

    A paragraph with a longer line is wrapped anew. A list with one has its second column nearer to the first; where that is not enough, it
    goes on below itself, or all of it stands below the first.

    >>> print(fitted("One two three four." + chr(10) * 2 + "    a    first" + chr(10) + "    bb   and a second", 16))
    One two three
    four.
    <BLANKLINE>
      a
          first
      bb
          and a
          second
    """
    parts: list[str] = []
    for indented, group in itertools.groupby(text.splitlines(), lambda line: None if not line.strip() else line.startswith(" ")):
        lines = list(group)
        if all(len(line) <= width for line in lines):
            parts += lines
        elif indented:
            parts += _fitted_list([re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in lines], width)
        else:
            parts += textwrap.wrap(" ".join(lines), width, break_on_hyphens=False, break_long_words=False)
    return "\n".join(parts)


def _fitted_list(rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Rows of a first, and mostly of a second, column."""
    column = 2 + max((len(row[0]) for row in rows if len(row) > 1), default=0) + 2
    below = width - column < 30  # the second column would be a ladder of words
    lines: list[str] = []
    for first, *second in rows:
        own: dict[str, Any] = {"width": width, "break_on_hyphens": False, "break_long_words": False}
        if below or not second:
            lines += textwrap.wrap(first, initial_indent="  ", subsequent_indent=" " * 8, **own)
        if second and below:
            lines += textwrap.wrap(second[0], initial_indent=" " * 6, subsequent_indent=" " * 6, **own)
        elif second:
            lines += textwrap.wrap(second[0], initial_indent=f"  {first}".ljust(column), subsequent_indent=" " * column, **own)
    return lines


def as_called(text: str) -> str:
    """A text that speaks of ``python tools/infer.py``, as its reader calls that: ``densemtmd infer`` where the tool was called so."""
    if Path(sys.argv[0]).name.partition(" ")[0] != COMMAND:
        return text
    return re.sub(r"(?:python )?\btools/(\w+)\.py", lambda match: f"{COMMAND} {match[1].replace('_', '-')}", text)


def numbers(text: str) -> list[float]:
    """``"1,1.5"`` -> ``[1.0, 1.5]``, for an option that takes several numbers."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 1,1.5") from None


def newest_run(runs: str | Path = "runs", option: str = "--checkpoint") -> Path:
    """The folder of the last finished run: the one below ``runs`` whose ``scores.json`` is the newest.

    Args:
        runs: the folder.
        option: by which another one is named, for the message.

    Raises:
        UserError: no run below ``runs`` has finished.
    """
    runs = Path(runs)
    finished = [scores for scores in runs.glob("*/scores.json") if _has_weights(scores.parent) and not _is_trial(scores.parent)]
    if not finished:
        raise UserError(
            f"no finished run in {runs}{os.sep} (a folder with best.safetensors and scores.json): "
            f"train one with tools/train.py or name one with {option}"
        )
    return max(finished, key=lambda scores: (scores.stat().st_mtime, scores)).parent


def newest_network(runs: str | Path = "runs") -> tuple[Path, str]:
    """The network to label with where none is named, and a word on why: the last finished run's, or the one that comes with densemtmd.

    Args:
        runs: the folder of runs.
    """
    try:
        return newest_run(runs), "the last finished run"
    except UserError:
        return FOLDER, f"which comes with densemtmd: no run in {Path(runs)}{os.sep} is finished"


def network(named: str) -> Path:
    """The network that a person names, the ``type`` of every argument that is one: a checkpoint, the folder of a run, or ``released``,
    unless there is something of that name."""
    return FOLDER if named == FOLDER.name and not Path(named).exists() else Path(named)


def beside(checkpoint: Path, run: Path | None = None) -> Path:
    """The folder that what is made of a network is written to, if none is named: that of its run or of its file; for the network that
    comes along, which may lie where nobody writes, the one that a person is in."""
    if checkpoint == FOLDER:
        return Path()
    return run or (checkpoint if checkpoint.is_dir() else checkpoint.parent)


def _is_trial(run: Path) -> bool:
    """Whether a run only showed that everything works (``debug=true``, ``train.overfit``): nobody wants its answers."""
    with suppress(OSError):
        settings = (run / "config.yaml").read_text("utf-8", "replace")
        return re.search(r"^debug: true$|^  overfit: [1-9]", settings, re.MULTILINE) is not None
    return False


def _has_weights(run: Path) -> bool:
    """Whether a run folder holds a network, or one per dataset in a folder each."""
    return (run / "best.safetensors").is_file() or any(run.glob("*/best.safetensors"))


def _stop(number: int) -> None:
    raise Stopped(number)


def _discard_stdout() -> None:
    """Let what is still in the buffer go nowhere: Python flushes it at its end and would complain."""
    with suppress(OSError):  # stdout is not a file of the system, so nothing is flushed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
