"""Where the hand is: the nearest blob in a depth picture, and the centre of mass of what lies in a cube there.

Nothing here knows the true keypoints: where the hand is must be found at test time as at training time. (Some released scripts crop about
the true palm; what they score is another task.)

Shapes: ``H``, ``W`` pixels.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from densemtmd.datasets.hands.camera import Camera
from densemtmd.errors import UserError

FARTHEST = 1500.0
"""mm: a hand is not looked for beyond."""

LEAST_AREA = 2000.0
"""mm², facing the camera: what is nearer than everything else and smaller than this is a speck, or the first finger of a hand."""

STEP = 10.0
"""mm: the nearest blob is looked for in layers so deep."""

COLUMNS = 160
"""The blob is looked for in a picture with about so many columns."""

FULL = 0.95
"""Of the cube's front view what a hand does not cover."""

INNER, ROUNDS = 0.6, 2
"""The centre of mass is that of what lies in a cube so much smaller than the one that is cropped; so many times the cube is moved there.

With the whole cube, and with every further round, the forearm draws the centre away from the hand: on 120 frames of the hand world it is
then 62 mm (NYU) and 45 mm (ICVL) from the mean of the keypoints, in the median, and on NYU's first test frame 54 mm; like this 24, 23 and
31 mm."""


class NoHand(UserError):
    """A depth picture in which no hand was found."""


def locate(depth: np.ndarray, camera: Camera, side: float, start: np.ndarray | None = None, name: str = "the depth picture") -> np.ndarray:
    """The centre of the cube about the hand: the centre of mass of what lies about the nearest blob, and once more of what lies about that.

    Args:
        depth: (H, W) mm, 0 where there is no reading.
        camera: that saw it.
        side: of the cube, mm.
        start: (3,) x, y, z in mm, from a file of centres, which is then taken as it is; None or NaN: look for the nearest blob.
        name: of the picture, for the message.

    Returns:
        (3,) float64, x, y, z in mm.

    Raises:
        NoHand: there is no blob of the size of a hand, or nothing in the cube.
    """
    if start is not None and np.isfinite(start).all():
        centre = np.asarray(start, float)
        if not start[2] > 0 or mass(depth, camera, centre, side) is None:
            place = ", ".join(f"{value:.0f}" for value in centre)
            raise NoHand(f"{name} has no hand in the cube of {side:g} mm about ({place}) mm: is the centre that of another picture?")
        return centre
    found = nearest_blob(depth, camera)
    if found is None:
        readings = depth[depth > 0]
        nearest = f"the nearest reading is at {readings.min():.0f} mm" if len(readings) else "it has no reading at all"
        raise NoHand(f"{name} has no hand within {FARTHEST:.0f} mm of the camera ({nearest}): show one, nearer than all else")
    centre = found
    for _ in range(ROUNDS):
        moved = mass(depth, camera, centre, INNER * side)
        centre = centre if moved is None else moved  # None: of a ring, about nothing
    if len(_inside(depth, camera, centre, side)[0]) > FULL * side**2 * camera.fx * camera.fy / centre[2] ** 2:
        raise NoHand(f"{name} has no hand nearer than all else: the nearest, at {found[2]:.0f} mm, fills the whole cube, as a wall does")
    return centre


def mass(depth: np.ndarray, camera: Camera, centre: np.ndarray, side: float) -> np.ndarray | None:
    """The centre of mass of what lies in a cube: (3,) mm, of the mean column, row and depth; None where nothing does."""
    columns, rows, readings = _inside(depth, camera, centre, side)
    return camera.to_xyz(np.array([columns.mean(), rows.mean(), readings.mean(dtype=float)])) if len(columns) else None


def _inside(depth: np.ndarray, camera: Camera, centre: np.ndarray, side: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels that lie in a cube: columns, rows and depth in mm."""
    u, v, z = camera.to_uvd(centre)
    half = side / 2
    across, down = half * camera.fx / z, half * camera.fy / z
    rows = slice(max(0, int(np.ceil(v - down))), max(0, int(np.floor(v + down)) + 1))
    columns = slice(max(0, int(np.ceil(u - across))), max(0, int(np.floor(u + across)) + 1))
    window = depth[rows, columns]
    inside = (window > z - half) & (window < z + half) & (window > 0)
    row, column = np.nonzero(inside)
    return column + columns.start, row + rows.start, window[inside]


def nearest_blob(depth: np.ndarray, camera: Camera) -> np.ndarray | None:
    """The centre of mass of the nearest thing that is not small: (3,) mm, or None.

    Layer by layer, away from the camera, until what has been seen holds a connected blob of at least ``LEAST_AREA``.
    """
    skip = max(1, depth.shape[1] // COLUMNS)
    coarse = depth[::skip, ::skip]
    seen = (coarse > 0) & (coarse < FARTHEST)
    area = np.where(seen, (skip * coarse.astype(float)) ** 2 / (camera.fx * camera.fy), 0)  # mm² of each pixel
    order = np.argsort(np.where(seen, coarse, np.inf), axis=None)
    enough = np.searchsorted(area.ravel()[order].cumsum(), LEAST_AREA)
    if enough >= order.size:
        return None
    for limit in np.arange(coarse.ravel()[order[enough]], FARTHEST + STEP, STEP):
        blobs, count = ndimage.label(seen & (coarse <= limit))
        sizes = ndimage.sum_labels(area, blobs, np.arange(1, count + 1))
        if sizes.max() >= LEAST_AREA:
            row, column = np.nonzero(blobs == 1 + int(sizes.argmax()))
            return camera.to_xyz(np.array([skip * column.mean(), skip * row.mean(), coarse[row, column].mean(dtype=float)]))
    return None
