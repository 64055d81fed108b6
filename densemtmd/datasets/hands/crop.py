"""The cube about a hand: what the network sees of it, and coordinates within it.

As the DeepPrior family does it (Oberweger, Wohlhart, Lepetit: Hands deep in deep learning for hand pose estimation. CVWW 2015): a cube of
so many millimetres about the centre of mass, seen by the camera at a fixed number of pixels; depth and keypoints as parts of half the
cube's side, from −1 to 1.

Coordinates within cubes weigh errors by the cubes: 1 mm counts (300/250)² = 1.44 times as much in ICVL's cube as in NYU's, when squared.

Shapes: ``...`` cubes, ``J`` keypoints, ``S`` pixels along a side of the crop, ``H``, ``W`` pixels of the depth picture.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from densemtmd.datasets.hands.camera import Camera


@dataclass(frozen=True)
class Cube:
    """Cubes about hands, one or many.

    Where ``angle`` is not 0, the picture and the keypoints are turned about the ray from the camera through the centre: see ``augment``.
    """

    centre: np.ndarray  # (..., 3) mm
    side: np.ndarray    # (...) mm
    angle: np.ndarray = field(default_factory=lambda: np.zeros(()))  # (...) radians, anticlockwise as one sees it

    def normalise(self, xyz: np.ndarray) -> np.ndarray:
        """(..., J, 3) mm -> (..., J, 3) in halves of the side, 0 in the centre."""
        return (self._turned(xyz, self.angle) - self._centre) / self._half

    def denormalise(self, coordinates: np.ndarray) -> np.ndarray:
        """(..., J, 3) in halves of the side -> (..., J, 3) mm, float64: the inverse of :meth:`normalise`."""
        return self._turned(np.asarray(coordinates, float) * self._half + self._centre, -self.angle)

    def rays(self, size: int) -> np.ndarray:
        """Where the pixels of a crop look: (..., S, S, 2), x and y per mm of depth.

        The cube's front view, at the depth of its centre, is divided into S × S squares; a pixel looks through the middle of one.
        """
        step = (np.arange(size) + 0.5) / size - 0.5
        grid = np.stack(np.broadcast_arrays(step[None, :], -step[:, None]), -1)  # (S, S, 2), y up
        tangent = np.asarray(self.side / self.centre[..., 2])[..., None, None, None] * grid
        axis = (self.centre[..., :2] / self.centre[..., 2:])[..., None, None, :]
        return _rotated(tangent, -np.asarray(self.angle)[..., None, None]) + axis

    def clamp(self, depth: np.ndarray) -> np.ndarray:
        """Depth (..., S, S) in mm -> (..., S, S) float32 from −1, the front of the cube, to 1, its back.

        What is nearer than the cube becomes its front, what is farther or missing its back.
        """
        half = np.asarray(self.side)[..., None, None] / 2
        inside = (depth - self.centre[..., 2][..., None, None]) / half
        return np.where(depth > 0, np.clip(inside, -1, 1), 1).astype(np.float32)

    def box(self, camera: Camera) -> np.ndarray:
        """Where it stands in a picture: (..., 2, 3) least and largest column and row at the depth of its centre, and depth in mm."""
        middle, half = camera.to_uvd(self.centre), np.asarray(self.side)[..., None] / 2
        reach = half * np.stack(np.broadcast_arrays(camera.fx / middle[..., 2], camera.fy / middle[..., 2], 1.0), -1)
        return np.stack([middle - reach, middle + reach], -2)

    @property
    def _centre(self) -> np.ndarray:
        return self.centre[..., None, :]

    @property
    def _half(self) -> np.ndarray:
        return np.asarray(self.side)[..., None, None] / 2

    def _turned(self, xyz: np.ndarray, angle: np.ndarray) -> np.ndarray:
        """Points (..., J, 3) turned as the picture is: their depth stays, the place where they are seen turns about the centre's."""
        xyz = np.asarray(xyz, float)
        if not np.any(angle):
            return xyz
        z = xyz[..., 2:]
        axis = self._centre[..., :2] / self._centre[..., 2:]
        return np.concatenate([(_rotated(xyz[..., :2] / z - axis, np.asarray(angle)[..., None]) + axis) * z, z], -1)


def _rotated(vectors: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """(..., 2) vectors turned anticlockwise."""
    if not np.any(angle):
        return vectors
    c, s = np.cos(angle), np.sin(angle)
    x, y = vectors[..., 0], vectors[..., 1]
    return np.stack([c * x - s * y, s * x + c * y], -1)


def look(depth: np.ndarray, camera: Camera, rays: np.ndarray) -> np.ndarray:
    """The depth of the pixel that each ray passes nearest to, 0 outside the picture.

    Args:
        depth: (H, W) mm.
        camera: that saw it.
        rays: (..., 2) x and y per mm of depth.

    Returns:
        (...) in the type of ``depth``.
    """
    columns = np.floor(camera.u0 + camera.fx * rays[..., 0] + 0.5).astype(np.intp)
    rows = np.floor(camera.v0 - camera.fy * rays[..., 1] + 0.5).astype(np.intp)
    height, width = depth.shape
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    return np.where(inside, depth[rows.clip(0, height - 1), columns.clip(0, width - 1)], 0)


def crop(depth: np.ndarray, camera: Camera, cube: Cube, size: int) -> np.ndarray:
    """What the network sees of one hand: (S, S) float32 in [−1, 1], nearest neighbours of the depth picture (H, W) in mm."""
    return cube.clamp(look(depth, camera, cube.rays(size)))


def crop_again(crops: np.ndarray, cube: Cube, wanted: Cube, size: int) -> np.ndarray:
    """Other crops of hands of which there are crops already, all at once; what lies outside is missing.

    The same cubes at the same size give the same crops.

    Args:
        crops: (B, M, M) depth in mm.
        cube: (B,) theirs, not turned.
        wanted: (B,) those to see.
        size: S.

    Returns:
        (B, S, S) depth in mm, in the type of ``crops``.
    """
    pixels = crops.shape[-1]
    centre = cube.centre[:, None, None]
    step = (wanted.rays(size) - centre[..., :2] / centre[..., 2:]) * (centre[..., 2:] / np.asarray(cube.side)[:, None, None, None])
    columns, rows = (np.floor((step * (1, -1) + 0.5) * pixels)).astype(np.intp).transpose(3, 0, 1, 2)
    inside = (columns >= 0) & (columns < pixels) & (rows >= 0) & (rows < pixels)
    seen = crops[np.arange(len(crops))[:, None, None], rows.clip(0, pixels - 1), columns.clip(0, pixels - 1)]
    return np.where(inside, seen, 0)
