"""labelme's JSON: a file for each picture, with the shapes that were drawn on it.

Each shape is drawn over those before it in the file, as labelme shows them. Read are polygons, rectangles (oriented ones too), circles and
masks; lines and points cover no pixel.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from densemtmd.datasets.formats.entries import entries
from densemtmd.datasets.formats.regions import NOTHING, Region, from_mask, outline
from densemtmd.errors import UserError

WHAT = "labelme's JSON"
SIDES = ("imageHeight", "imageWidth")
THIN = ("line", "linestrip", "point", "points")
"""Shapes that cover no pixel."""

CIRCLE = 128
"""Corners of the polygon that stands for a circle."""


def shapes(path: Path, size: tuple[int, int] | None = None) -> Iterator[tuple[str, str, Any, Mapping[str, Any]]]:
    """What it is for messages, its label, its points and all else of each shape in a file, of a picture of ``size``, if it is known.

    Raises:
        UserError: it cannot be read, or is none of labelme's.
    """
    number = 0
    for section, _, _, value in entries(path, ("shapes",), WHAT, SIDES):
        if section in SIDES:
            if size is not None and value is not None and value != size[SIDES.index(section)]:
                told = f"{section} {value!r}, but its picture has {size[1]}×{size[0]} pixels"
                raise UserError(f"{path} has {told}, expected the same size: is the picture another copy, or turned by its EXIF?")
            continue
        number += 1
        what = f"{path}: shape {number}"
        if not isinstance(value, dict) or not isinstance(label := value.get("label"), str) or not label:
            raise UserError(f"{what} has no label, expected keys with values as labelme has them")
        yield f"{what} ({label})", label, value.get("points"), value


def read(path: Path, within: str, size: tuple[int, int], numbers: Mapping[Any, int]) -> list[Region]:
    """The objects of a picture, in the order in which they are drawn; see :func:`densemtmd.datasets.formats.coco.read`.

    Raises:
        UserError: a shape that is damaged, or one that has a label of the dataset and covers no pixel.
    """
    regions = []
    for what, label, points, shape in shapes(path, size):
        code = numbers.get(label, NOTHING)
        kind = shape.get("shape_type") or "polygon"
        if kind in THIN:
            if code != NOTHING:
                raise UserError(f"{what} is a {kind}, which covers no pixel: draw a polygon, or take its label from the labelset")
            continue
        corners = _corners(points, what)
        if kind == "mask":
            region = _mask(shape.get("mask"), corners, size, code, what)
        elif kind in ("polygon", "oriented_rectangle"):
            region = outline(corners, size, code, what)
        elif kind in ("rectangle", "circle"):
            if len(corners) != 2:
                raise UserError(f"{what} is a {kind} of {len(corners)} points, expected 2")
            region = outline(_circle(*corners) if kind == "circle" else _rectangle(*corners), size, code, what)
        else:
            raise UserError(f"{what} is of the type {kind!r}, expected polygon, rectangle, circle or mask")
        regions.append(region)
    return [region for region in regions if region is not None]


def _corners(points: Any, what: str) -> np.ndarray:
    """(N, 2) of ``[[x, y], ...]``."""
    good = isinstance(points, list) and all(isinstance(point, list) and len(point) == 2 for point in points)
    if not good or not all(type(number) in (int, float) for point in points for number in point):
        raise UserError(f"{what} has points that are no list of [x, y]: it is damaged")
    try:
        return np.array(points, np.float64).reshape(-1, 2)
    except OverflowError:
        raise UserError(f"{what} has a point beyond all measure: it is damaged") from None


def _rectangle(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.array([[one[0], one[1]], [other[0], one[1]], [other[0], other[1]], [one[0], other[1]]])


def _circle(centre: np.ndarray, edge: np.ndarray) -> np.ndarray:
    turns = np.linspace(0, 2 * math.pi, CIRCLE, endpoint=False)
    return centre + np.hypot(*(edge - centre)) * np.stack([np.cos(turns), np.sin(turns)], axis=1)


def _mask(content: Any, corners: np.ndarray, size: tuple[int, int], code: int, what: str) -> Region | None:
    """A mask is a PNG of the box between two points, both of which are in it."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(content, validate=True)), formats=["PNG"]) as picture:
            left, top = map(int, corners[0])
            if len(corners) != 2 or top < 0 or left < 0 or left + picture.width > size[1] or top + picture.height > size[0]:
                raise UserError(f"{what} has a mask of {picture.width}×{picture.height} that leaves its picture: it belongs to another")
            mask = np.asarray(picture.convert("L")) > 0
    except UserError:
        raise
    except Exception as error:  # whatever Pillow stumbles over
        raise UserError(f"{what} has a mask that cannot be decoded: it is damaged") from error
    return from_mask(mask, code, top, left)
