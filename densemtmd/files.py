"""Files that are written whole or not at all, and YAML that is read whatever somebody made of it."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import yaml

from densemtmd.errors import UserError

MOST_VALUES = 1_000_000
"""In a YAML: a few lines of aliases of aliases stand for more values than any memory holds."""


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
        raise WriteError(f"{path} could not be written: {reason}; free some space or choose another place") from error
    finally:
        with suppress(OSError):  # what matters has been raised already
            temporary.unlink(missing_ok=True)


def read_yaml(path: str | Path, what: str) -> Any:
    """The content of a YAML file, as plain dicts, lists and scalars.

    Args:
        path: of the file.
        what: it should be, for the message: ``a dataset's YAML``.

    Raises:
        UserError: it cannot be read, is no YAML, or holds more than a million values.
    """
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; expected {what} there") from error
    except (yaml.YAMLError, ValueError, AttributeError, RecursionError) as error:  # of 2024-13-45, 0x_ and [[[[... PyYAML raises others
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    count, waiting = 0, [data]
    while waiting and count <= MOST_VALUES:
        value, count = waiting.pop(), count + 1
        if isinstance(value, dict | list):
            waiting += value if isinstance(value, list) else value.values()
    if waiting:
        raise UserError(f"{path} holds more than {MOST_VALUES:,} values, expected {what}")
    return data


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


def remove_strays(folder: str | Path) -> None:
    """Removes what writers that were killed left behind in a folder and below it: temporary files that never got their name.

    Only for folders that nobody writes to at the moment.
    """
    for path in Path(folder).rglob(".*"):
        if re.fullmatch(r"\.[0-9a-f]{32}", path.stem if path.suffix else path.name):
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
