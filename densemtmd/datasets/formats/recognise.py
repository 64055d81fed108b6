"""Which files of objects lie in a folder, and which labels they have: what the first draft of a dataset's YAML says of them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from densemtmd.datasets.formats import coco, label_studio, labelme, yolo
from densemtmd.errors import UserError
from densemtmd.files import read_bounded, read_yaml


@dataclass
class Objects:
    """Files of objects of one format."""

    encoding: str
    files: list[Path] = field(default_factory=list)
    objects: Counter[str | int] = field(default_factory=Counter)   # how many each label has
    pictures: Counter[str | int] = field(default_factory=Counter)  # in how many pictures it is
    names: dict[Any, str] = field(default_factory=dict)            # of labels that are numbers
    thin: set[str] = field(default_factory=set)                    # labels of lines and points alone

    @property
    def called(self) -> str:
        """``3 files of labelme's JSON``."""
        what = {"coco": coco.WHAT, "labelme": labelme.WHAT, "label_studio": label_studio.WHAT, "yolo": yolo.WHAT}[self.encoding]
        return f"{what} ({self.files[0].name})" if len(self.files) == 1 else f"{len(self.files)} files of {what}"


def recognise(there: Sequence[Path]) -> Objects | None:
    """Those of some files that are files of objects, of the format of most; None where there are none.

    Raises:
        UserError: a file that is of a format, and cannot be read.
    """
    found: dict[str, list[Path]] = {}
    for path in there:
        if path.suffix in (".json", ".txt") and (encoding := _format_of(path)) is not None:
            found.setdefault(encoding, []).append(path)
    if not found:
        return None
    encoding = max(found, key=lambda one: len(found[one]))
    objects = Objects(encoding)
    {"coco": _coco, "labelme": _labelme, "label_studio": _label_studio, "yolo": _yolo}[encoding](found[encoding], objects)
    return objects


def _format_of(path: Path) -> str | None:
    text = ends(path)
    if path.suffix == ".txt":
        return "yolo" if is_yolo(text[:4000], 7) else None
    if text.lstrip("\ufeff \t\r\n").startswith("[") and '"annotations"' in text and '"data"' in text:
        return "label_studio"
    if '"images"' in text and any(key in text for key in ('"annotations"', '"categories"', '"segmentation"')):
        return "coco"
    if '"shapes"' in text and ('"imagePath"' in text or '"imageData"' in text):
        return "labelme"
    return None


def _coco(files: Sequence[Path], found: Objects) -> None:
    """Of several files about the same pictures, such as outlines and keypoints, the first counts, by name that of instances; those of
    captions, of panoptic pictures and of no annotations at all only where there is nothing else."""
    known: set[str] = set()
    of_objects = [path for path in files if (text := ends(path)).count('"category_id"') > text.count('"segments_info"')]
    for path in sorted(of_objects or files, key=lambda path: ("instances" not in path.name.lower(), path)):
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
    """Of what is drawn as lines and points alone no pixel has the label."""
    for path in files:
        labels = Counter(label for _, label, _, shape in labelme.shapes(path) if shape.get("shape_type") not in labelme.THIN)
        found.files.append(path)
        found.objects.update(labels)
        found.pictures.update(set(labels))
        found.thin |= {label for _, label, _, shape in labelme.shapes(path) if label not in labels}
    found.thin -= found.objects.keys()


def _label_studio(files: Sequence[Path], found: Objects) -> None:
    for path in files:
        index = label_studio.index(path)
        found.files.append(path)
        found.objects.update(index.objects)
        found.pictures.update(index.seen)


def _yolo(files: Sequence[Path], found: Objects) -> None:
    """Texts that are empty belong to them too, but say nothing of labels; the names of these are in a YAML or a text beside."""
    for path in files:
        labels = [label for _, label, _ in yolo.objects(path)]
        found.files.append(path)
        found.objects.update(labels)
        found.pictures.update(set(labels))
    found.objects = Counter(dict(sorted(found.objects.items())))
    folder = Path(os.path.commonpath([path.parent for path in files]))
    for place in (folder, *list(folder.parents)[:3]):
        for path in sorted((*place.glob("*.yaml"), *place.glob("*.yml"), *place.glob("classes.txt"))):
            if names := _names_of(path):
                found.names = names
                return


def _names_of(path: Path) -> dict[Any, str]:
    """The names of classes that a file of YOLO's tells; none where it is something else."""
    with suppress(UserError):
        if path.suffix == ".txt":
            lines = read_bounded(path, "names of classes", 1_000_000).decode("utf-8-sig", "replace").splitlines()
            return dict(enumerate(line.strip() for line in lines if line.strip()))
        content = read_yaml(path, "names of classes")
        names = content.get("names") if isinstance(content, dict) else None
        pairs = enumerate(names) if isinstance(names, list) else names.items() if isinstance(names, dict) else ()
        return {number: str(name) for number, name in pairs if type(number) is int and name}
    return {}


def is_yolo(text: str, columns: int) -> bool:
    """Whether this is the beginning of a file of YOLO's: a class and the numbers of a box (5 columns) or a polygon (7 or more) in each
    line, with so many columns in one at least."""
    lines = text.splitlines()
    rows = [line.split() for line in (lines[:-1] if len(lines) > 1 else lines)]  # the last one may be cut off
    number = re.compile(r"-?[0-9]{0,9}\.?[0-9]{1,20}(e-?[0-9]{1,3})?", re.IGNORECASE)
    good = all(len(row) >= 5 and row[0].isdigit() and all(map(number.fullmatch, row[1:])) for row in rows)
    return good and any(len(row) >= columns for row in rows) and "." in text


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
