"""The files of the ICVL hand posture dataset: depth of 16 bits, and text files with a line per picture.

Training: ``Training/labels.txt`` and ``Training/Depth/<sequence>/image_0000.png``; the copies that were rotated lie in
``Training/Depth/<angle>/<sequence>/``. Test: ``Testing/test_seq_1.txt``, ``Testing/test_seq_2.txt`` and ``Testing/Depth/test_seq_1/...``.
The text files may also lie in the dataset's folder itself, and the pictures beside them. A line is the picture's path and 16 times u, v,
and depth in mm.

Shapes: ``N`` frames, ``H``, ``W`` pixels.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import numpy as np

from densemtmd.datasets.hands.frames import BROKEN, Frames, joined, numbers_of, open_depth, text_lines, usable
from densemtmd.datasets.hands.sets import ICVL
from densemtmd.errors import UserError

LISTS = {"train": ("labels.txt",), "test": ("test_seq_1.txt", "test_seq_2.txt")}
HOMES = {"train": "Training", "test": "Testing"}
WHAT = "a line per picture, its path and u, v, depth of 16 keypoints"


def read_depth(path: str | Path) -> np.ndarray:
    """(H, W) float32: depth in mm of a picture of 16 bits; 0 where there is no reading.

    Raises:
        UserError: not a picture of 16 bits of grey.
    """
    with open_depth(Path(path), ("I;16", "I;16B", "I;16L", "I"), "one channel of 16 bits, in mm, as ICVL's are") as picture:
        return np.asarray(picture).astype(np.float32)


def read_frames(folder: str | Path, split: str, rotated: bool = False) -> Frames:
    """The frames of an official split (22,068 to ``train``, or 330,933 with the rotated copies; 1,596 to ``test``).

    Lines whose keypoints are not all in front of the camera are left out and counted. So are lines that are cut short, where they are very
    few; more of them are an error.

    Args:
        folder: of the dataset.
        split: ``train`` or ``test``.
        rotated: with the copies of the training pictures that were rotated.

    Raises:
        UserError: no file of labels where expected, a line that is cut short, no usable frame.
    """
    return joined([_read_list(_find(Path(folder), split, name), rotated) for name in LISTS[split]])


def _find(folder: Path, split: str, name: str) -> Path:
    places = [folder / HOMES[split] / name, folder / name]
    found = next((place for place in places if place.is_file()), None)
    if found is None:
        raise UserError(f"{places[0]} does not exist, nor does {places[1]}: expected the labels of ICVL's {split} pictures there")
    return found


def _read_list(path: Path, rotated: bool) -> Frames:
    """The frames of one text file."""
    home = path.parent / "Depth" if (path.parent / "Depth").is_dir() else path.parent
    names, rows, broken, lines = [], [], [], 0
    for number, words in text_lines(path, WHAT):
        lines += 1
        name = PurePosixPath(words[0].replace("\\", "/"))
        if not rotated and len(name.parts) > 2:
            continue
        try:
            rows.append(numbers_of(words[1:], ICVL.keypoints.channels, path, number, WHAT))
        except UserError as error:
            broken.append(error)
            continue
        names.append(name)
    if len(broken) > BROKEN * lines:
        raise broken[0]
    uvd = np.array(rows, float).reshape(len(rows), len(ICVL.keypoints.keypoints), 3)
    good = usable(uvd)
    if not good.any():
        raise UserError(f"{path} has no valid line of {lines}, expected keypoints in front of the camera: {WHAT}")
    skipped = int((~good).sum()) + len(broken)
    first = f", the first is {broken[0]}" if broken else ""
    frames = Frames(
        keys=tuple(name.with_suffix("").as_posix() for name in names),
        pictures=tuple(home / name for name in names),
        sequences=tuple(name.parent.as_posix() for name in names),
        uvd=uvd,
        cubes=np.full(len(uvd), ICVL.cube),
        notes=(f"{ICVL.name}: {skipped} of {lines} lines of {path.name} are invalid and are left out{first}",) if skipped else (),
    )
    return frames.take(np.flatnonzero(good))
