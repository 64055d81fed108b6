"""What one object covers of a picture, and the map of codes that many of them make.

Outlines are filled by pycocotools, whatever the tool that they were drawn with, so that the same outline gives the same pixels in every
format. Pillow, which draws a pixel for every one that an outline touches, makes objects larger by half a pixel all round.

Run lengths that come from a file are undone here, since pycocotools takes their sum on trust. Shapes: ``H``, ``W`` pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco

from densemtmd.errors import UserError

NOTHING = -1
"""The code of a pixel that no object covers, or one that the dataset's YAML does not name."""

FARTHEST = 4
"""Widths or heights of a picture by which an outline may leave it; pycocotools takes memory for every pixel on the way."""

LONGEST = 2_000_000
"""Pixels along one outline."""

MOST_OBJECTS = 50_000
"""In one picture."""

MOST_TIMES = 300
"""How many times all objects of a picture may cover it, counted by the boxes about them, beside a hundred million pixels."""


@dataclass(frozen=True)
class Region:
    """The pixels of one object."""

    code: int             # what the dataset's YAML makes of its label, or NOTHING
    top: int              # where the box about it begins
    left: int
    size: tuple[int, int]  # of the box: rows, columns
    runs: bytes           # what it covers of the box, as pycocotools packs it
    area: int             # pixels


def outline(points: np.ndarray, size: tuple[int, int], code: int, what: str) -> Region | None:
    """What lies within an outline: the pixels that COCO's own tool counts.

    Args:
        points: (N, 2) float64, x and y in pixels, (0, 0) the outer corner of the first one.
        size: rows and columns of the picture.
        code: of the object.
        what: it is, for messages: ``shape 3 of a.json``.

    Returns:
        The region; None where it covers no pixel, as an outline of two points does.

    Raises:
        UserError: a point that is no number or lies far outside of the picture, or an outline without end.
    """
    height, width = size
    if not np.isfinite(points).all() or (np.abs(points) > FARTHEST * max(height, width) + 100).any():
        raise UserError(f"{what} has a point far outside of its picture of {width}×{height}: it belongs to another, or is damaged")
    if len(points) < 3:
        return None
    if np.abs(np.diff(points, axis=0)).max(axis=1).sum() > LONGEST:
        raise UserError(f"{what} has an outline of more than {LONGEST:,} pixels, expected one about an object: it is damaged")
    # What lies right of it and below is left out, so that small objects do not take as long as a large picture. Moving it to the left
    # and up would save more, but then rounding makes another pixel of one in thousands of outlines.
    columns, rows = np.clip(np.ceil(points.max(axis=0)) + 1, 0, (width, height)).astype(int).tolist()
    if columns < 1 or rows < 1:
        return None
    (drawn,) = coco.frPyObjects([points.ravel().tolist()], rows, columns)
    area = int(coco.area(drawn))
    return Region(code, 0, 0, (rows, columns), drawn["counts"], area) if area else None


def from_mask(mask: np.ndarray, code: int, top: int = 0, left: int = 0) -> Region | None:
    """The region of a mask (H, W) bool whose first pixel is at ``top``, ``left`` of the picture; None where it covers no pixel."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    inner = np.asfortranarray(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], dtype=np.uint8)
    size = (inner.shape[0], inner.shape[1])
    return Region(code, top + int(rows[0]), left + int(columns[0]), size, coco.encode(inner)["counts"], int(inner.sum()))


def packed(mask: np.ndarray) -> dict[str, Any]:
    """A mask (H, W) bool as COCO's JSON has it: its size and its run lengths, packed as a text."""
    runs = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": runs["counts"].decode("ascii")}


def from_runs(counts: Any, size: tuple[int, int], code: int, what: str) -> Region | None:
    """The region of COCO's run lengths, column by column, none and some in turn: a list, or packed as a text.

    Raises:
        UserError: they are neither, or not those of a picture of this size.
    """
    runs = _unpacked(counts, what) if isinstance(counts, str) else _listed(counts, what)
    if (runs < 0).any() or runs.sum() != size[0] * size[1]:
        raise UserError(f"{what} has run lengths that do not make up its picture of {size[1]}×{size[0]} pixels: it is damaged")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return from_mask(flat.reshape(size[::-1]).T, code)


def _listed(counts: Any, what: str) -> np.ndarray:
    if not isinstance(counts, list) or not all(type(run) is int and 0 <= run < 2**31 for run in counts):
        raise UserError(f"{what} has run lengths that are no whole numbers: it is damaged")
    return np.array(counts, np.int64)


def _unpacked(text: str, what: str) -> np.ndarray:
    """Run lengths of a text: 5 bits a letter, the low ones first, a sixth for more of the same number, negative ones in two's
    complement; from the fourth on the difference to the last but one."""
    letters = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(letters < 32)
    if not len(letters) or letters.min() < 0 or letters.max() > 63 or letters[-1] >= 32:
        raise UserError(f"{what} has run lengths that are not packed as COCO packs them: it is damaged")
    starts = np.concatenate([[0], ends[:-1] + 1])
    places = np.arange(len(letters)) - np.repeat(starts, ends - starts + 1)
    if places.max() > 6:  # more than 32 bits
        raise UserError(f"{what} has run lengths that are longer than any picture: it is damaged")
    numbers = np.add.reduceat((letters & 31) << (5 * places), starts)
    negative = (letters[ends] & 16) != 0
    numbers[negative] -= 1 << (5 * (ends - starts + 1)[negative])
    for odd in (1, 2):  # each adds to the last but one, beginning with the second and the third
        numbers[odd::2] = np.cumsum(numbers[odd::2])
    return numbers


def painted(regions: Iterable[Region], size: tuple[int, int], what: str) -> np.ndarray:
    """The codes of a picture's pixels, (H, W) int32: each region over those before it, and :data:`NOTHING` where there is none.

    Raises:
        UserError: so many objects that they would take too long.
    """
    regions = list(regions)
    drawn = sum(region.size[0] * region.size[1] for region in regions)
    if len(regions) > MOST_OBJECTS or drawn > MOST_TIMES * size[0] * size[1] + 1e8:
        times = drawn / (size[0] * size[1])
        raise UserError(f"{what} has {len(regions)} objects that cover its picture {times:.0f} times: is it the right file?")
    codes = np.full(size, NOTHING, np.int32)
    for region in regions:
        inside = coco.decode({"size": list(region.size), "counts": region.runs}).astype(bool)
        codes[region.top : region.top + region.size[0], region.left : region.left + region.size[1]][inside] = region.code
    return codes


def by_area(objects: Sequence[Sequence[Region]]) -> list[Region]:
    """The regions of objects, the largest first, so that what lies before or on another is over it; equal ones keep their order."""
    return [region for parts in sorted(objects, key=lambda parts: -sum(part.area for part in parts)) for region in parts]
