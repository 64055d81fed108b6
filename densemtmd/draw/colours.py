"""The four colours of whatever is written beside a picture: titles, notes, thin lines, paper."""

from __future__ import annotations

from densemtmd.tasks import Colour

INK, FAINT, LINE, PAPER = (31, 35, 40), (110, 118, 129), (230, 232, 235), (255, 255, 255)


def hex_of(colour: Colour) -> str:
    """A colour as matplotlib takes it.

    >>> hex_of((255, 0, 16))
    '#ff0010'
    """
    return "#{:02x}{:02x}{:02x}".format(*colour)
