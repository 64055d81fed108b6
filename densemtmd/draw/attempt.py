"""Drawing that may fail: a picture that cannot be drawn is told in a line, and costs nothing but itself."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten

from densemtmd.errors import UserError, one_line
from densemtmd.progress import aside


@contextmanager
def drawing(what: str | Path) -> Iterator[None]:
    """The block draws a picture that nothing else needs; what goes wrong in it is told on stderr, in a line.

    Args:
        what: is drawn, mostly the file that it goes to.
    """
    try:
        yield
    except Exception as error:
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {shorten(str(error), 200, placeholder=' ...')}"
        with aside():
            print(f"note: {one_line(str(what))} could not be drawn, all else goes on: {one_line(reason)}", file=sys.stderr, flush=True)
