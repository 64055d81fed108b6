"""The same photo twice, however it was resized or compressed: found by a perceptual hash, then compared.

A photo that one dataset trains on and another tests on makes joint training look better than it is. A *print* of a
picture is one bit for each of its 128 coarsest patterns (the first coefficients of the cosine transform of a thumbnail,
brightness left out): whether it is positive. Copies of a photo differ in few bits, two photos in about half of them.
Pictures whose prints are near are compared by their thumbnails.

Shapes: ``N`` pictures, ``H``, ``W`` pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image
from scipy.fft import dctn

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

BLOCK = 2048
"""Pictures whose prints are compared with all others at once."""


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
    bits = np.unpackbits(np.frombuffer(b"".join(p.print for p in pictures), np.uint8).reshape(len(pictures), -1), axis=1)
    signs = bits.astype(np.float32) * 2 - 1
    footage = _numbered([(picture.split, picture.footage) for picture in pictures])
    small: dict[int, np.ndarray] = {}

    def shown(n: int) -> np.ndarray:
        if n not in small:
            small[n] = thumbnail(pictures[n].load())
        return small[n]

    group = list(range(len(pictures)))  # of each picture, the first picture known to be the same

    def first_of(n: int) -> int:
        while group[n] != n:
            group[n] = n = group[group[n]]
        return n

    for start in range(0, len(pictures), BLOCK):
        differing = (BITS - signs[start : start + BLOCK] @ signs.T) / 2  # matrix products are the fastest way to count
        one, other = np.nonzero(differing <= NEAR)
        one += start
        pairs = np.stack([one, other])[:, one < other]
        same_footage = footage[pairs[0]] == footage[pairs[1]]
        equal_prints = differing[pairs[0] - start, pairs[1]] == 0
        for a, b in pairs[:, ~same_footage].T.tolist():
            if first_of(a) != first_of(b) and _show_the_same(shown(a), shown(b)):
                group[first_of(b)] = first_of(a)
        for a, b in pairs[:, same_footage & equal_prints].T.tolist():
            if first_of(a) != first_of(b) and np.array_equal(pictures[a].load(), pictures[b].load()):
                group[first_of(b)] = first_of(a)
    members: dict[int, list[Picture]] = {}
    for n, picture in enumerate(pictures):
        members.setdefault(first_of(n), []).append(picture)
    return [copies for copies in members.values() if len(copies) > 1]


def _numbered(values: Sequence[object]) -> np.ndarray:
    """A number for each value, equal for equal ones."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values])


def _show_the_same(first: np.ndarray, second: np.ndarray) -> bool:
    """Whether two thumbnails correlate; those that show nothing must be equal, or all black pictures would be one."""
    if min(first.std(), second.std()) < FLAT:
        return bool(np.array_equal(first, second))
    return bool(np.corrcoef(first.ravel(), second.ravel())[0, 1] >= ALIKE)
