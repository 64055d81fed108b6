"""Who works in a folder: a lock that ends with its process, however it ends, and that says who holds it.

It is the operating system's lock of a file (POSIX, ``fcntl.lockf``), which on NFS holds between machines too, where the server locks
files. A file system that cannot lock is said so of, once, and worked in without. Windows has no such locks: there nobody is kept away.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from densemtmd.errors import UserError, advice
from densemtmd.progress import say

LOCK = "lock.json"
"""In the folder of a run that is being trained: who trains it. A killed process leaves the file, but not the lock."""

PAUSE = 0.2
"""Seconds between two attempts of who waits."""


class Held(UserError):
    """Another process works there."""


_guard = threading.Lock()
_own: dict[str, dict[str, Any]] = {}
"""The files that this process has locked, and what they say: the system would let it lock each of them once more."""


@contextmanager
def held(file: str | Path, what: object, wait: float = 0.0) -> Iterator[None]:
    """Holds the lock of a file, which is made for it and gone at the end.

    Args:
        file: to lock, in a folder that is there.
        what: is worked on, for the message.
        wait: seconds to wait for another holder to end.

    Raises:
        Held: another process, or another thread of this one, holds it; the message says which.
        UserError: the file cannot be written.
    """
    file = Path(file)
    if sys.platform == "win32":
        yield
        return
    end = time.monotonic() + wait
    while True:
        opened, holder = _taken(file)
        if opened is not None:
            break
        if time.monotonic() >= end:
            raise Held(f"{what} is being worked on by {_named(holder)}: wait until that is done, or end it first")
        time.sleep(PAUSE)
    try:
        yield
    finally:
        with _guard:
            with suppress(OSError):
                if os.path.samestat(os.fstat(opened.fileno()), file.stat()):
                    file.unlink()  # still locked: whoever has it open already sees that it is gone
            del _own[os.path.realpath(file)]
            opened.close()


def holder_of(file: str | Path) -> str | None:
    """Who holds the lock of a file, or None: ``process 12 on host since 2026-01-31 12:00:00``."""
    file = Path(file)
    if sys.platform == "win32" or not file.exists():
        return None
    try:
        with held(file, file):
            return None
    except Held as error:
        return str(error).partition(" by ")[2].partition(":")[0]


def _taken(file: Path) -> tuple[IO[str] | None, dict[str, Any]]:
    """The file, opened and locked; or None, and what is known of who holds it."""
    import fcntl

    with _guard:
        key = os.path.realpath(file)
        if key in _own:  # not opened once more: closing it would end the lock of this process
            return None, _own[key]
        while True:
            try:
                opened = file.open("a+", encoding="utf-8")
            except OSError as error:
                raise UserError(f"{file} could not be written: {error.strerror}; {advice(error)}") from None
            try:
                fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    with opened, suppress(OSError, ValueError):
                        opened.seek(0)
                        return None, dict(json.load(opened))
                    return None, {}
                say(f"{file.parent} cannot be locked ({error.strerror}): see to it that nobody else works in it")
            with suppress(OSError):
                if os.path.samestat(os.fstat(opened.fileno()), file.stat()):
                    break
            opened.close()  # whoever held it has removed it in the meantime: another file has the name now, or none
        own = {"host": socket.gethostname(), "process": os.getpid(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
        with suppress(OSError):  # of a full disk: it is locked all the same
            os.ftruncate(opened.fileno(), 0)
            os.write(opened.fileno(), json.dumps(own).encode())
        _own[key] = own
        return opened, own


def _named(holder: dict[str, Any]) -> str:
    """A holder for people; it may not have had the time yet to say who it is."""
    known = [f"process {holder['process']}" if "process" in holder else "another process"]
    known += [f"{word} {holder[key]}" for key, word in (("host", "on"), ("since", "since")) if key in holder]
    return " ".join(known)
