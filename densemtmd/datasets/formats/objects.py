"""Objects in files of any format, as the codes of a picture's pixels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from densemtmd.datasets.config import Code, Codes, DatasetConfig
from densemtmd.datasets.formats import coco, label_studio, labelme, yolo
from densemtmd.datasets.formats.regions import Region, painted
from densemtmd.datasets.pictures import picture_size
from densemtmd.datasets.sample import Item

Reader: TypeAlias = Callable[[Path, str, tuple[int, int], Mapping[Any, int]], list[Region]]


def reader_of(encoding: str) -> Reader:
    """What reads the objects of one picture, in the order in which they are drawn."""
    readers: dict[str, Reader] = {"coco": coco.read, "labelme": labelme.read, "label_studio": label_studio.read, "yolo": yolo.read}
    return readers[encoding]


def pictures_in(path: Path, encoding: str) -> Mapping[str, tuple[str, ...]]:
    """What a file that speaks of several pictures calls them, and the paths that this may mean; see
    :data:`densemtmd.datasets.config.LISTING`."""
    return label_studio.index(path).names if encoding == "label_studio" else {name: (name,) for name in coco.index(path).pictures}


def numbered(codes: Codes) -> dict[Code, int]:
    """The number that stands for each code: itself, or, of a name, its place among all names."""
    named = [code for some in (*codes.labels, codes.void) for code in some]
    return {code: number if isinstance(code, str) else int(code) for number, code in enumerate(named)}  # type: ignore[arg-type]


def read_objects(path: Path, config: DatasetConfig, item: Item) -> np.ndarray:
    """The codes of a picture's pixels: (H, W) int32, as :func:`numbered` counts them, NOTHING where no object is that has one.

    Args:
        path: of the file of labels.
        config: the dataset.
        item: the picture.

    Raises:
        UserError: the file or the picture cannot be read, or they do not belong together.
    """
    size = picture_size(item.image)
    regions = reader_of(config.encoding)(path, item.within, size, numbered(config.codes))
    return painted(regions, size, f"{path}: {item.within}" if item.within else str(path))
