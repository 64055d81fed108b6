"""Files that are written whole or not at all, and YAML that is read whatever somebody made of it."""

from __future__ import annotations

import json
import math
import os
import re
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import yaml

from densemtmd.errors import UserError, advice

MOST_BYTES = 50_000_000
"""Of a file of text that somebody names: a list of a million paths is no larger."""

MOST_VALUES = 1_000_000
"""In a YAML: a few lines of aliases of aliases stand for more values than any memory holds."""

DEEPEST = 100
"""Levels of a YAML: what walks through its content calls itself once for each."""

LONGEST = 200
"""Characters of a number or a date in a YAML; Python takes the square of their number in time to read a whole number."""

Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
Dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
"""The same in C where PyYAML has it, several times faster."""

TAG = "tag:yaml.org,2002:"
MERGE = object()
"""The key ``<<``."""


def conf_folder() -> Path:
    """The folder of the choices: ``conf/`` at the top of a clone, or inside the package, where a wheel has it."""
    inside = Path(__file__).with_name("conf")
    return inside if inside.is_dir() else Path(__file__).resolve().parents[1] / "conf"


class WriteError(UserError):
    """A file that could not be written."""


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Write a file whole or not at all: yields a temporary path, which gets the file's name if the block ends well.

    The temporary file lies in the same folder (made where it does not exist) and has the same suffix, because many
    writers choose their format by it. Readers see the old file or the new one, never a part; after a failure the old
    one is still there and the temporary one is gone.

    Raises:
        WriteError: the system refused: a full disk, an unwritable folder, a folder of that name.

    >>> with atomic_write("scores.json") as temporary:  # doctest: +SKIP
    ...     temporary.write_text("{}")
    """
    path = Path(path)
    # Not tempfile.mkstemp: its files can be read by their owner alone, and would stay so under their final name.
    temporary = path.parent / f".{uuid.uuid4().hex}{path.suffix}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise WriteError(f"{path} could not be written: {reason}; {advice(error)}") from error
    finally:
        with suppress(OSError):  # what matters has been raised already
            temporary.unlink(missing_ok=True)


def array_in(folder: str | Path, shape: tuple[int, ...]) -> np.ndarray:
    """An array of bytes that lies on disk, for what is too large for the memory: in a file without a name, which is gone with it, whatever
    ends the process.

    Args:
        folder: on the disk that is to hold it.
        shape: of the array, uint8.

    Raises:
        WriteError: the disk has no room for it.
    """
    size = math.prod(shape)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # who writes to a file that is mapped, and finds the disk full, is ended by the system
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError as error:
        reason = error.strerror or str(error)
        raise WriteError(f"{folder} has no room for {size / 1e9:.2g} GB meanwhile: {reason}; {advice(error)}") from error


def read_bounded(path: str | Path, what: str, most: int = MOST_BYTES) -> bytes:
    """All bytes of a file that somebody named: a regular one, and not without an end.

    Args:
        path: of the file.
        what: it should be, for the message: ``a dataset's YAML``.
        most: bytes that it may have.

    Raises:
        UserError: it cannot be read, is a folder, a pipe or a device, or larger.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for whoever writes to it, a device may do anything
            kind = "a folder" if path.is_dir() else "a pipe or a device"
            raise UserError(f"{path} cannot be read: it is {kind}; expected {what} there")
        with path.open("rb") as file:
            content = file.read(most + 1)  # the size is not asked for: what the system makes up while it is read has none
    except UserError:  # which is a ValueError
        raise
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}; expected {what} there") from error
    except ValueError as error:  # a name that no file can have
        raise UserError(f"{path} cannot be read: {error}; expected {what} there") from error
    if len(content) > most:
        raise UserError(f"{path} is larger than {most / 1e6:g} MB, expected {what}: is it the right file?")
    return content


def read_yaml(path: str | Path, what: str) -> Any:
    """The content of a YAML file, as plain dicts, lists and scalars.

    It is put together from the parser's events, one after the other, with a count of all that aliases and merges (``<<``) stand for: so a
    few lines that stand for more than any memory holds are refused while they are read. What is said of a mistake tells its line and
    column and never quotes the file, which another YAML may have named.

    Args:
        path: of the file.
        what: it should be, for the message: ``a dataset's YAML``.

    Raises:
        UserError: it cannot be read, is no YAML, is deeper than a hundred levels, or holds more than a million values.
    """
    path = Path(path)
    content = read_bounded(path, what)
    try:
        return _Reading(path, what).read(content.decode("utf-8-sig"))
    except UserError:
        raise
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path} is not YAML: line {line} is not UTF-8; save it as UTF-8") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise UserError(f"{path} is not YAML: {at}{error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        raise UserError(f"{path} is not YAML: {error.reason} (character {error.position + 1})") from error
    except Exception as error:  # whatever a parser stumbles over
        raise UserError(f"{path} is not YAML: {type(error).__name__}") from error


class _Reading:
    """The reading of one YAML: see :func:`read_yaml`."""

    def __init__(self, path: Path, what: str) -> None:
        self.path, self.what = path, what
        self.count = 0                                        # of values, with those that aliases and merges stand for
        self.named: dict[str, tuple[Any, int] | None] = {}    # of each anchor its value and the values within; None: not yet at its end
        self.known: dict[tuple[Any, ...], Any] = {}           # of each scalar its value
        self.constructor = Loader("")

    def read(self, text: str) -> Any:
        events = yaml.parse(text, Loader=Loader)
        top = _Open(None, "", 0, [])
        stack = [top]
        for event in events:
            if isinstance(event, yaml.ScalarEvent):
                value, within = self._scalar(event), 1
                self._grow(1)
            elif isinstance(event, yaml.AliasEvent):
                value, within = self._alias(event)
            elif isinstance(event, yaml.CollectionStartEvent):
                self._grow(1)
                if len(stack) > DEEPEST:
                    self._refuse(event, f"more than {DEEPEST} levels, one in the other")
                kind = "map" if isinstance(event, yaml.MappingStartEvent) else "seq"
                if event.tag not in (None, "!", TAG + kind):
                    self._refuse(event, f"the tag {event.tag}, which nothing here knows")
                if event.anchor:
                    self.named[event.anchor] = None
                stack.append(_Open(event, kind, self.count - 1, []))
                continue
            elif isinstance(event, yaml.CollectionEndEvent):
                done = stack.pop()
                value, within = self._closed(done), self.count - done.before
                if done.event.anchor:
                    self.named[done.event.anchor] = value, within
            else:
                if isinstance(event, yaml.DocumentStartEvent) and top.content:
                    self._refuse(event, "a second document, expected one")
                continue
            if isinstance(event, yaml.ScalarEvent) and event.anchor:
                self.named[event.anchor] = value, within
            above = stack[-1]
            if value is MERGE and (above.kind != "map" or len(above.content) % 2):  # no key
                value = "<<"
            above.content.append((event, value, within))
        return top.content[0][1] if top.content else None

    def _scalar(self, event: yaml.ScalarEvent) -> Any:
        key = (event.value, event.tag, event.implicit)
        if key not in self.known:
            tag = event.tag
            if tag in (None, "!"):
                plain = event.implicit[0] and len(event.value) <= LONGEST
                tag = self.constructor.resolve(yaml.ScalarNode, event.value, (plain, not plain))
            if tag in (TAG + "str", TAG + "value"):  # the latter is =, which means nothing here
                return event.value
            if tag == TAG + "merge":
                return MERGE
            if tag not in self.constructor.yaml_constructors:
                self._refuse(event, f"the tag {tag}, which nothing here knows")
            if len(event.value) > LONGEST and tag != TAG + "binary":
                self._refuse(event, f"a value of {len(event.value)} characters, expected a text, or one of at most {LONGEST}")
            try:
                self.known[key] = self.constructor.construct_object(yaml.ScalarNode(tag, event.value))
            except Exception:
                self._refuse(event, f"a value that is no {tag.removeprefix(TAG)}; put quotes around what is a text")
        return self.known[key]

    def _alias(self, event: yaml.AliasEvent) -> tuple[Any, int]:
        if event.anchor not in self.named:
            self._refuse(event, f"*{event.anchor} without an &{event.anchor} before it")
        if (found := self.named[event.anchor]) is None:
            self._refuse(event, f"*{event.anchor} within &{event.anchor}, which then has no end")
        self._grow(found[1])
        return found

    def _closed(self, done: _Open) -> Any:
        """The list or dict that is at its end."""
        if done.kind == "seq":
            return [value for _, value, _ in done.content]
        merged: dict[Any, Any] = {}
        own: dict[Any, Any] = {}
        pairs = zip(done.content[::2], done.content[1::2], strict=True)
        for (event, key, _), (where, value, within) in pairs:
            if key is MERGE:
                self._grow(within)  # once more: they are copied
                sources = value if isinstance(value, list) else [value]
                if not all(isinstance(source, dict) for source in sources):
                    self._refuse(where, "<< with something else than keys with values")
                for source in reversed(sources):
                    merged |= source
                continue
            try:
                own[key] = value
            except TypeError:
                self._refuse(event, "a list or a mapping as a key, expected a text")
        return {**merged, **own} if merged else own

    def _grow(self, by: int) -> None:
        self.count += by
        if self.count > MOST_VALUES:
            raise UserError(f"{self.path} holds more than {MOST_VALUES:,} values, expected {self.what}")

    def _refuse(self, event: yaml.Event, found: str) -> NoReturn:
        mark: Any = event.start_mark
        raise UserError(f"{self.path} is not YAML that can be read: line {mark.line + 1}, column {mark.column + 1}: {found}")


class _Open(NamedTuple):
    """A list or mapping whose end has not been read yet."""

    event: Any
    kind: str
    before: int                               # values that were counted before it
    content: list[tuple[yaml.Event, Any, int]]  # what is in it: the event, the value and the number of values within; keys too


def form_of(data: Any) -> str:
    """What plain data are, without their content: ``a list``."""
    kinds = {dict: "a mapping", list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return "empty" if data is None else kinds.get(type(data), type(data).__name__)


def yaml_text(data: Any, lists_in_lines: bool = False) -> str:
    """Plain data as the text of a YAML, as :func:`read_yaml` reads it; lists of plain values a line each, if you like."""
    flow = None if lists_in_lines else False
    return str(yaml.dump(data, Dumper=Dumper, sort_keys=False, allow_unicode=True, default_flow_style=flow))


def check_writable(folder: str | Path, setting: str) -> None:
    """Refuses a folder that cannot be written to, before there is work to lose; it need not exist, and is not made.

    Args:
        folder: to write in.
        setting: what names it, such as ``--out``.

    Raises:
        UserError: it, or what exists above it, is not a folder, or not one to write in.
    """
    folder = Path(folder).absolute()
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    if not os.path.isdir(there):  # noqa: PTH112 (where one may not look, Path.is_dir raises)
        raise UserError(f"{folder} cannot be written to, {there} is not a folder: set {setting} to another")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{folder} cannot be written to, {there} may not be changed by you: set {setting} to another")


def remove_strays(folder: str | Path, below: bool = True, apart: str = "") -> None:
    """Removes what writers that were killed left behind in a folder and below it: temporary files that never got their name.

    Only for folders that nobody else writes to at the moment.

    Args:
        folder: to look in.
        below: also in the folders below it.
        apart: the name of a folder in it that is left alone.
    """
    folder = Path(folder)
    for path in folder.rglob(".*") if below else folder.glob(".*"):
        stray = re.fullmatch(r"\.[0-9a-f]{32}", path.stem if path.suffix else path.name)
        if stray and path.relative_to(folder).parts[0] != apart:
            path.unlink(missing_ok=True)


def read_json(path: str | Path) -> Any:
    """What a JSON file of a run holds.

    Raises:
        UserError: it cannot be read.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}): it is damaged, remove it") from None


def write_json(path: str | Path, data: Any) -> None:
    """Writes a JSON file whole or not at all."""
    path = Path(path)
    write_text(path, json.dumps(data, indent=1, allow_nan=False))


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    path = Path(path)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
