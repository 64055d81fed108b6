"""What the readers give: the labelled frames of one split, and lines of numbers as the field's text files hold them.

Shapes: ``N`` frames, ``J`` keypoints.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from densemtmd.datasets.pictures import open_picture
from densemtmd.errors import UserError
from densemtmd.files import read_bounded

MOST_BYTES = 1_000_000_000
"""Of a file of numbers: ICVL's 331,006 lines take a seventh of that."""

BROKEN = 0.001
"""The share of lines that may be cut short: in ICVL's file of 331,006 lines a few are, and nothing else is wrong with it."""


@dataclass(frozen=True)
class Frames:
    """Labelled frames, none of them read yet."""

    keys: tuple[str, ...]       # unique within the dataset
    pictures: tuple[Path, ...]
    sequences: tuple[str, ...]  # the video that each is a frame of
    uvd: np.ndarray             # (N, J, 3) float64: column, row, depth in mm
    cubes: np.ndarray           # (N,) float64: mm, side of the cube about the hand
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, which: np.ndarray) -> Frames:
        """The frames of some positions, in that order."""
        positions = np.asarray(which, int).tolist()
        keys, pictures, sequences = (tuple(column[i] for i in positions) for column in (self.keys, self.pictures, self.sequences))
        return Frames(keys, pictures, sequences, self.uvd[positions], self.cubes[positions], self.notes)


def joined(parts: Sequence[Frames]) -> Frames:
    """The frames of all parts, one after the other."""
    return Frames(
        keys=tuple(key for part in parts for key in part.keys),
        pictures=tuple(picture for part in parts for picture in part.pictures),
        sequences=tuple(sequence for part in parts for sequence in part.sequences),
        uvd=np.concatenate([part.uvd for part in parts]),
        cubes=np.concatenate([part.cubes for part in parts]),
        notes=tuple(note for part in parts for note in part.notes),
    )


def usable(uvd: np.ndarray) -> np.ndarray:
    """(N, J, 3) -> (N,): whether all coordinates of a frame are numbers and all its keypoints lie in front of the camera."""
    return np.isfinite(uvd).all((1, 2)) & (uvd[..., 2] > 0).all(1)


def text_lines(path: Path, what: str) -> Iterator[tuple[int, list[str]]]:
    """The lines of a text file that are not empty, split at white space: (number from 1, words).

    Raises:
        UserError: it cannot be read; ``what`` says what was expected.
    """
    try:
        text = read_bounded(path, what, MOST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read: it is not text; expected {what}") from error
    for number, line in enumerate(text.splitlines(), 1):
        if words := line.split():
            yield number, words


def numbers_of(words: list[str], count: int, path: Path, line: int, what: str) -> list[float]:
    """``count`` numbers of a line.

    Raises:
        UserError: more or fewer of them, or something that is no number; names the line.
    """
    if len(words) != count:
        raise UserError(f"{path}, line {line}: it has {len(words)} numbers, expected {count}: {what}")
    try:
        return [float(word) for word in words]
    except ValueError:
        strange = next(word for word in words if not _is_number(word))
        raise UserError(f"{path}, line {line}: {strange[:40]!r} is no number, expected {count} numbers: {what}") from None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def open_depth(path: Path, modes: tuple[str, ...], expected: str) -> Image.Image:
    """A depth picture in one of Pillow's modes.

    Raises:
        UserError: it cannot be read, or has another bit depth.
    """
    picture = open_picture(path)
    if picture.mode not in modes:
        found = {"1": "1 bit", "L": "8 bits of grey", "P": "a palette", "RGB": "colours of 8 bits", "RGBA": "colours with transparency"}
        kind = found.get(picture.mode, "16 bits of grey" if picture.mode.startswith("I") else f"Pillow's mode {picture.mode}")
        picture.close()
        raise UserError(f"{path} holds {kind}, expected a depth picture of {expected}")
    return picture
