"""The same photo twice, however it was resized or compressed: found by a perceptual hash, then compared.

A photo that one dataset trains on and another tests on makes joint training look better than it is. A *print* of a
picture is one bit for each of its 128 coarsest patterns (the first coefficients of the cosine transform of a thumbnail,
brightness left out): whether it is positive. Copies of a photo differ in few bits, two photos in about half of them.
Pictures whose prints are near are compared by their thumbnails.

Prints are compared as two words of 64 bits each, on all cores, and most pairs by the first of them alone: 100,000 pictures take some
seconds. Pictures of equal prints are compared by digests, so that of a camera that does not move each frame is read once.

Shapes: ``N`` pictures, ``H``, ``W`` pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.fft import dctn

from densemtmd.files import WriteError, write_json
from densemtmd.machine import ahead
from densemtmd.progress import followed

SIDE = 32
"""Of a thumbnail, pixels; its shape does not matter to the hash, so that a photo squeezed to a square is found too."""

BITS = 128
NEAR = 20
"""Bits in which copies may differ. Of 2.6 million pairs of photos (Stanford Background, LabelMeFacade, CamVid) none that
shows another scene differs in fewer than 33; after halving and JPEG of quality 20, copies differ in at most 7."""

ALIKE = 0.97
"""Correlation of the brightness of two thumbnails from which on they show the same."""

FLAT = 2.0
"""Standard deviation of the brightness (0..255) below which a thumbnail shows nothing that could be recognised."""

BLOCK = (16, 8192)
"""Pictures whose prints are compared with those of so many others at once: what is worked on stays in a core's cache."""

PAIRS = 1024
"""Of near prints whose thumbnails are compared at once."""

FORMAT = "densemtmd copies, 1"
"""The number rises with every change of what counts as a copy."""

SUFFIX = ".copies"
KEPT = 64
"""Results that are kept, the last used ones: one for each choice of datasets and splits."""

THUMBNAILS = 16384
"""That are kept while pictures are compared, of 4 KB each."""


@dataclass(frozen=True)
class Picture:
    """One picture of a dataset, as far as copies of it are looked for."""

    dataset: str
    split: str
    key: str
    footage: str                      # pictures of one video, which may well look alike
    print: bytes                      # of `fingerprint`
    load: Callable[[], np.ndarray]    # (H, W, 3) uint8


def thumbnail(image: np.ndarray) -> np.ndarray:
    """(SIDE, SIDE) float32: the brightness (0..255) of a picture (H, W, 3) uint8, whatever its shape."""
    small = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)


def fingerprint(image: np.ndarray) -> bytes:
    """The print of a picture (H, W, 3) uint8: BITS bits."""
    coefficients = dctn(thumbnail(image), norm="ortho")
    return np.packbits(coefficients.ravel()[_coarsest()] > 0).tobytes()


@cache
def _coarsest() -> np.ndarray:
    """Where the coarsest coefficients stand, but the first, which is the mean brightness."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    return np.lexsort((rows.ravel(), (rows + columns).ravel()))[1 : BITS + 1]


def find_copies(pictures: Sequence[Picture]) -> list[list[Picture]]:
    """The groups of pictures that show the same photo, each in the order given.

    Frames of one video that share a split may look alike without being copies: of these, only equal ones count.
    """
    if not pictures:
        return []
    groups = _Groups(len(pictures))
    for equal in _equal_ones(pictures):
        for other in equal[1:]:
            groups.join(equal[0], other)
    first = np.unique(groups.labels, return_index=True)[1]  # one picture of each content stands for all
    numbers = _numbered([(picture.split, picture.footage) for picture in pictures])
    footage = numbers[first]
    for n, picture in enumerate(first):
        if len({numbers[member] for member in groups.members[groups.labels[picture]]}) > 1:  # it may be the same as any
            footage[n] = -1 - n
    order = np.argsort(footage, kind="stable")
    first, footage = first[order], footage[order]
    words = np.frombuffer(b"".join(pictures[n].print for n in first), np.uint64).reshape(len(first), -1)
    small: dict[int, np.ndarray] = {}

    def thumbnails(wanted: np.ndarray) -> np.ndarray:
        if len(small) > THUMBNAILS:
            small.clear()
        missing = [n for n in dict.fromkeys(wanted.tolist()) if n not in small]
        small.update(zip(missing, ahead(lambda n: thumbnail(pictures[n].load()).ravel(), missing), strict=True))
        return np.stack([small[n] for n in wanted.tolist()])

    for pairs in _near(words, footage, lambda a, b: groups.labels[first[a]] != groups.labels[first[b]]):
        for some in np.array_split(first[pairs], range(PAIRS, pairs.shape[1], PAIRS), axis=1):
            some = some[:, groups.labels[some[0]] != groups.labels[some[1]]]
            if not some.shape[1]:
                continue
            same = _show_the_same(thumbnails(some[0]), thumbnails(some[1]))
            for a, b in some[:, same].T.tolist():
                groups.join(a, b)
    found = sorted(sorted(members) for members in groups.members.values() if len(members) > 1)
    return [[pictures[n] for n in members] for members in found]


def find_copies_once(pictures: Sequence[Picture], folder: Path, identities: Sequence[str | None]) -> list[list[Picture]]:
    """:func:`find_copies`, whose result is kept in a small file: it is looked for again only when something has changed.

    Args:
        pictures: all.
        folder: of the file.
        identities: of all that the pictures were decoded from; they change when a file does.
    """
    about = [FORMAT, SIDE, BITS, NEAR, ALIKE, FLAT, *identities, *((p.dataset, p.split, p.key, p.footage) for p in pictures)]
    name = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    path = folder / f"{name[:32]}{SUFFIX}"
    with suppress(OSError, ValueError, TypeError, IndexError):  # none there, or a damaged one
        found = [[pictures[n] for n in group] for group in json.loads(path.read_text("utf-8"))]
        path.touch()
        return found
    groups = find_copies(pictures)
    numbers = {id(picture): n for n, picture in enumerate(pictures)}
    with suppress(OSError, WriteError):  # who cannot write looks for them again, and another process may remove them first
        write_json(path, [[numbers[id(picture)] for picture in group] for group in groups])
        for old in sorted(folder.glob(f"[!.]*{SUFFIX}"), key=lambda file: file.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)
    return groups


class _Groups:
    """Which of N pictures are known to be the same."""

    def __init__(self, number: int) -> None:
        self.labels = np.arange(number)  # (N,) of each picture, the number of its group
        self.members = {n: [n] for n in range(number)}

    def join(self, one: int, other: int) -> None:
        """Two pictures are the same."""
        large, small = int(self.labels[one]), int(self.labels[other])
        if large == small:
            return
        if len(self.members[large]) < len(self.members[small]):
            large, small = small, large
        moved = self.members.pop(small)
        self.labels[moved] = large
        self.members[large] += moved


def _equal_ones(pictures: Sequence[Picture]) -> list[list[int]]:
    """The groups of pictures that are equal pixel by pixel; only those whose prints are equal are read, and each once."""
    alike: dict[bytes, list[int]] = {}
    for n, picture in enumerate(pictures):
        alike.setdefault(picture.print, []).append(n)

    def digest(n: int) -> bytes:
        image = pictures[n].load()
        return hashlib.blake2b(np.ascontiguousarray(image).data, key=repr(image.shape).encode()).digest()

    several = [n for group in alike.values() if len(group) > 1 for n in group]
    equal: dict[bytes, list[int]] = {}
    for n, content in zip(several, ahead(digest, several), strict=True):
        equal.setdefault(content, []).append(n)
    return [group for group in equal.values() if len(group) > 1]


def _near(words: np.ndarray, footage: np.ndarray, wanted: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Iterator[np.ndarray]:
    """The pairs of pictures of different videos whose prints differ in at most NEAR bits, (2, pairs) at a time, some of them maybe twice.

    Args:
        words: (N, 2) uint64, the prints.
        footage: (N,) a number for each video, ascending.
        wanted: says of pairs, as two arrays of positions, which are worth telling.
    """
    columns = np.ascontiguousarray(words.T)
    rows, across = BLOCK

    def compare(top: int) -> np.ndarray:
        different, found = np.empty(BLOCK, np.uint64), [np.zeros((2, 0), int)]
        one = columns[0, top : top + rows, None]
        for left in range(top, len(words), across):
            other = columns[0, None, left : left + across]
            if footage[top] == footage[left + other.size - 1]:  # all are of one video
                continue
            bits = np.bitwise_xor(one, other, out=different[: one.size, : other.size])
            a, b = np.divmod(np.flatnonzero(ones(bits) <= NEAR), other.size)  # few are left: two photos differ in 32 of 64
            a, b = a + top, b + left
            kept = (a < b) & (footage[a] != footage[b])
            a, b = a[kept], b[kept]
            kept = sum(ones(column[a] ^ column[b]) for column in columns) <= NEAR
            a, b = a[kept], b[kept]
            kept = wanted(a, b)
            found.append(np.stack([a[kept], b[kept]]))
        return np.concatenate(found, 1)

    tops = range(0, len(words), rows)
    return followed(ahead(compare, tops), "looking for copies", len(tops), "blocks of pictures")


def ones(words: np.ndarray) -> np.ndarray:
    """How many bits are set in each of some uint64."""
    if hasattr(np, "bitwise_count"):  # from NumPy 2 on
        return np.bitwise_count(words)
    pairs = words - ((words >> np.uint64(1)) & np.uint64(0x5555555555555555))
    fours = (pairs & np.uint64(0x3333333333333333)) + ((pairs >> np.uint64(2)) & np.uint64(0x3333333333333333))
    bytes_ = (fours + (fours >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return ((bytes_ * np.uint64(0x0101010101010101)) >> np.uint64(56)).astype(np.uint8)


def _numbered(values: Sequence[object]) -> np.ndarray:
    """A number for each value, equal for equal ones."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values])


def _show_the_same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(pairs,) whether thumbnails (pairs, SIDE²) correlate; those that show nothing must be equal, or all black pictures would be one."""
    flat = np.minimum(one.std(1), other.std(1)) < FLAT
    a, b = (x - x.mean(1, keepdims=True, dtype=float) for x in (one, other))
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = np.einsum("ij,ij->i", a, b) / np.sqrt(np.einsum("ij,ij->i", a, a) * np.einsum("ij,ij->i", b, b))
    return np.where(flat, (one == other).all(1), correlation >= ALIKE)
