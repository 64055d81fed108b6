"""Label Studio's JSON: all tasks of a project in one file, with polygons, brushes, rectangles and ellipses.

Each region is drawn over those before it, as Label Studio shows them. Of a task that several people annotated, the annotation counts that
is marked as the truth, else the last one that nobody cancelled; a task without any was not labelled. Brushes are packed as bits by
``rle-pack`` of thi.ng (https://github.com/thi-ng/umbrella/tree/develop/packages/rle-pack), their pixels as RGBA, of which the last says
what is covered.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from densemtmd.datasets.formats.entries import entries, read_again, state
from densemtmd.datasets.formats.regions import NOTHING, Region, from_mask, outline
from densemtmd.errors import UserError

WHAT = "Label Studio's JSON"
LABELS = ("brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels", "labels")
PICTURE = re.compile(r"\.(jpe?g|png|webp|bmp|gif|tiff?|ppm|pgm|jp2|avif)$", re.IGNORECASE)
UPLOADED = re.compile(r"^[0-9a-f]{8}-")
"""What Label Studio puts before the name of a file that is uploaded."""

ELLIPSE = 128
"""Corners of the polygon that stands for an ellipse."""

MOST_BYTES = 16_000_000
"""Of a brush, packed."""


@dataclass(frozen=True)
class Index:
    """What a file speaks of."""

    places: Mapping[str, np.ndarray]        # (1, 2) where each task begins and ends in the file, by its picture
    names: Mapping[str, tuple[str, ...]]    # what each picture may be called here
    objects: Mapping[str, int]              # how many each label has
    seen: Mapping[str, int]                 # pictures in which it is


def index(path: str | Path) -> Index:
    """What a file speaks of, looked through once for as long as it does not change.

    Raises:
        UserError: it cannot be read, or is none of Label Studio's.
    """
    path = Path(path)
    return _index(path, *state(path, WHAT))


@lru_cache(maxsize=8)
def _index(path: Path, *changes: int) -> Index:
    places: dict[str, np.ndarray] = {}
    objects: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for _section, start, end, task in entries(path, ("",), WHAT):
        what = f"{path}: a task (byte {start})"
        if not isinstance(task, dict) or not isinstance(task.get("data"), dict) or not isinstance(task.get("annotations"), list):
            raise UserError(f"{what} has no data or no annotations, expected {WHAT}: export as JSON, not as JSON-MIN or CSV")
        if (results := _results(task)) is None:
            continue
        pictures = [value for value in task["data"].values() if isinstance(value, str) and PICTURE.search(_plain(value))]
        if len(pictures) != 1:
            raise UserError(f"{what} is about {len(pictures)} pictures, expected one")
        if pictures[0] in places:
            raise UserError(f"{path} has two tasks about {pictures[0]}, expected one: delete the other")
        places[pictures[0]] = np.array([[start, end]])
        labels = [label for result in results if (label := _label(result)) is not None]
        objects.update(labels)
        seen.update(set(labels))
    names = {}
    for picture in places:
        plain = _plain(picture)
        folder, _slash, name = plain.rpartition("/")
        bare = UPLOADED.sub("", name)
        names[picture] = tuple(dict.fromkeys((plain, f"{folder}/{bare}".removeprefix("/"))))
    return Index(places, names, objects, seen)


def _plain(url: str) -> str:
    """The path within an address: ``/data/local-files/?d=photos/a%20b.jpg`` -> ``photos/a b.jpg``."""
    path = url.split("?d=", 1)[1] if "?d=" in url else re.sub(r"[?#].*$", "", url)
    return unquote(re.sub(r"^[a-z0-9+]+://[^/]*/", "", path)).lstrip("/")


def stored(name: str) -> str:
    """What Label Studio calls a file that is uploaded, but for what it puts before it: as Django does.

    >>> stored("Screenshot (2) of a car.png")
    'Screenshot_2_of_a_car.png'
    """
    return re.sub(r"[^-\w.]", "", name.strip().replace(" ", "_"))


def _results(task: Mapping[str, Any]) -> list[Any] | None:
    """The regions of the annotation that counts; None where the task was not labelled."""
    valid = [one for one in task["annotations"] if isinstance(one, dict) and not one.get("was_cancelled")]
    valid = [one for one in valid if isinstance(one.get("result"), list)]
    return (next((one for one in valid if one.get("ground_truth")), valid[-1]))["result"] if valid else None


def _label(result: Any) -> str | None:
    """The label of a region; None where it is none, or has none."""
    value = result.get("value") if isinstance(result, dict) else None
    labels = next((value[key] for key in LABELS if value.get(key)), None) if isinstance(value, dict) else None
    return labels[0] if isinstance(labels, list) and isinstance(labels[0], str) else None


def read(path: Path, within: str, size: tuple[int, int], numbers: Mapping[Any, int]) -> list[Region]:
    """The objects of a picture, in the order in which they are drawn; see :func:`densemtmd.datasets.formats.coco.read`.

    Raises:
        UserError: the file says another size, or has a region that is damaged.
    """
    if (place := index(path).places.get(within)) is None:
        raise UserError(f"{path} no longer lists the picture {within!r}: did it change meanwhile?")
    (task,) = read_again(path, place, WHAT)
    regions = []
    for number, result in enumerate(_results(task) or (), 1):
        if (label := _label(result)) is None:
            continue
        what = f"{path}: region {number} ({label}) of {within}"
        told = result.get("original_height"), result.get("original_width")
        if told != size:
            known = f"{what} is on a picture of {told[1]}×{told[0]} pixels, but that has {size[1]}×{size[0]}"
            raise UserError(f"{known}, expected the same size: is the picture another copy, or turned by its EXIF?")
        if result.get("image_rotation"):
            raise UserError(f"{what} is on a picture that was turned in Label Studio: turn the file, and label it anew")
        regions.append(_region(result["value"], size, numbers.get(label, NOTHING), what))
    return [region for region in regions if region is not None]


def _region(value: Mapping[str, Any], size: tuple[int, int], code: int, what: str) -> Region | None:
    height, width = size
    if "rle" in value:
        return from_mask(unpacked(value["rle"], 4 * height * width, what).reshape(height, width, 4)[..., 3] > 0, code)
    scale = np.array([width, height]) / 100
    try:
        if "points" in value:
            points = np.array(value["points"], np.float64).reshape(-1, 2) * scale
            return outline(points, size, code, what)
        start = np.array([value["x"], value["y"]], np.float64) * scale
        if "radiusX" in value:
            turns = np.linspace(0, 2 * math.pi, ELLIPSE, endpoint=False)
            corners = np.stack([np.cos(turns), np.sin(turns)], axis=1) * np.array([value["radiusX"], value["radiusY"]], np.float64) * scale
        else:
            corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * np.array([value["width"], value["height"]], np.float64) * scale
        turn = math.radians(float(value.get("rotation") or 0))  # clockwise, about the corner of a rectangle and the middle of an ellipse
        return outline(start + corners @ [[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]], size, code, what)
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{what} is no polygon, brush, rectangle or ellipse that can be read: it is damaged") from error


def unpacked(packed: Any, count: int, what: str) -> np.ndarray:
    """The (count,) uint8 that bits stand for.

    First come how many there are (32 bits), the bits of a value less one (5) and those of four kinds of lengths less one (4 each). Then
    runs: whether one value is repeated (1 bit), the kind of the length (2), the length less one, the value or the values.

    Raises:
        UserError: they stand for another number of values, or are cut off.
    """
    damaged = UserError(f"{what} has a brush that does not make up its picture: it is damaged")
    if not isinstance(packed, list) or len(packed) > MOST_BYTES or not all(type(byte) is int and 0 <= byte < 256 for byte in packed):
        raise damaged
    array = np.array(packed, np.uint8)
    bits = np.unpackbits(array)
    text = (bits + 48).tobytes().decode("ascii")
    at = 53

    def number(size: int) -> int:
        nonlocal at
        at += size
        if at > len(text):
            raise damaged
        return int(text[at - size : at], 2)

    if len(text) < at or int(text[:32], 2) != count or int(text[32:37], 2) != 7:
        raise damaged
    lengths = [int(text[place : place + 4], 2) + 1 for place in range(37, 53, 4)]
    values, done = np.zeros(count, np.uint8), 0
    while done < count:
        repeated = number(1)
        end = done + number(lengths[number(2)]) + 1
        if repeated:
            values[done:end] = number(8)
        else:
            at += 8 * (end - done)
            if at > len(text) or end > count:
                raise damaged
            values[done:end] = np.packbits(bits[at - 8 * (end - done) : at])
        done = end
    if done > count:
        raise damaged
    return values
