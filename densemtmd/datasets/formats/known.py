"""What the codes of masks are called, where files beside them tell, or where everybody knows: CVAT, labelme, Mapillary, Cityscapes, VOC."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from densemtmd.datasets.config import load_dataset_config
from densemtmd.errors import UserError
from densemtmd.files import read_bounded
from densemtmd.tasks import VOID

VOC = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""Everingham et al.: The Pascal visual object classes challenge, 2012; 255 is the border of objects."""

BACKGROUND = ("background", "_background_")
"""What the pixels of no object are called."""

MOST_BYTES = 5_000_000
"""Of a file of names."""


@dataclass
class Known:
    """What is known of codes; colours are numbers of 24 bits where they are codes."""

    source: str
    names: dict[int, str]
    colours: dict[int, list[int]] = field(default_factory=dict)
    void: dict[int, str] = field(default_factory=dict)


def known_codes(folder: Path, files: Sequence[Path], encoding: str, palette: Sequence[int]) -> Known | None:
    """What is known of the codes of some masks; None where nothing is.

    Args:
        folder: of the dataset.
        files: some of the masks.
        encoding: ``index`` or ``colour``.
        palette: of the first mask, R, G, B, R, ... of each code; empty where it has none.
    """
    places = [place for place in files[0].parents if place.is_relative_to(folder)]
    colours = {int(palette[3 * n]) << 16 | palette[3 * n + 1] << 8 | palette[3 * n + 2]: n for n in reversed(range(len(palette) // 3))}
    for place in places:
        beside = [*place.glob("labelmap.txt"), *place.glob("class_names.txt"), *place.glob("config*.json")]
        for path in sorted(beside, key=lambda path: (not any(path.stem.endswith(f"_{part}") for part in files[0].parts), path)):
            with suppress(UserError, ValueError, RecursionError):
                content = read_bounded(path, "names of labels", MOST_BYTES).decode("utf-8-sig")
                if path.name == "labelmap.txt" and (encoding == "colour" or colours):
                    found = _labelmap(content, path.name, {} if encoding == "colour" else colours)
                elif path.name == "class_names.txt" and encoding == "index":
                    found = _class_names(content, path.name)
                elif path.suffix == ".json" and encoding == "index":
                    found = _mapillary(content, path.name)
                else:
                    continue
                if found.names:
                    return found
    if encoding == "index" and re.search(r"_label(Train)?Ids$", files[0].stem):
        return _cityscapes(files[0].stem.endswith("TrainIds"))
    if encoding == "index" and "SegmentationClass" in files[0].parts and palette[3:6] == [128, 0, 0]:
        return Known("Pascal VOC", dict(enumerate(VOC)), {n: list(palette[3 * n : 3 * n + 3]) for n in range(len(VOC))}, {VOID: "border"})
    return None


def _labelmap(content: str, name: str, colours: dict[int, int]) -> Known:
    """CVAT's ``car:128,0,0::`` a line; where masks have a palette, ``colours`` gives the code of each colour."""
    found = Known(name, {})
    for line in content.splitlines():
        match = re.match(r"\s*([^#:][^:]*):\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*(:|$)", line)
        if match and all(int(value) < 256 for value in match.group(2, 3, 4)):
            rgb = [int(value) for value in match.group(2, 3, 4)]
            packed = rgb[0] << 16 | rgb[1] << 8 | rgb[2]
            if (code := colours.get(packed) if colours else packed) is not None:
                found.names[code], found.colours[code] = match[1].strip(), rgb
    return found


def _class_names(content: str, name: str) -> Known:
    """labelme's names, one a line, of which ``__ignore__`` is -1."""
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    ignored = lines[:1] == ["__ignore__"]
    return Known(name, dict(enumerate(lines[ignored:])), void={VOID: "__ignore__"} if ignored else {})


def _mapillary(content: str, name: str) -> Known:
    """Mapillary Vistas' list of labels in the order of their codes; those that are not evaluated are void."""
    data = json.loads(content)
    labels = data.get("labels") if isinstance(data, dict) else None
    found = Known(name, {})
    for code, label in enumerate(labels if isinstance(labels, list) else ()):
        if not isinstance(label, dict) or not isinstance(label.get("name"), str):
            raise ValueError("no list of labels")
        readable = label.get("readable")
        called = readable if isinstance(readable, str) and readable else label["name"]
        (found.names if label.get("evaluate", True) else found.void)[code] = called
        if isinstance(rgb := label.get("color"), list) and len(rgb) == 3 and all(type(value) is int and 0 <= value < 256 for value in rgb):
            found.colours[code] = rgb
    twice = [name for name in found.names.values() if [*found.names.values()].count(name) > 1]
    if twice:  # two labels may be called alike to people
        found.names |= {code: labels[code]["name"] for code, name in found.names.items() if name in twice}  # type: ignore[index]
    return found


def _cityscapes(trained: bool) -> Known:
    """Cordts et al., CVPR 2016: the 19 classes that are scored, by the ids of its files, or by their numbers in training."""
    config = load_dataset_config("kitti_semantics")
    codes = range(len(config.codes.labels)) if trained else [int(own[0]) for own in config.codes.labels]  # type: ignore[arg-type]
    names = dict(zip(codes, config.labelset.labels, strict=True))
    colours = {code: list(colour) for code, colour in zip(codes, config.labelset.palette, strict=True)}
    void = [VOID] if trained else [int(code) for code in config.codes.void]  # type: ignore[arg-type]
    return Known("Cityscapes", names, colours, dict.fromkeys(void, "not scored"))
