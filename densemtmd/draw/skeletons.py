"""Hands: skeletons over their depth pictures, as in Figure 5.

Shapes: ``H``, ``W`` pixels of a depth picture, ``S`` pixels along the side of a crop, ``J`` keypoints.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from densemtmd.datasets.hands.sets import HandSet
from densemtmd.draw.colours import INK, PAPER
from densemtmd.tasks import Colour

FINGER_COLOURS: tuple[Colour, ...] = ((235, 235, 235), (255, 93, 71), (255, 196, 0), (87, 214, 71), (66, 190, 255), (205, 120, 255))
FINGER_NAMES = ("palm", "thumb", "index", "middle", "ring", "pinky")
"""What the legend calls them; the wrist is of the palm's colour."""

WINDOW = 480
"""Pixels along the side of a picture of a hand."""


def skeleton(
    depth: np.ndarray,
    uvd: np.ndarray,
    hands: HandSet,
    truth: np.ndarray | None = None,
    title: str = "",
    box: np.ndarray | None = None,
) -> Image.Image:
    """The skeleton of a hand over its depth picture, as in Figure 5, on a window about the hand that is enlarged, with a legend.

    Nearer is brighter, and what is nearer is drawn last. A pixel without a reading is black, what is behind the hand nearly so.

    Args:
        depth: (H, W) mm, 0 where there is no reading.
        uvd: (J, 3) column and row in the picture, depth in mm.
        hands: which keypoints they are.
        truth: (J, 3) the true ones, drawn as thin rings; None: not drawn.
        title: written at the top.
        box: (2, 3) least and largest column, row and depth that are shown; by default some more than the keypoints.
    """
    if box is None:
        points = uvd if truth is None else np.concatenate([uvd, truth])
        box = np.stack([points.min(0), points.max(0)]) + np.array([(0, 0, -40), (0, 0, 90)])
        margin = 1.3 * np.ptp(box[:, :2], axis=0).max() / 2 + 10
    else:
        margin = np.ptp(box[:, :2], axis=0).max() / 2
    middle = box[:, :2].mean(0)
    zoom = WINDOW / (2 * margin)
    columns, rows = (np.floor(middle[axis] - margin + (np.arange(WINDOW) + 0.5) / zoom + 0.5).astype(int) for axis in (0, 1))
    inside = ((rows >= 0) & (rows < depth.shape[0]))[:, None] & (columns >= 0) & (columns < depth.shape[1])
    window = np.where(inside, depth[np.ix_(rows.clip(0, depth.shape[0] - 1), columns.clip(0, depth.shape[1] - 1))], 0)
    of_hand = (window > 0) & (window >= box[0, 2]) & (window < box[1, 2])
    near, far = (window[of_hand].min(), window[of_hand].max()) if of_hand.any() else box[:, 2]  # so that its relief can be seen
    shade = 60 + 150 * np.clip((far - window) / max(far - near, 1e-6), 0, 1)
    grey = np.where(window == 0, 0, np.where(window < box[1, 2], shade, 24))
    picture = Image.fromarray(np.repeat(grey.astype(np.uint8)[:, :, None], 3, 2))

    pen = ImageDraw.Draw(picture)
    places = [(float(x), float(y)) for x, y in (uvd[:, :2] - middle + margin) * zoom]
    size = WINDOW / 90
    for a, b in sorted(hands.bones, key=lambda bone: -float(uvd[list(bone), 2].mean())):
        colour = FINGER_COLOURS[max(hands.fingers[a], hands.fingers[b])]
        pen.line([places[a], places[b]], fill=INK, width=round(1.4 * size))
        pen.line([places[a], places[b]], fill=colour, width=round(0.8 * size))
    for joint in np.argsort(-uvd[:, 2]):
        x, y = places[joint]
        pen.ellipse((x - size, y - size, x + size, y + size), fill=FINGER_COLOURS[hands.fingers[joint]], outline=INK, width=1)
    if truth is not None:
        for x, y in (truth[:, :2] - middle + margin) * zoom:
            pen.ellipse((x - 1.6 * size, y - 1.6 * size, x + 1.6 * size, y + 1.6 * size), outline=PAPER, width=1)
    font: Any = ImageFont.load_default(size=18)
    if title:
        pen.text((8, 6), title, fill=PAPER, font=font, stroke_width=2, stroke_fill=INK)
    x = 8.0
    for name, colour in zip(FINGER_NAMES, FINGER_COLOURS, strict=True):
        pen.text((x, WINDOW - 8), name, fill=colour, font=font, stroke_width=2, stroke_fill=INK, anchor="ls")
        x += pen.textlength(name, font=font) + 14
    return picture


def crop_skeleton(image: np.ndarray, coordinates: np.ndarray, hands: HandSet) -> Image.Image:
    """The skeleton over what the network sees of a hand: a crop (S, S) from −1 to 1, keypoints (J, 3) in halves of the cube's side.

    Drawn as if the camera were far away, so that a keypoint that is not at the cube's middle depth is a few pixels off.
    """
    size = len(image)
    uvd = coordinates * (size / 2, -size / 2, size / 2) + (size / 2 - 0.5, size / 2 - 0.5, size)
    box = np.array([(-0.5, -0.5, size / 2), (size - 0.5, size - 0.5, 1.5 * size)])
    return skeleton(np.where(image < 1, size + image * size / 2, 0), uvd, hands, box=box)
