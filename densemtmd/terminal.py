"""Sentences that fit the terminal. Needs nothing but Python, as what is said where something is not installed."""

from __future__ import annotations

import shutil
import textwrap

ENDLESS = 10_000
"""Columns of what is no terminal, such as a file."""


def columns() -> int:
    """How wide the terminal is, or what COLUMNS says of it; :data:`ENDLESS` where there is none, so that files hold all there is to say."""
    return shutil.get_terminal_size((ENDLESS, 24)).columns


def folded(text: str, width: int | None = None) -> str:
    """A text whose sentences are wrapped at words where a line has no place for them; tables and commands stay as they are: what is
    indented, or has two spaces side by side.

    Args:
        text: of any number of lines.
        width: of a line; None: the terminal's.

    >>> print(folded("one two three" + chr(10) + "  densemtmd compare", 9))
    one two
    three
      densemtmd compare
    """
    width = width or columns()
    lines: list[str] = []
    for line in text.split("\n"):
        one = len(line) <= width or "  " in line
        lines += [line] if one else textwrap.wrap(line, width, break_on_hyphens=False, break_long_words=False)
    return "\n".join(lines)
