"""Which keypoints the two datasets annotate, how they hang together, and the cameras that saw them.

NYU: Tompson, Stein, LeCun, Perlin: Real-time continuous pose recovery of human hands using convolutional networks. TOG 2014.
ICVL: Tang, Chang, Tejani, Kim: Latent regression forest: structured estimation of 3D articulated hand posture. CVPR 2014.
"""

from __future__ import annotations

from dataclasses import dataclass

from densemtmd.datasets.hands.camera import Camera
from densemtmd.errors import UserError
from densemtmd.tasks import KeypointSet, nearest


@dataclass(frozen=True)
class HandSet:
    """What one dataset annotates in a hand."""

    keypoints: KeypointSet
    bones: tuple[tuple[int, int], ...]  # pairs of keypoints, to draw a skeleton
    fingers: tuple[int, ...]            # of each keypoint: 0 palm and wrist, 1 thumb, 2 index, ... 5 pinky
    camera: Camera
    published: Camera                   # the one with which files of predictions are scored in publications
    cube: float                         # mm, side of the cube about the hand

    @property
    def name(self) -> str:
        return self.keypoints.name


NYU_CAMERA = Camera(588.03, 587.07, 320, 240, 640, 480)
NYU = HandSet(
    KeypointSet(
        "nyu",
        [
            "pinky tip", "pinky mid", "ring tip", "ring mid", "middle tip", "middle mid", "index tip", "index mid",
            "thumb tip", "thumb mid", "thumb root", "wrist 1", "wrist 2", "palm",
        ],
    ),
    bones=((0, 1), (1, 13), (2, 3), (3, 13), (4, 5), (5, 13), (6, 7), (7, 13), (8, 9), (9, 10), (10, 13), (13, 11), (13, 12), (11, 12)),
    fingers=(5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 1, 0, 0, 0),
    camera=NYU_CAMERA,
    published=NYU_CAMERA,
    cube=300.0,
)  # fmt: skip
"""14 of the 36 joints of its files, those that publications score; they lie near the surface of the hand."""

FINGERS = ("thumb", "index", "middle", "ring", "pinky")
ICVL = HandSet(
    KeypointSet("icvl", ["palm", *(f"{finger} {part}" for finger in FINGERS for part in ("root", "mid", "tip"))]),
    bones=tuple(pair for root in range(1, 16, 3) for pair in ((0, root), (root, root + 1), (root + 1, root + 2))),
    fingers=(0, *(finger for finger in range(1, 6) for _ in range(3))),
    camera=Camera(241.42, 241.42, 160, 120, 320, 240),
    published=Camera(240.99, 240.96, 160, 120, 320, 240),
    cube=250.0,
)
"""16 centres of segments. Publications that score files of predictions take other focal lengths: up to 0.015 mm of the mean."""

HAND_SETS = {"nyu": NYU, "icvl": ICVL}


def hand_set(name: str) -> HandSet:
    """The keypoints of a name.

    Raises:
        UserError: another name than nyu and icvl.
    """
    if name not in HAND_SETS:
        raise UserError(f"unknown keypoint set {name!r}; {nearest(name, HAND_SETS)}")
    return HAND_SETS[name]
