"""Which files of objects lie in a folder, and which labels they have: what the first draft of a dataset's YAML says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from densemtmd.datasets.formats import coco, labelme
from densemtmd.errors import UserError


@dataclass
class Objects:
    """Files of objects of one format."""

    encoding: str
    files: list[Path] = field(default_factory=list)
    objects: Counter[str | int] = field(default_factory=Counter)   # how many each label has
    pictures: Counter[str | int] = field(default_factory=Counter)  # in how many pictures it is
    names: dict[Any, str] = field(default_factory=dict)            # of labels that are numbers

    @property
    def called(self) -> str:
        """``3 files of COCO's JSON``."""
        what = {"coco": "COCO's JSON", "labelme": "labelme's JSON"}[self.encoding]
        return f"{what} ({self.files[0].name})" if len(self.files) == 1 else f"{len(self.files)} files of {what}"


def recognise(there: Sequence[Path]) -> Objects | None:
    """Those of some files that are files of objects, of the format of most; None where there are none.

    Raises:
        UserError: a file that is of a format, and cannot be read.
    """
    found: dict[str, list[Path]] = {}
    for path in there:
        if path.suffix == ".json" and (encoding := _format_of(path)) is not None:
            found.setdefault(encoding, []).append(path)
    if not found:
        return None
    encoding = max(found, key=lambda one: len(found[one]))
    objects = Objects(encoding)
    {"coco": _coco, "labelme": _labelme}[encoding](found[encoding], objects)
    return objects


def _format_of(path: Path) -> str | None:
    text = ends(path)
    if '"images"' in text and any(key in text for key in ('"annotations"', '"categories"', '"segmentation"')):
        return "coco"
    if '"shapes"' in text and ('"imagePath"' in text or '"imageData"' in text):
        return "labelme"
    return None


def _coco(files: Sequence[Path], found: Objects) -> None:
    """Of several files about the same pictures, such as outlines and keypoints, the first counts, by name that of instances."""
    known: set[str] = set()
    for path in sorted(files, key=lambda path: ("instances" not in path.name.lower(), path)):
        index = coco.index(path)
        # file names are unique within their own folder only, which each split may have one of
        names = {f"{path.parent}/{name}" for name in index.pictures}
        if not known & names:
            known |= names
            found.files.append(path)
            found.objects.update(index.objects)
            found.pictures.update(index.seen)
    found.files.sort()


def _labelme(files: Sequence[Path], found: Objects) -> None:
    for path in files:
        labels = [label for _, label, _, _ in labelme.shapes(path)]
        found.files.append(path)
        found.objects.update(labels)
        found.pictures.update(set(labels))


def ends(path: Path, size: int = 65536) -> str:
    """The beginning and the end of a file as text: annotations of a whole dataset may be one file of gigabytes."""
    try:
        with path.open("rb") as file:
            head = file.read(size)
            file.seek(max(size, path.stat().st_size - size))
            return (head + file.read(size)).decode("utf-8", "replace")
    except OSError:
        return ""


def refuse_many(found: Objects, most: int) -> None:
    """Refuses more labels than a labelset can have.

    Raises:
        UserError: so many.
    """
    if len(found.objects) > most:
        raise UserError(f"{found.files[0]} has {len(found.objects)} labels, expected at most {most}: join some of them in it")
