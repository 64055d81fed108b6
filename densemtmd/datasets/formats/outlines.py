"""From labels of pixels to outlines: what a network says of a picture, as files that the tools open that people label with.

Each piece of one label that hangs together by the sides of its pixels has an outline, halfway between its pixels and those beside it. What
lies straight within a third of a pixel is one line: so no middle of a pixel changes sides, and an outline that is filled again gives the
pixels that it was made of, but for those that a way of filling it rounds otherwise.

Shapes: ``H``, ``W`` pixels; outlines are (N, 2) float64, x and y in pixels, (0, 0) the outer corner of the first one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from contourpy import LineType, contour_generator
from scipy import ndimage

from densemtmd.datasets.formats.regions import packed
from densemtmd.errors import UserError
from densemtmd.files import atomic_write
from densemtmd.tasks import VOID, Labelset

TOLERANCE = 0.35
"""Pixels; outlines of pixels are nowhere nearer to the middle of one than the square root of 1/8."""

IGNORED = "__ignore__"
"""What labelme's own tools call pixels that say nothing."""


@dataclass(frozen=True)
class Piece:
    """Pixels of one label that hang together."""

    class_id: int
    outline: np.ndarray  # the outer one
    holes: int
    mask: np.ndarray     # (h, w) bool, of the box about it
    top: int
    left: int
    within: float        # pixels within the outer outline, those of holes too


def pieces(ids: np.ndarray) -> list[Piece]:
    """The pieces of all labels of a picture (H, W) uint8, those of void too; each comes before those that lie in its holes."""
    found = []
    for class_id in np.unique(ids).tolist():
        numbered, count = ndimage.label(ids == class_id)
        for number, box in enumerate(ndimage.find_objects(numbered, count), 1):
            mask = numbered[box] == number
            contours: Any = contour_generator(z=np.pad(mask, 1).astype(np.float64), line_type=LineType.Separate)
            lines = contours.lines(0.5)
            areas = [abs(_area(line)) for line in lines]
            top, left = box[0].start, box[1].start
            outer = lines[int(np.argmax(areas))][:-1] + np.array([left - 0.5, top - 0.5])
            found.append(Piece(class_id, straightened(outer), len(lines) - 1, mask, top, left, max(areas)))
    return sorted(found, key=lambda piece: (-piece.within, piece.top, piece.left))


def _area(points: np.ndarray) -> float:
    x, y = points[:, 0], points[:, 1]
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def straightened(points: np.ndarray, tolerance: float = TOLERANCE) -> np.ndarray:
    """A closed outline with fewer corners, no corner that is left out farther from it than ``tolerance`` (Douglas and Peucker, 1973)."""
    start = int(np.argmin(points @ [1.0, 1e-3]))
    points = np.roll(points, -start, axis=0)
    middle = int(np.argmax(((points - points[0]) ** 2).sum(axis=1)))
    closed = np.vstack([points, points[:1]])
    keep = np.zeros(len(closed), bool)
    keep[[0, middle]] = True
    waiting = [(0, middle), (middle, len(points))]
    while waiting:
        first, last = waiting.pop()
        if last - first < 2:
            continue
        line, away = closed[last] - closed[first], closed[first + 1 : last] - closed[first]
        length = max(float(line @ line), 1e-12)
        along = np.clip(away @ line / length, 0, 1)  # to the stretch, not to the line without end
        distance = ((away - along[:, None] * line) ** 2).sum(axis=1)
        farthest = int(np.argmax(distance))
        if distance[farthest] > tolerance**2:
            keep[first + 1 + farthest] = True
            waiting += [(first, first + 1 + farthest), (first + 1 + farthest, last)]
    return points[keep[:-1]]


def coco_of(ids: np.ndarray, labelset: Labelset, name: str, note: str | None = None) -> dict[str, Any]:
    """COCO's JSON for one picture: an annotation for each piece, by its outline, or by run lengths where it has holes.

    Args:
        ids: (H, W) uint8 class ids; 255 is left out.
        labelset: their labels, the categories from 1 on.
        name: of the picture's file.
        note: is kept with it.
    """
    annotations = []
    for number, piece in enumerate((piece for piece in pieces(ids) if piece.class_id != VOID), 1):
        height, width = piece.mask.shape
        segmentation: Any = [piece.outline.ravel().tolist()]
        if piece.holes:
            whole = np.zeros(ids.shape, bool)
            whole[piece.top : piece.top + height, piece.left : piece.left + width] = piece.mask
            segmentation = packed(whole)
        annotations.append({
            "id": number, "image_id": 1, "category_id": piece.class_id + 1, "segmentation": segmentation, "area": int(piece.mask.sum()),
            "bbox": [piece.left, piece.top, width, height], "iscrowd": 0,
        })  # fmt: skip
    return {
        "info": {"description": f"labels of {labelset.name}", "note": note},
        "images": [{"id": 1, "file_name": name, "height": ids.shape[0], "width": ids.shape[1]}],
        "annotations": annotations,
        "categories": [{"id": number, "name": label, "supercategory": ""} for number, label in enumerate(labelset.labels, 1)],
    }


def labelme_of(ids: np.ndarray, labelset: Labelset, place: str, note: str | None = None) -> dict[str, Any]:
    """labelme's JSON for one picture: a polygon for each piece, which those in its holes come after, and so lie over.

    Args:
        ids: (H, W) uint8 class ids; 255 is called ``__ignore__``.
        labelset: their labels.
        place: where the picture is from the file's folder.
        note: is kept with it.
    """
    shapes = [
        {
            "label": IGNORED if piece.class_id == VOID else labelset.labels[piece.class_id], "points": piece.outline.tolist(),
            "group_id": None, "description": "", "shape_type": "polygon", "flags": {}, "mask": None,
        }
        for piece in pieces(ids)
    ]  # fmt: skip
    return {
        "version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": place, "imageData": None, "imageHeight": ids.shape[0],
        "imageWidth": ids.shape[1], "note": note,
    }  # fmt: skip


def place_of(picture: Path, folder: Path) -> str:
    """Where a picture is from a folder, with ``/`` between."""
    try:
        return Path(os.path.relpath(picture.resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive
        return picture.resolve().as_posix()


def gathered(parts: Sequence[Path], path: Path) -> None:
    """Writes one file of COCO's of those of single pictures, read one at a time.

    Raises:
        UserError: one that is missing or damaged.
    """

    def load(part: Path) -> dict[str, Any]:
        try:
            content = json.loads(part.read_text("utf-8"))
            return {"image": content["images"][0], "annotations": content["annotations"], "categories": content["categories"]}
        except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
            raise UserError(f"{part} cannot be read ({error}): it is damaged, remove it and label its picture again") from error

    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"info": {}, "categories": ' + json.dumps(load(parts[0])["categories"]) + ',\n"images": [\n')
        for number, part in enumerate(parts, 1):
            file.write((",\n" if number > 1 else "") + json.dumps(load(part)["image"] | {"id": number}))
        file.write('\n],\n"annotations": [\n')
        count = 0
        for number, part in enumerate(parts, 1):
            for annotation in load(part)["annotations"]:
                count += 1
                file.write((",\n" if count > 1 else "") + json.dumps(annotation | {"id": count, "image_id": number}))
        file.write("\n]}\n")
