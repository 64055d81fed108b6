"""Other views of a training hand: turned, nearer or farther, moved; the picture and the keypoints together.

Drawing another cube is all: the picture is cropped with it and the keypoints are normalised with it, so that the two cannot come apart. Off
by default, as in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from densemtmd.datasets.hands.crop import Cube
from densemtmd.errors import UserError


@dataclass(frozen=True)
class Augmentation:
    """How far hands are turned, scaled and moved; all 0: not at all.

    Args:
        rotate: degrees, up to so many either way.
        scale: share of the size, up to so much larger or smaller, below 1.
        shift: mm, of the centre, up to so many in each direction.

    Raises:
        UserError: a value out of its range.
    """

    rotate: float = 0.0
    scale: float = 0.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        for name, most in (("rotate", 180), ("scale", 0.5), ("shift", 100)):
            if not 0 <= (value := getattr(self, name)) <= most:
                raise UserError(f"the augmentation's {name} is {value}, expected 0 to {most}")

    def __bool__(self) -> bool:
        return bool(self.rotate or self.scale or self.shift)

    def draw(self, cube: Cube, random: np.random.Generator) -> Cube:
        """Cubes (B,) that see the same hands otherwise; each differs from its like by what is drawn for it."""
        count = len(cube.centre)
        scale = 1 + self.scale * random.uniform(-1, 1, count)
        return Cube(
            centre=cube.centre + self.shift * random.uniform(-1, 1, (count, 3)),
            side=cube.side / scale,
            angle=cube.angle + np.radians(self.rotate) * random.uniform(-1, 1, count),
        )

    @property
    def margin(self) -> float:
        """How much wider than its cube a crop must be kept so that every other view of it lies inside, roughly: a factor of the side."""
        turned = np.sqrt(2) if self.rotate else 1.0
        return float(turned / (1 - self.scale) + 2 * self.shift / 250)
