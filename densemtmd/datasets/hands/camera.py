"""A depth camera: pixels and depth to millimetres, and back.

Shapes: ``...`` any, such as frames and keypoints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Camera:
    """A pinhole camera. In millimetres y points up, in pixels v points down.

    Args:
        fx: focal length, in pixels across.
        fy: focal length, in pixels down.
        u0: column that the optical axis meets.
        v0: row that the optical axis meets.
        width: of its pictures, pixels.
        height: of its pictures, pixels.
    """

    fx: float
    fy: float
    u0: float
    v0: float
    width: int
    height: int

    def to_xyz(self, uvd: np.ndarray) -> np.ndarray:
        """(..., 3) column, row, depth in mm -> (..., 3) x, y, z in mm, float64."""
        u, v, d = np.moveaxis(np.asarray(uvd, float), -1, 0)
        return np.stack([(u - self.u0) * d / self.fx, (self.v0 - v) * d / self.fy, d], -1)

    def to_uvd(self, xyz: np.ndarray) -> np.ndarray:
        """(..., 3) x, y, z in mm -> (..., 3) column, row, depth in mm, float64; z must not be 0."""
        x, y, z = np.moveaxis(np.asarray(xyz, float), -1, 0)
        return np.stack([self.u0 + x * self.fx / z, self.v0 - y * self.fy / z, z], -1)
