"""YOLO's outlines: a text for each picture, a line for each object: its class and x, y, x, y, ... as shares of the picture's sides.

YOLO keeps no order: the smaller is drawn over the larger. A text that is empty says that there is no object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from densemtmd.datasets.formats.regions import NOTHING, Region, by_area, outline
from densemtmd.errors import UserError
from densemtmd.files import read_bounded

WHAT = "outlines of YOLO"
NUMBER = re.compile(r"[-+]?[0-9]{0,20}\.?[0-9]{0,40}(e[-+]?[0-9]{1,3})?", re.IGNORECASE)


def objects(path: Path) -> Iterator[tuple[str, int, list[str]]]:
    """What it is for messages, the class and the numbers of each object of a text.

    Raises:
        UserError: it cannot be read, or is none of YOLO's.
    """
    for number, line in enumerate(read_bounded(path, WHAT).decode("utf-8-sig", "replace").splitlines(), 1):
        if not (words := line.split()):
            continue
        what = f"{path}: line {number}"
        if not re.fullmatch(r"[0-9]{1,7}", words[0]) or not all(map(NUMBER.fullmatch, words[1:])):
            raise UserError(f"{what} is {line[:60]!r}, expected a class and x, y, x, y, ... with spaces between")
        yield what, int(words[0]), words[1:]


def read(path: Path, within: str, size: tuple[int, int], numbers: Mapping[Any, int]) -> list[Region]:
    """The objects of a picture, in the order in which they are drawn; see :func:`densemtmd.datasets.formats.coco.read`.

    Raises:
        UserError: a line that is no outline, or one of a class of the dataset that is a box.
    """
    found = []
    for what, label, words in objects(path):
        code = numbers.get(label, NOTHING)
        if len(words) % 2 or len(words) < 6:
            if code == NOTHING:
                continue
            box = "a box, which says nothing of pixels" if len(words) == 4 else f"a class and {len(words)} numbers"
            raise UserError(f"{what} is {box}: expected an outline, x, y, x, y, ... of three points or more")
        try:
            points = np.array(words, np.float64).reshape(-1, 2)
        except ValueError as error:  # a lone point or sign
            raise UserError(f"{what} has a number that is none, expected x, y, x, y, ...") from error
        if (region := outline(points * size[::-1], size, code, what)) is not None:
            found.append([region])
    return by_area(found)
