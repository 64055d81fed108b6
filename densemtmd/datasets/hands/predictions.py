"""Files of answers as the field exchanges them: a line per test frame, u, v and depth of each keypoint, or x, y, z; and files of centres.

Shapes: ``N`` frames, ``J`` keypoints.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from densemtmd.datasets.hands.frames import numbers_of, text_lines
from densemtmd.datasets.hands.sets import HandSet
from densemtmd.errors import UserError
from densemtmd.files import atomic_write

UNITS = {"uvd": "u v depth", "xyz": "x y z in mm"}


def read_predictions(path: str | Path, hands: HandSet, frames: int | None = None, units: str = "uvd") -> np.ndarray:
    """The answers of a file.

    Args:
        path: of the file.
        hands: which keypoints it should hold.
        frames: how many lines it should have; None: any number.
        units: ``uvd``, or ``xyz``.

    Returns:
        (N, J, 3) float64: column and row in native pixels, depth in mm; or x, y, z in mm.

    Raises:
        UserError: a line with too few or too many numbers, another number of lines, or a value that is not finite.
    """
    path = Path(path)
    what = f"a line per frame, {UNITS[units]} of each of {len(hands.keypoints.keypoints)} keypoints"
    rows = [numbers_of(words, hands.keypoints.channels, path, number, what) for number, words in text_lines(path, what)]
    if not rows or (frames is not None and len(rows) != frames):
        raise UserError(f"{path} has {len(rows)} line{'s' * (len(rows) != 1)}, expected {frames or 'at least one'}: {what}")
    answers = np.array(rows, float).reshape(len(rows), -1, 3)
    if len(strange := np.flatnonzero(~np.isfinite(answers).all((1, 2)))):
        raise UserError(f"{path}, frame {strange[0] + 1}: it holds a value that is not finite, expected {what}")
    return answers


def write_predictions(path: str | Path, uvd: np.ndarray) -> None:
    """Writes answers (N, J, 3) in the field's format, whole or not at all."""
    with atomic_write(path) as temporary:
        np.savetxt(temporary, uvd.reshape(len(uvd), -1), fmt="%.3f")


def read_centres(path: str | Path, frames: int) -> np.ndarray:
    """A file of centres: a line per frame, x y z in mm, y up; three times ``invalid`` where there is none.

    Returns:
        (N, 3) float64; NaN where there is none.

    Raises:
        UserError: a line without three finite numbers, or another number of lines than of frames.
    """
    path = Path(path)
    what = "a line per frame, x y z of the hand's centre in mm, y up"
    rows = []
    for number, words in text_lines(path, what):
        if words == ["invalid"] * 3:
            rows.append([np.nan] * 3)
            continue
        rows.append(numbers_of(words, 3, path, number, what))
        if not np.isfinite(rows[-1]).all():
            raise UserError(f"{path}, line {number}: it holds a value that is not finite, expected {what}; or three times invalid")
    if len(rows) != frames:
        raise UserError(f"{path} has {len(rows)} line{'s' * (len(rows) != 1)}, expected {frames}: {what}")
    return np.array(rows, float)
