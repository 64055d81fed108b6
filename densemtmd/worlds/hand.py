"""A hand that moves: its bones and joints with their limits, the flesh about them, and what two annotators call its keypoints.

A right hand, in millimetres. In its own axes it lies flat: the wrist in the origin, ``x`` towards the thumb, ``y`` along the fingers,
``z`` out of the back of the hand; with its palm to the camera these are the camera's x (right), y (up) and z (away). It has 26 degrees of
freedom: four of each finger (two at the knuckle, one at each joint beyond), four of the thumb, three turns and a place of the whole; two
more bend the wrist, so that the forearm goes its own way.

Shapes: ``N`` hands, ``P`` points (see :data:`POINTS`), ``S`` spheres.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from densemtmd.datasets.hands.sets import FINGERS

KNUCKLES = np.array([[27.0, 93, 0], [5.0, 97, 3], [-15.0, 91, 1], [-33.0, 80, -4]])
"""Where index to pinky begin."""

SPREAD = np.radians([7.0, 0, -7, -15])
"""Where index to pinky point when the hand is flat, from y towards the thumb."""

PHALANGES = np.array([[45.0, 27, 24], [50.0, 31, 26], [46.0, 28, 22], [36.0, 22, 21]])
"""Lengths of index to pinky; with these the distances between NYU's joints are those of its first test subject to a few mm."""

THUMB_ROOT = np.array([20.0, 20, -7])
THUMB_BONES = np.array([46.0, 34, 27])

LIMITS: Mapping[str, tuple[float, float]] = {
    "spread": (-14, 14), "knuckle": (-15, 85), "middle": (0, 105), "end": (0, 75),  # of a finger
    "aside": (22, 62), "forward": (0, 45), "thumb_middle": (-5, 50), "thumb_end": (-10, 75),
    "wrist_bend": (-45, 20), "wrist_aside": (-20, 20),
}  # fmt: skip
"""Degrees that each joint can turn; 0 is a flat hand."""

AWAY = 0.35
"""Sine of the angle by which the forearm leads away from the camera at least, since people hold their hands before them."""

CHOICES = 8
"""So many times a turn is drawn until the forearm leads away; if it never does, the first is taken."""

SIZES = (1.0, 5 / 6)
"""Of the two subjects, as in NYU's test frames."""

POINTS = (
    *(f"{finger} {part}" for finger in FINGERS for part in ("root", "second", "third", "tip")),
    "wrist thumb", "wrist pinky", "palm", "wrist", "elbow",
)  # fmt: skip
"""Where bones meet: of each finger the knuckle and the joints beyond (of the thumb: its root, its knuckle, its joint), and the tips."""

PLACE = {name: i for i, name in enumerate(POINTS)}


@dataclass(frozen=True)
class Pose:
    """The joints of hands, in radians."""

    spread: np.ndarray   # (N, 4) index to pinky, towards the thumb
    knuckle: np.ndarray  # (N, 4)
    middle: np.ndarray   # (N, 4)
    end: np.ndarray      # (N, 4)
    thumb: np.ndarray    # (N, 4) aside, forward, its knuckle, its joint
    wrist: np.ndarray    # (N, 2) bend, aside
    turn: np.ndarray     # (N, 3, 3) from the hand's axes to the camera's
    place: np.ndarray    # (N, 3) of the middle of the palm, mm
    size: np.ndarray     # (N,)


@dataclass(frozen=True)
class Hand:
    """Hands in the camera's axes, mm."""

    points: np.ndarray  # (N, P, 3)
    back: np.ndarray    # (N, P, 3) out of the back of the hand, unit vectors: where the surface is that NYU's joints lie on
    size: np.ndarray    # (N,)


def draw_pose(random: np.random.Generator, count: int, size: np.ndarray, roll: float = 35.0, tilt: float = 35.0) -> Pose:
    """Random poses within :data:`LIMITS`, as people hold their hands: fingers curl together more often than each by itself.

    Args:
        random: the source of chance.
        count: N.
        size: (N,), see :data:`SIZES`.
        roll: spread (standard deviation, degrees) of the turn in the picture; the fingers point upwards on average.
        tilt: spread of the turns out of the picture, about a palm that leans towards the camera.

    Returns:
        Poses whose ``place`` is the origin.
    """
    together = random.beta(0.7, 1.0, (count, 1))
    curl = np.clip(0.75 * together + 0.25 * random.random((count, 4)) + 0.12 * random.normal(size=(count, 4)), 0, 1)
    alone = random.random((count, 4)) < 0.12  # a finger that points while others are curled, or the other way round
    curl = np.where(alone, 1 - curl, curl)
    second = np.clip(curl + 0.15 * random.normal(size=(count, 4)), 0, 1)
    third = np.clip(second + 0.15 * random.normal(size=(count, 4)), 0, 1)
    room = 1 - 0.8 * curl  # a curled finger cannot be spread
    thumb = np.stack([random.uniform(*LIMITS[name], count) for name in ("aside", "forward", "thumb_middle", "thumb_end")], 1)
    bend, aside = (random.uniform(*LIMITS[name], (CHOICES, count)) for name in ("wrist_bend", "wrist_aside"))
    turns = np.radians(np.clip(random.normal(size=(CHOICES, count, 3)), -2.2, 2.2) * [roll, tilt, tilt] - [0, 0.5 * tilt, 0])
    turn = _about(2, turns[..., 0]) @ _about(0, turns[..., 1]) @ _about(1, turns[..., 2])
    away = (turn @ _forearm(np.radians(bend), np.radians(aside)))[..., 2, 1] < -AWAY  # the arm lies along −y
    chosen = away.argmax(0), np.arange(count)
    return Pose(
        spread=np.radians(_between("spread", random.random((count, 4)))) * room,
        knuckle=np.radians(_between("knuckle", curl)),
        middle=np.radians(_between("middle", second)),
        end=np.radians(_between("end", third)),
        thumb=np.radians(thumb),
        wrist=np.radians(np.stack([bend[chosen], aside[chosen]], 1)),
        turn=turn[chosen],
        place=np.zeros((count, 3)),
        size=size,
    )


def _forearm(bend: np.ndarray, aside: np.ndarray) -> np.ndarray:
    """The turn of the forearm against the hand, (..., 3, 3), by the angles of the wrist."""
    return _about(2, aside) @ _about(0, bend)


def _between(name: str, share: np.ndarray) -> np.ndarray:
    low, high = LIMITS[name]
    return low + (high - low) * share


def _about(axis: int, angle: np.ndarray) -> np.ndarray:
    """(N,) angles to (N, 3, 3) turns about an axis."""
    c, s = np.cos(angle), np.sin(angle)
    turn = np.zeros((*np.shape(angle), 3, 3))
    first, second = (axis + 1) % 3, (axis + 2) % 3
    turn[..., axis, axis] = 1
    turn[..., first, first] = turn[..., second, second] = c
    turn[..., second, first], turn[..., first, second] = s, -s
    return turn


def move(pose: Pose) -> Hand:
    """Forward kinematics: where the joints of hands are, seen by the camera."""
    count = len(pose.size)
    points, back = np.zeros((count, len(POINTS), 3)), np.zeros((count, len(POINTS), 3))
    back[..., 2] = 1
    for f in range(4):
        # Bending turns y towards the palm, −z; spreading turns it towards the thumb, x.
        frame = _about(2, -(SPREAD[f] + pose.spread[:, f])) @ _about(0, -pose.knuckle[:, f])
        _chain(points, back, 4 + 4 * f, KNUCKLES[f], frame, PHALANGES[f], (pose.middle[:, f], pose.end[:, f]))
    aside, forward, middle, end = pose.thumb.T
    # The thumb's nail faces half sideways, and it bends across the palm.
    frame = _about(2, -aside) @ _about(0, -forward) @ _about(1, np.full(count, np.radians(50)))
    _chain(points, back, 0, THUMB_ROOT, frame, THUMB_BONES, (middle, end))
    points[:, PLACE["wrist thumb"]], points[:, PLACE["wrist pinky"]] = (17, -12, 0), (-17, -12, 0)
    points[:, PLACE["palm"]] = (2, 60, 0)
    points[:, PLACE["elbow"]] = _forearm(*pose.wrist.T) @ np.array([0.0, -230, 0])

    middle_of_palm = points[:, PLACE["palm"], None]
    points = (points - middle_of_palm) * pose.size[:, None, None]
    return Hand(points @ pose.turn.transpose(0, 2, 1) + pose.place[:, None], back @ pose.turn.transpose(0, 2, 1), pose.size)


def _chain(
    points: np.ndarray,
    back: np.ndarray,
    first: int,
    start: np.ndarray,
    frame: np.ndarray,
    lengths: np.ndarray,
    bends: tuple[np.ndarray, ...],
) -> None:
    """The joints of one finger, one after the other: ``frame`` (N, 3, 3) has the first bone along y and its back along z."""
    points[:, first] = start
    for bone, length in enumerate(lengths):
        if bone:
            frame = frame @ _about(0, -bends[bone - 1])
        points[:, first + bone + 1] = points[:, first + bone] + length * frame[..., 1]
        back[:, first + bone + 1] = back[:, first + bone] = frame[..., 2]


# ------------------------------------------------------------------------------------------------------------------------------ flesh

RADII = {
    "thumb": (15.0, 12.5, 10.5, 8.5), "index": (11.0, 9.8, 8.6, 7.2), "middle": (11.2, 10, 8.8, 7.4), "ring": (10.6, 9.4, 8.2, 7),
    "pinky": (9.4, 8.2, 7.2, 6.2),
}  # fmt: skip
"""Of the flesh about the joints of each finger, mm."""


@dataclass(frozen=True)
class Flesh:
    """Where spheres sit: each between two places, which are mixtures of points. So they follow the points, whatever the pose."""

    weights: np.ndarray  # (S, P) sum to 1
    radius: np.ndarray   # (S,) mm

    def spheres(self, hand: Hand) -> np.ndarray:
        """(N, S, 4) float32: centres in the camera's axes and radii, mm."""
        centres = np.einsum("sp,npc->nsc", self.weights, hand.points)
        radius = self.radius * hand.size[:, None]
        return np.concatenate([centres, radius[..., None]], -1).astype(np.float32)


def flesh(spacing: float) -> Flesh:
    """A hand of spheres in rows, so dense that they look like one surface.

    Args:
        spacing: from one sphere to the next, in their radii: at 0.6 the surface is rough by 5 % of the radius.
    """
    weights: list[np.ndarray] = []
    radii: list[float] = []

    def at(**shares: float) -> np.ndarray:
        """A place as a mixture of points, whose names are written with _ for the space."""
        place = np.zeros(len(POINTS))
        for name, share in shares.items():
            place[PLACE[name.replace("_", " ")]] += share
        return place

    rest = move(_flat())

    def row(a: np.ndarray, b: np.ndarray, radius_a: float, radius_b: float) -> None:
        """Spheres from a place to another, of radii in between."""
        length, thick = float(np.linalg.norm((b - a) @ rest.points[0])), (radius_a + radius_b) / 2
        count = max(2, 1 + int(np.ceil(length / (spacing * min(thick, 12)))))  # the same roughness in mm where it is thick
        for t in np.linspace(0, 1, count):
            weights.append((1 - t) * a + t * b)
            radii.append((1 - t) * radius_a + t * radius_b)

    parts = ("root", "second", "third", "tip")
    for finger, radius in RADII.items():
        joints = [at(**{f"{finger}_{part}": 1.0}) for part in parts]
        bone = float(np.linalg.norm((joints[3] - joints[2]) @ rest.points[0]))
        joints[3] = joints[2] + (1 - radius[3] / bone) * (joints[3] - joints[2])  # the skin ends at the tip
        for i in range(3):
            row(joints[i], joints[i + 1], radius[i], radius[i + 1])
    # The palm: rows from the wrist to the knuckles and between them, thicker towards the wrist and on the side of the little finger.
    knuckles = [(f, at(**{f"{f}_root": 1.0}), RADII[f][0]) for f in FINGERS[1:]]
    wrist = {"index": 1.0, "middle": 0.62, "ring": 0.3, "pinky": 0.0}
    for (f, a, radius_a), (g, b, radius_b) in pairwise(knuckles):
        for t in (0.0, 0.33, 0.67) if g != "pinky" else (0.0, 0.33, 0.67, 1.0):
            share = 0.1 + 0.8 * ((1 - t) * wrist[f] + t * wrist[g])
            lower = 1.0 if t in (0.0, 1.0) else -3.0  # between two knuckles the skin lies lower
            row(at(wrist_thumb=share, wrist_pinky=1 - share), (1 - t) * a + t * b, 14.5, (1 - t) * radius_a + t * radius_b + lower)
    thumb, index, heel = at(thumb_second=1.0), at(index_root=1.0), at(wrist_thumb=1.0)
    row(at(thumb_root=1.0), heel, 15.0, 14.0)
    row(0.35 * heel + 0.65 * at(thumb_root=1.0), 0.45 * heel + 0.55 * index, 14.0, 12.0)
    for t in (0.3, 0.55, 0.8):  # the web of the thumb
        row((1 - t) * at(thumb_root=1.0) + t * thumb, (0.45 - 0.2 * t) * heel + (0.55 + 0.2 * t) * index, 12.0 - 3 * t, 10.0)
    row(at(wrist_pinky=1.0), 0.25 * at(wrist_pinky=1.0) + 0.75 * at(pinky_root=1.0), 14.0, 13.0)
    side = at(wrist_thumb=1.0) - at(wrist_pinky=1.0)
    for share in (-0.45, 0.0, 0.45):
        row(at(wrist=1.0) + 0.8 * share * side, at(elbow=1.0) + 1.5 * share * side, 18.0 if share else 19.0, 26.0)
    return Flesh(np.array(weights), np.array(radii))


def _flat() -> Pose:
    """One flat hand with its palm to the camera, its palm in the origin."""
    none = np.zeros((1, 4))
    thumb = np.radians([[45.0, 15, 0, 0]])
    return Pose(none, none, none, none, thumb, np.zeros((1, 2)), np.eye(3)[None], np.zeros((1, 3)), np.ones(1))


# ------------------------------------------------------------------------------------------------------------------------- annotators


def as_icvl(hand: Hand) -> np.ndarray:
    """16 keypoints as ICVL annotates them: the palm and the centres of three segments of each finger, inside the flesh. (N, 16, 3) mm."""
    middles = []
    for finger in FINGERS:
        joints = [hand.points[:, PLACE[f"{finger} {part}"]] for part in ("root", "second", "third", "tip")]
        middles += [(a + b) / 2 for a, b in pairwise(joints)]
    return np.stack([hand.points[:, PLACE["palm"]], *middles], 1)


def as_nyu(hand: Hand) -> np.ndarray:
    """36 joints as NYU annotates them: on the surface of the back of the hand. (N, 36, 3) mm.

    In its files the fingers come from the pinky to the thumb, six points each from the tip on; then two of the wrist, the palm, and three
    more, which stand here for the forearm. 14 of them are scored.
    """
    joints = []
    for finger in reversed(FINGERS):
        surface = [
            hand.points[:, PLACE[f"{finger} {part}"]]
            + hand.back[:, PLACE[f"{finger} {part}"]] * (radius * hand.size)[:, None]
            for part, radius in zip(("root", "second", "third", "tip"), (*RADII[finger][:3], 0.0), strict=True)  # the tip is skin
        ]
        root, second, third, tip = surface
        if finger == "thumb":  # its joint is the second of its six points, the middle of the bone below its knuckle the fourth
            joints += [tip, third, (third + second) / 2, 0.65 * second + 0.35 * root, 0.3 * second + 0.7 * root, root]
        else:
            joints += [tip, (tip + third) / 2, third, second, (second + root) / 2, root]
    palm_back = hand.back[:, PLACE["palm"]] * (13 * hand.size)[:, None]
    wrist = [hand.points[:, PLACE[name]] + palm_back for name in ("wrist pinky", "wrist thumb", "palm")]
    along = hand.points[:, PLACE["elbow"]] - hand.points[:, PLACE["wrist"]]
    return np.stack([*joints, *wrist, *(hand.points[:, PLACE["wrist"]] + share * along for share in (0.25, 0.5, 0.75))], 1)
