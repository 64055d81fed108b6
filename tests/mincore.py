"""Asks Linux which parts of a file are in memory."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path


def drop_from_memory(path: Path) -> None:
    """Write a file to disk and let the system forget it; no map of it may be open."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def pages_in_memory(path: Path, first: int, count: int) -> int:
    """How many pages that hold some of ``count`` bytes from ``first`` on are in memory."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapping:
        start = ctypes.c_char.from_buffer(mapping)
        states = (ctypes.c_ubyte * (len(mapping) // mmap.PAGESIZE + 1))()
        failed = ctypes.CDLL(None).mincore(ctypes.c_void_p(ctypes.addressof(start)), ctypes.c_size_t(len(mapping)), states)
        del start  # or the map could not be closed
        assert not failed
        return sum(state & 1 for state in states[first // mmap.PAGESIZE : (first + count - 1) // mmap.PAGESIZE + 1])
