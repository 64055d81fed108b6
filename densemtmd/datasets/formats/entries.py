"""JSON files of any size, entry by entry: the annotations of a whole dataset may be one file of hundreds of megabytes.

Of such a file, only where its entries begin and end is kept, and each is read again when its picture is: so what is in memory at a time is
one entry, and the text once while it is looked through.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from densemtmd.errors import UserError
from densemtmd.files import read_bounded
from densemtmd.progress import Progress

MOST_BYTES = 2_000_000_000
"""Of a file: COCO's own has 450 million."""

WINDOWS = (1 << 13, 1 << 17, 1 << 21, 1 << 26)
"""Bytes of an entry that are tried in turn, so that one without an end is not read whole."""

MOST_LISTS = 4_000_000
"""Lists and mappings in an entry, each of which takes as much memory as a line of text."""

SPACE = re.compile(r"[ \t\n\r]*")
DECODER = json.JSONDecoder()


class Entry(NamedTuple):
    """One entry of a list in a file."""

    section: str  # the key of the list, "" where the file is one list
    start: int    # its first byte in the file
    end: int      # and the one after its last
    value: Any


def state(path: Path, what: str) -> tuple[int, int]:
    """What changes when a file does: its size and the time of its last change.

    Raises:
        UserError: it cannot be looked at.
    """
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; expected {what} there") from error
    return found.st_size, found.st_mtime_ns


def entries(path: str | Path, sections: Collection[str], what: str, plain: Collection[str] = ()) -> Iterator[Entry]:
    """The entries of some lists in a JSON file that is a mapping of lists, or one list, in the order of the file.

    Args:
        path: of the file.
        sections: the keys of the lists, all of which must be there; ``""`` for that of a file that is one list. All else is passed over.
        what: the file should be, for messages: ``annotations of COCO``.
        plain: keys whose value, whatever it is, is handed out as an entry of that name.

    Raises:
        UserError: it cannot be read, is no JSON, is of another form, or holds an entry without measure.
    """
    path = Path(path)
    size = MOST_BYTES
    with suppress(OSError, ValueError):  # the reader says why; it is given no more room than it needs
        size = min(size, max(path.stat().st_size, 1_000_000))
    content = read_bounded(path, what, size)
    reading = _Reading(path, content.decode("latin-1"), what)  # a letter for each byte
    del content
    with Progress(f"looking through {path.name}", len(reading.text) / 1e6, "MB") as progress:
        for entry in reading.top(sections, plain):
            progress.done = entry.end / 1e6
            yield entry


def read_again(path: Path, places: np.ndarray, what: str) -> list[Any]:
    """The entries of a file that begin and end at ``places`` (N, 2), with their texts as they are.

    Raises:
        UserError: the file is no longer what it was.
    """
    values = []
    try:
        with path.open("rb") as file:
            for start, end in places.tolist():
                file.seek(start)
                values.append(json.loads(file.read(end - start)))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read again ({error}): expected {what}, did it change meanwhile?") from error
    return values


class _Reading:
    def __init__(self, path: Path, text: str, what: str) -> None:
        self.path, self.text, self.what = path, text, what

    def top(self, sections: Collection[str], plain: Collection[str]) -> Iterator[Entry]:
        found = set()
        at = 3 if self.text.startswith("\xef\xbb\xbf") else 0  # a mark of UTF-8
        at = self._skip(at)
        if self.text[at : at + 1] == "[" and "" in sections:
            found.add("")
            at = yield from self._list("", at)
        elif self.text[at : at + 1] == "{" and any(sections):
            at = self._skip(at + 1)
            while self.text[at : at + 1] != "}":
                key, at = self._value(at)
                if not isinstance(key, str):
                    self._refuse(at, "a key that is no text")
                at = self._skip(self._expect(self._skip(at), ":"))
                if key in sections and self.text[at : at + 1] == "[":
                    found.add(key)
                    at = yield from self._list(key, at)
                else:
                    start = at
                    value, at = self._value(at)
                    if key in plain:
                        yield Entry(key, start, at, value)
                at = self._skip(at)
                if self.text[at : at + 1] == ",":
                    at = self._skip(at + 1)
                elif self.text[at : at + 1] != "}":
                    self._refuse(at, "neither a comma nor an end")
            at += 1
        else:
            self._refuse(at, "something else" if self.text[at:] else "an end")
        if self._skip(at) < len(self.text):
            self._refuse(self._skip(at), "more after its end")
        if missing := [section for section in sections if section not in found]:
            raise UserError(f"{self.path} has no list {missing[0]!r}, expected {self.what}: is it the right file?")

    def _list(self, section: str, at: int) -> Generator[Entry, None, int]:
        at = self._skip(at + 1)
        while self.text[at : at + 1] != "]":
            value, end = self._value(at)
            if not (raw := self.text[at:end]).isascii():
                try:
                    value = json.loads(raw.encode("latin-1"))
                except ValueError as error:
                    self._refuse(at, f"an entry that is not UTF-8 ({error})")
            yield Entry(section, at, end, value)
            at = self._skip(end)
            if self.text[at : at + 1] == ",":
                at = self._skip(at + 1)
            elif self.text[at : at + 1] != "]":
                self._refuse(at, "neither a comma nor an end")
        return at + 1

    def _skip(self, at: int) -> int:
        found = SPACE.match(self.text, at)
        return found.end() if found else at

    def _expect(self, at: int, letter: str) -> int:
        if self.text[at : at + 1] != letter:
            self._refuse(at, f"no {letter!r}")
        return at + 1

    def _value(self, at: int) -> tuple[Any, int]:
        """The value that begins at a letter, and where it ends."""
        for size in WINDOWS:
            window = self.text[at : at + size]
            if size == WINDOWS[-1] and window.count("[") + window.count("{") > MOST_LISTS:
                self._refuse(at, f"more than {MOST_LISTS:,} lists")
            try:
                value, end = DECODER.raw_decode(window)
            except RecursionError:
                self._refuse(at, "lists in lists without end")
            except ValueError as error:
                if len(window) < size:  # all that there is
                    self._refuse(at + getattr(error, "pos", 0), getattr(error, "msg", str(error)))
                continue
            if end < len(window) or len(window) < size:  # else it may be the first half of a number
                return value, at + end
        self._refuse(at, f"a value of more than {WINDOWS[-1] / 1e6:.0f} MB")

    def _refuse(self, at: int, found: str) -> NoReturn:
        line = self.text.count("\n", 0, at) + 1
        column = at - self.text.rfind("\n", 0, at)
        where = f"line {line}, column {column}: {found}"
        raise UserError(f"{self.path} is not {self.what}, or damaged: {where}; save or export it again")
