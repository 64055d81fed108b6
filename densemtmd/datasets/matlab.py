"""Matrices in MATLAB files: :func:`find_matrix`.

SciPy reads them too, but its compiled reader trusts the file, and some that are damaged end the whole process. What is read here is what
labels need, a matrix of real numbers; of everything else a file may hold, its name.

The format is that of MathWorks' "MAT-File Format", level 5: a header of 128 bytes, then elements, each a tag (its type and its number of
bytes) and its data. A matrix is an element made of elements: flags, dimensions, name, numbers. Level 4, older than 1996, is SciPy's.
"""

from __future__ import annotations

import errno
import math
import stat
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.io import loadmat, whosmat

from densemtmd.datasets.pictures import MAX_PIXELS

MATRIX, COMPRESSED, INT32, UINT32 = 14, 15, 5, 6
NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
"""Types of elements that hold numbers."""

KINDS = {1: "a cell array", 2: "a structure", 3: "an object", 4: "a text", 5: "a sparse matrix", 16: "a function", 17: "an object"}
"""Classes of matrices that hold no plain numbers."""

COMPLEX, OPAQUE = 0x0800, 17  # an opaque one, such as a MATLAB string, has no shape
HEAD = 4096
"""Bytes that hold everything but the numbers of a matrix."""


class Head(NamedTuple):
    """What a matrix says of itself before its numbers."""

    name: str
    kind: str | None        # what it is, where it is no matrix of real numbers
    shape: tuple[int, ...]
    length: int             # bytes of all this


def find_matrix(path: str | Path, name: str) -> tuple[np.ndarray | None, list[str]]:
    """The matrix of a name, (H, W) in general, and the names of all matrices before it.

    Args:
        path: of the file.
        name: as MATLAB calls it.

    Returns:
        The matrix, as the file stores it (bytes where they suffice), or None where there is none of that name; and names.

    Raises:
        TypeError: it holds no real numbers; says what it is.
        NotImplementedError: the file is of version 7.3, which is HDF5.
        ValueError: the file is damaged; says how.
        OSError: it cannot be read.
    """
    path = Path(path)
    if not stat.S_ISREG(path.stat().st_mode):  # a pipe would keep its reader waiting, a device may have no end
        raise OSError(errno.EINVAL, "it is no file")
    content = memoryview(path.read_bytes())
    if 0 in content[:4]:  # level 4 begins with a number, level 5 with a text
        matrices = loadmat(str(path), appendmat=False, variable_names=[name])
        return np.asarray(matrices[name]) if name in matrices else None, [other for other, _, _ in whosmat(str(path), appendmat=False)]
    if (order := {b"IM": "<", b"MI": ">"}.get(bytes(content[126:128]))) is None:
        raise ValueError("it has no header")
    (version,) = struct.unpack(f"{order}H", content[124:126])
    if version == 0x0200:
        raise NotImplementedError("version 7.3")
    rest, names = content[128:], []
    while rest:
        kind, data, rest = _element(rest, order)
        unpacker = None
        if kind == COMPRESSED:
            unpacker = zlib.decompressobj()
            inner = memoryview(unpacker.decompress(data, HEAD))
            kind, data = _tag(inner, order)[0], inner[8:]
        if kind != MATRIX:
            raise ValueError(f"it has an element of type {kind}")
        head = _head(data, order)
        names.append(head.name)
        if head.name != name:
            continue
        if head.kind:
            raise TypeError(head.kind)
        if (count := math.prod(head.shape)) > MAX_PIXELS:
            raise ValueError(f"{name} claims the shape {head.shape}")
        if unpacker is not None:  # never more than the shape wants, whatever would come
            data = memoryview(bytes(data) + unpacker.decompress(unpacker.unconsumed_tail, 8 * count + HEAD))
            if not unpacker.eof:
                raise ValueError(f"{name} is not as long as it says")
        kind, numbers, _ = _element(data[head.length :], order)
        if kind not in NUMBERS:
            raise ValueError(f"{name} has numbers of the unknown type {kind}")
        values = np.frombuffer(numbers, order + NUMBERS[kind]) if len(numbers) % int(NUMBERS[kind][1]) == 0 else np.zeros(0)
        if len(values) != count:
            raise ValueError(f"{name} has {len(numbers)} bytes for the shape {head.shape}")
        return values.reshape(head.shape, order="F"), names
    return None, names


def _tag(content: memoryview, order: str) -> tuple[int, int]:
    """Type and number of bytes of the element that begins here."""
    if len(content) < 8:
        raise ValueError("it ends too early")
    kind, size = struct.unpack(f"{order}II", content[:8])
    return kind, size


def _element(content: memoryview, order: str) -> tuple[int, memoryview, memoryview]:
    """The element that begins here: its type, its data, and what follows it."""
    kind, size = _tag(content, order)
    if kind >> 16:  # at most 4 bytes of data, which lie within the tag
        if kind >> 16 > 4:
            raise ValueError("it has a broken tag")
        return kind & 0xFFFF, content[4 : 4 + (kind >> 16)], content[8:]
    if size > len(content) - 8:
        raise ValueError("it ends too early")
    padding = 0 if kind == COMPRESSED else -size % 8
    return kind, content[8 : 8 + size], content[8 + size + padding :]


def _head(data: memoryview, order: str) -> Head:
    """What the matrix whose data these are says of itself."""
    _, flags, rest = _element(data, order)
    if len(flags) != 8:
        raise ValueError("it has a broken matrix")
    (bits,) = struct.unpack(f"{order}I", flags[:4])
    what = "a complex matrix" if bits & COMPLEX else KINDS.get(bits & 0xFF)
    shape: tuple[int, ...] = ()
    if bits & 0xFF != OPAQUE:
        kind, dimensions, rest = _element(rest, order)
        if kind not in (INT32, UINT32) or len(dimensions) % 4:
            raise ValueError("it has a broken matrix")
        shape = tuple(np.frombuffer(dimensions, f"{order}i4").tolist())
        if min(shape, default=-1) < 0:
            raise ValueError(f"it has a matrix of shape {shape}")
    _, name, rest = _element(rest, order)
    return Head(bytes(name).decode("latin-1"), what, shape, len(data) - len(rest))
