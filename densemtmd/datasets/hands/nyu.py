"""The files of the NYU hand pose dataset: depth packed in colours, and ``joint_data.mat``.

A split is a folder, ``train`` or ``test``, with ``depth_1_0000001.png``, ... (the digit before the frame is the view, 1 to 3; rendered
depth and colours are not read) and ``joint_data.mat``, which holds ``joint_uvd`` of shape (3 views, frames, 36 joints, 3).

Shapes: ``N`` frames, ``H``, ``W`` pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from densemtmd.datasets.hands.frames import Frames, open_depth, usable
from densemtmd.datasets.hands.predictions import read_predictions
from densemtmd.datasets.hands.sets import NYU
from densemtmd.datasets.matlab import find_matrix
from densemtmd.errors import UserError

JOINTS = (0, 3, 6, 9, 12, 15, 18, 21, 24, 25, 27, 30, 31, 32)
"""Of the 36 joints of the files those that are scored, in the order of ``NYU.keypoints``."""

ALL_JOINTS, VIEWS = 36, 3
SECOND_SUBJECT = 2440
"""The first test frame of the second subject, whose hand is about 5/6 as large."""

SECOND_CUBE = 5 / 6
"""Of the second subject's cube, so that 300 mm become 250."""

PLAIN_TEXT = "nyu_test_groundtruth_label.txt"
"""The labels of the test frames as the field hands them on, for whoever has not got ``joint_data.mat``."""


def read_depth(path: str | Path) -> np.ndarray:
    """(H, W) float32: depth in mm, ``G · 256 + B`` of a colour picture; 0 where there is no reading.

    Raises:
        UserError: not a picture of 8-bit colours, or one with red in it.
    """
    with open_depth(Path(path), ("RGB",), "three channels of 8 bits, depth = green · 256 + blue in mm, as NYU packs it") as picture:
        red, green, blue = np.moveaxis(np.asarray(picture, np.uint16), -1, 0)
    if red.any():
        raise UserError(f"{path} has red in it (up to {red.max()}), expected depth as NYU packs it, green · 256 + blue: is it a photo?")
    return (green * 256 + blue).astype(np.float32)


def pack(depth: np.ndarray) -> np.ndarray:
    """The inverse of :func:`read_depth`: (H, W) depth in mm, 0..65535 -> (H, W, 3) uint8."""
    whole = np.rint(depth).astype(np.uint16)
    return np.stack([np.zeros_like(whole), whole >> 8, whole & 255], -1).astype(np.uint8)


def picture_name(frame: int, view: int = 1) -> str:
    """The file name of a frame, which are counted from 1."""
    return f"depth_{view}_{frame:07d}.png"


def read_frames(folder: str | Path, split: str, view: int = 1) -> Frames:
    """The frames of an official split (72,757 ``train``, 8,252 ``test``).

    Args:
        folder: of the dataset.
        split: ``train`` or ``test``.
        view: of the three cameras; publications use 1.

    Raises:
        UserError: no ``joint_data.mat`` where expected, or not as described above; no usable frame.
    """
    folder = Path(folder)
    home = folder / split
    plain = folder / PLAIN_TEXT
    if not (home / "joint_data.mat").is_file() and split == "test" and plain.is_file():
        uvd = read_predictions(plain, NYU)
    else:
        uvd = _joints(home / "joint_data.mat", view)
    second = np.arange(len(uvd)) >= SECOND_SUBJECT if split == "test" else np.zeros(len(uvd), bool)
    good = usable(uvd)
    if not good.any():
        raise UserError(f"none of the {len(uvd)} frames in {home} has keypoints in front of the camera: are these the right labels?")
    notes = () if good.all() else (f"{NYU.name}: {(~good).sum()} of {len(good)} {split} frames have invalid keypoints and are left out",)
    frames = Frames(
        keys=tuple(f"{split}/{picture_name(n + 1, view)[:-4]}" for n in range(len(uvd))),
        pictures=tuple(home / picture_name(n + 1, view) for n in range(len(uvd))),
        sequences=tuple(f"{split} {1 + int(other)}" for other in second),
        uvd=uvd,
        cubes=np.where(second, NYU.cube * SECOND_CUBE, NYU.cube),
        notes=notes,
    )
    return frames.take(np.flatnonzero(good))


def _joints(path: Path, view: int) -> np.ndarray:
    """(N, 14, 3) u, v, d of one view."""
    expected = "expected joint_data.mat of the NYU dataset"
    try:
        matrix, names = find_matrix(path, "joint_uvd")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; {expected}") from error
    except NotImplementedError:
        raise UserError(f"{path} is of MATLAB's version 7.3, {expected}: save it with -v7") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} cannot be read as joint positions ({error}), {expected}") from None
    if matrix is None:
        raise UserError(f"{path} has no joint_uvd, only {', '.join(names) or 'nothing at all'}; {expected}")
    if matrix.ndim != 4 or matrix.shape[0] < view or matrix.shape[2:] != (ALL_JOINTS, 3):
        raise UserError(f"{path}: joint_uvd has the shape {matrix.shape}, expected ({VIEWS}, frames, {ALL_JOINTS}, 3) with view {view}")
    return np.asarray(matrix[view - 1][:, list(JOINTS)], float)
