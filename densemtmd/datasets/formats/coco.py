"""COCO's JSON: all pictures of a dataset in one file, with outlines, or run lengths, of their objects.

What it says of the pixels of one picture: crowds are drawn first, then all other objects, the largest first, so that a plate is over the
table that it stands on; COCO itself gives them no order. A crowd (``iscrowd``) has the label of what it is a crowd of.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from densemtmd.datasets.formats.entries import entries, read_again, state
from densemtmd.datasets.formats.regions import NOTHING, Region, by_area, from_runs, outline
from densemtmd.errors import UserError

WHAT = "annotations of COCO"


@dataclass(frozen=True)
class Picture:
    """What a file says of one picture."""

    size: tuple[int, int]  # rows, columns
    places: np.ndarray     # (N, 2) where its annotations begin and end in the file


@dataclass(frozen=True)
class Index:
    """What a file speaks of."""

    pictures: Mapping[str, Picture]  # by the name of their file
    labels: Mapping[Any, str]        # of each category's id the name
    objects: Mapping[str, int]       # how many each label has
    seen: Mapping[str, int]          # pictures in which it is


def index(path: str | Path) -> Index:
    """What a file speaks of, looked through once for as long as it does not change.

    Raises:
        UserError: it cannot be read, or is none of COCO's.
    """
    path = Path(path)
    return _index(path, *state(path, WHAT))


@lru_cache(maxsize=8)
def _index(path: Path, *changes: int) -> Index:
    images: dict[Any, tuple[str, tuple[int, int]]] = {}
    labels: dict[Any, str] = {}
    places: dict[Any, array[int]] = {}
    objects: Counter[Any] = Counter()
    pairs: set[tuple[Any, Any]] = set()
    for section, start, end, value in entries(path, ("images", "annotations", "categories"), WHAT):
        what = f"{path}: an entry of {section!r} (byte {start})"
        if not isinstance(value, dict):
            raise UserError(f"{what} is {type(value).__name__}, expected keys with values as COCO has them")
        if section == "images":
            name, size = value.get("file_name"), (value.get("height"), value.get("width"))
            if not isinstance(name, str) or not name or not all(type(side) is int and side > 0 for side in size):
                raise UserError(f"{what} has the file_name {name!r}, height and width {size}, expected a name and whole numbers")
            if (number := _id(value, "id", what)) in images:
                raise UserError(f"{what} has the id {number!r} of another picture, expected one of its own")
            images[number] = name, (int(size[0]), int(size[1]))  # type: ignore[arg-type]
        elif section == "categories":
            if not isinstance(name := value.get("name"), str) or not name:
                raise UserError(f"{what} has the name {name!r}, expected a text")
            labels[_id(value, "id", what)] = name
        else:
            if "segments_info" in value:
                raise UserError(f"{path} holds COCO's panoptic annotations, whose labels are pictures: expected outlines or run lengths")
            image, category = _id(value, "image_id", what), _id(value, "category_id", what)
            places.setdefault(image, array("Q")).extend((start, end))
            objects[category] += 1
            pairs.add((image, category))
    for owner, strange in (("a picture", places.keys() - images.keys()), ("a category", objects.keys() - labels.keys())):
        if strange:
            raise UserError(f"{path} has annotations of {owner} with the id {min(map(str, strange))}, which it does not list: is it whole?")
    pictures: dict[str, Picture] = {}
    for number, (name, size) in images.items():
        if name in pictures:
            raise UserError(f"{path} lists the picture {name!r} twice, expected all its annotations under one id")
        pictures[name] = Picture(size, np.array(places.get(number, ()), np.uint64).astype(np.int64).reshape(-1, 2))
    named = Counter(dict.fromkeys(labels.values(), 0))
    for category, count in objects.items():
        named[labels[category]] += count
    seen = Counter(label for _, label in {(image, labels[category]) for image, category in pairs})
    return Index(pictures, labels, named, seen)


def _id(value: Mapping[str, Any], key: str, what: str) -> int | str:
    if type(number := value.get(key)) not in (int, str):
        raise UserError(f"{what} has the {key} {number!r}, expected a whole number")
    return number  # type: ignore[return-value]


def read(path: Path, within: str, size: tuple[int, int], numbers: Mapping[Any, int]) -> list[Region]:
    """The objects of one picture, in the order in which they are drawn.

    Args:
        path: of the file.
        within: what it calls the picture.
        size: of the picture, rows and columns.
        numbers: the code of each label; others have none.

    Raises:
        UserError: the file says another size, or has an object that it says nothing of but a box.
    """
    file = index(path)
    if (picture := file.pictures.get(within)) is None:
        raise UserError(f"{path} no longer lists the picture {within!r}: did it change meanwhile?")
    if picture.size != size:
        told = f"{picture.size[1]}×{picture.size[0]} pixels of {within}, which has {size[1]}×{size[0]}"
        raise UserError(f"{path} tells of {told}, expected the same size: is the picture another copy, or turned by its EXIF?")
    crowds: list[list[Region]] = []
    objects: list[list[Region]] = []
    for one in read_again(path, picture.places, WHAT):
        what = f"{path}: the annotation {one.get('id')!r} of {within}"
        code = numbers.get(file.labels[one["category_id"]], NOTHING)
        segmentation = one.get("segmentation")
        if not segmentation:
            if code == NOTHING:
                continue
            raise UserError(f"{what} has a box but no outline, so that its pixels are not known: leave its picture out by 'exclude'")
        (crowds if one.get("iscrowd") else objects).append(_regions(segmentation, size, code, what))
    return [*by_area(crowds), *by_area(objects)]


def _regions(segmentation: Any, size: tuple[int, int], code: int, what: str) -> list[Region]:
    """Of several outlines of one object a region each."""
    if isinstance(segmentation, dict):
        if segmentation.get("size") != list(size):
            raise UserError(f"{what} has run lengths for {segmentation.get('size')!r}, expected rows and columns {list(size)}")
        regions = [from_runs(segmentation.get("counts"), size, code, what)]
    elif isinstance(segmentation, list):
        regions = [outline(points_of(flat, what), size, code, what) for flat in segmentation]
    else:
        raise UserError(f"{what} has a segmentation that is neither outlines nor run lengths: it is damaged")
    return [region for region in regions if region is not None]


def points_of(flat: Any, what: str) -> np.ndarray:
    """(N, 2) of ``[x, y, x, y, ...]``."""
    if not isinstance(flat, list) or len(flat) % 2 or not all(type(number) in (int, float) for number in flat):
        raise UserError(f"{what} has an outline that is no list of x, y, x, y, ...: it is damaged")
    try:
        return np.array(flat, np.float64).reshape(-1, 2)
    except OverflowError:
        raise UserError(f"{what} has an outline with a number beyond all measure: it is damaged") from None
