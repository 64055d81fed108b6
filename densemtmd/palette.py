"""Colours of labels: apart for all eyes, and one colour per meaning.

How people see who lack one of three kinds of cones is simulated by Machado, Oliveira and Fernandes (A physiologically-based model for
simulation of color vision deficiency, IEEE TVCG 2009, severity 1); distances are Euclidean ones in CIELAB (CIE 1976, D65).

Shapes: ``N`` colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product

import numpy as np

Colour = tuple[int, int, int]

VISION = {
    "all cones": np.eye(3),
    "protanopia": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deuteranopia": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
}
"""(3, 3) by which linear RGB becomes what people see: with all cones, without those for long and without those for middle wavelengths."""

TO_XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])
WHITE = TO_XYZ.sum(1)
"""sRGB's primaries and its white, as IEC 61966-2-1 has them."""

LIGHTNESS = 32.0, 90.0
"""In CIELAB, of colours that are chosen: none is taken for the black of void, nor for paper."""

CLEAR = 12.0
"""Two labels of one picture whose colours are nearer, for anybody, look the same."""


def seen(colours: np.ndarray, vision: str) -> np.ndarray:
    """(..., 3) CIELAB of colours (..., 3) in 0..255, sRGB, as somebody sees them; ``vision`` is one of :data:`VISION`.

    >>> seen(np.array([255, 255, 255]), "all cones").round(3).tolist()
    [100.0, 0.0, 0.0]
    """
    share = np.asarray(colours, float) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    xyz = np.clip(linear @ VISION[vision].T, 0, 1) @ TO_XYZ.T / WHITE
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], -1)


def _views(colours: np.ndarray) -> np.ndarray:
    """(visions, N, 3) how each sees (N, 3) colours."""
    return np.stack([seen(colours, vision) for vision in VISION])


def distance(one: Colour, other: Colour) -> float:
    """How far two colours are from each other in CIELAB, for those who tell them apart worst."""
    a, b = _views(np.array([one, other])).swapaxes(0, 1)
    return float(np.linalg.norm(a - b, axis=-1).min())


def apart(count: int, taken: tuple[Colour, ...] = ()) -> tuple[Colour, ...]:
    """``count`` colours, each as far as can be, for all eyes, from those before it, from what is ``taken``, and from black and white.

    >>> apart(3) == apart(20)[:3]
    True
    """
    return _chain(max(16, 1 << (count - 1).bit_length()), taken)[:count] if count else ()


@cache
def _chain(count: int, taken: tuple[Colour, ...]) -> tuple[Colour, ...]:
    every, views = _candidates()

    def far(colour: Sequence[int]) -> np.ndarray:
        """(N,) squared distances of all candidates."""
        return np.asarray(np.square(views - _views(np.array([colour])).astype(np.float32)).sum(-1).min(0))

    least = np.minimum.reduce([far(colour) for colour in ((0, 0, 0), (255, 255, 255), *taken)])
    found: list[Colour] = []
    for _ in range(count):
        best = every[int(least.argmax())].tolist()
        found.append((best[0], best[1], best[2]))
        least = np.minimum(least, far(best))
    return tuple(found)


@cache
def _candidates() -> tuple[np.ndarray, np.ndarray]:
    """(N, 3) the colours to choose from, and (visions, N, 3) how they are seen."""
    levels = range(0, 256, 17)
    every = np.array(list(product(levels, levels, levels)))
    light = seen(every, "all cones")[:, 0]
    every = every[(light >= LIGHTNESS[0]) & (light <= LIGHTNESS[1])]
    return every, _views(every).astype(np.float32)


def completed(given: Sequence[Colour | None]) -> tuple[Colour, ...]:
    """The given colours, and where one is None another that is far from all of them."""
    others = iter(apart(sum(colour is None for colour in given), tuple(colour for colour in given if colour is not None)))
    return tuple(next(others) if colour is None else colour for colour in given)


def meaning(label: str) -> str:
    """What labels that are written alike have in common.

    >>> meaning("Traffic_Sign") == meaning("traffic sign")
    True
    """
    return " ".join(label.casefold().replace("_", " ").replace("-", " ").split())


def common(labelsets: Sequence[tuple[Sequence[str], Sequence[Colour | None]]]) -> list[tuple[Colour, ...]]:
    """The colours of several labelsets in which one name has one colour.

    That is the first one that a labelset gives it, unless a name that stands beside it in some labelset has nearly the same; then the next
    one, and where there is none a colour that is far from those beside it.

    Args:
        labelsets: of each the names, and the colours that it gives; None where it gives none.

    >>> common([(["car", "sky"], [(1, 2, 3), (90, 90, 250)]), (["sky", "Car"], [None, (200, 0, 0)])])
    [((1, 2, 3), (90, 90, 250)), ((90, 90, 250), (1, 2, 3))]
    """
    wanted: dict[str, list[Colour]] = {}
    beside: dict[str, set[str]] = {}
    for labels, colours in labelsets:
        names = {meaning(label) for label in labels}
        for label, colour in zip(labels, colours, strict=True):
            wanted.setdefault(meaning(label), []).extend([] if colour is None else [colour])
            beside.setdefault(meaning(label), set()).update(names - {meaning(label)})
    found: dict[str, Colour] = {}
    for name in sorted(wanted, key=lambda name: not wanted[name]):  # those that are given first
        others = tuple(dict.fromkeys(found[other] for other in sorted(beside[name]) if other in found))
        views = _views(np.array(others)) if others else np.zeros((1, 0, 3))
        clear = (
            colour for colour in wanted[name]
            if not others or np.linalg.norm(views - _views(np.array([colour])), axis=-1).min() >= min(CLEAR, _own(name, colour, labelsets))
        )  # fmt: skip
        found[name] = next(clear, None) or apart(1, others)[0]
    return [tuple(found[meaning(label)] for label in labels) for labels, _ in labelsets]


def _own(name: str, colour: Colour, labelsets: Sequence[tuple[Sequence[str], Sequence[Colour | None]]]) -> float:
    """How near its neighbours the labelset that gives a name this colour has put it: so near is as its authors want it."""
    for labels, colours in labelsets:
        for label, own in zip(labels, colours, strict=True):
            if own == colour and meaning(label) == name:
                return min((distance(own, one) for one in colours if one is not None and one != own), default=CLEAR)
    return CLEAR
