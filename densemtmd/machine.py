"""The machine that a process runs on: how many cores it may use, and what they are; and work that all of them share."""

from __future__ import annotations

import mmap
import os
import platform
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

S = TypeVar("S")
T = TypeVar("T")

ROOM = 2**24
"""Bytes for a thread: its stack, and what it begins with."""

AHEAD_BYTES = 2**28
"""That results may take which are made ahead and wait."""


def cores() -> int:
    """The cores that this process may use: of a machine's, those that a scheduler, a container or ``taskset`` has left it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name, where the system tells; else its architecture."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def pool(threads: int, **options: Any) -> ThreadPoolExecutor:
    """A pool of threads, which has :class:`~concurrent.futures.ThreadPoolExecutor`'s ``options``.

    Raises:
        MemoryError: there is less than :data:`ROOM` for each of them: Python would wait without an end for a thread that finds no memory.
    """
    try:
        mmap.mmap(-1, threads * ROOM).close()  # not an array: what malloc has left is the main thread's
    except OSError as error:
        raise MemoryError(error.strerror) from None
    return ThreadPoolExecutor(threads, **options)


def ahead(work: Callable[[S], T], items: Iterable[S], threads: int | None = None) -> Iterator[T]:
    """``work`` of each item, in their order; a few are worked on ahead, on as many threads as there are cores, at most eight.

    Of large results, such as pictures, fewer wait: so many that the arrays in them take at most :data:`AHEAD_BYTES`, or one.

    Args:
        work: is called in a thread.
        items: taken one by one, as they are needed.
        threads: how many instead.
    """
    threads = threads or min(8, cores())
    waiting: deque[Future[T]] = deque()
    most, largest = 1, 1  # of how large they are, the first one tells
    with pool(threads) as workers:
        try:
            for item in items:
                waiting.append(workers.submit(work, item))
                while len(waiting) > most:
                    largest = max(largest, array_bytes(waiting[0].result()))
                    most = min(4 * threads, max(1, AHEAD_BYTES // largest))
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            workers.shutdown(wait=False, cancel_futures=True)  # after an error, do not work on the others first


def array_bytes(value: object) -> int:
    """Of the arrays in something: itself, or what a tuple, a list or a dataclass holds."""
    if isinstance(value, tuple | list):
        return sum(map(array_bytes, value))
    if is_dataclass(value):
        return sum(array_bytes(getattr(value, field.name)) for field in fields(value))
    return int(getattr(value, "nbytes", 0))


def let_go(array: np.ndarray) -> None:
    """Of a large array that lies in a file, gives the memory back that what was read or written of it takes: the file has it."""
    if isinstance(array, np.memmap) and array.mode != "c" and array.nbytes > AHEAD_BYTES and hasattr(mmap, "MADV_DONTNEED"):
        array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]


def processes() -> int:
    """How many processes ``torchrun`` has started to train together; 1 where it has not."""
    return int(os.environ["WORLD_SIZE"]) if "TORCHELASTIC_RUN_ID" in os.environ else 1
