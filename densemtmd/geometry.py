"""Where the outputs of a network lie in its input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Pair = tuple[int, int]  # (vertical, horizontal)


def centre_of(patch: int) -> int:
    """Row and column, within a patch of side ``patch``, of the pixel that its answer is about: 23 of 46.

    An even patch has no middle pixel; this is the one place that decides which of the two it is.
    """
    return patch // 2


@dataclass(frozen=True)
class Geometry:
    """Where the outputs of a network lie in its input.

    Output (i, j) of the strided network sees the ``patch``×``patch`` pixels from (i·stride, j·stride) on, and is about
    the pixel ``centre`` further down and right.

    A network that pads its maps answers at every pixel of its input: patch 1, stride 1. What lies beyond the input it makes up, so of a
    part of a picture its answers near the cut differ from those for the whole. It says how far that reaches.

    Args:
        patch: side in pixels of what one output must see.
        stride: pixels between neighbouring outputs.
        multiple: pixels; parts of a picture begin best at multiples of so many, since the network's inner maps lie on such a grid.
        context: pixels on each side, beyond the patch, that an answer depends on; 0: it depends on nothing beyond.
    """

    patch: int
    stride: int
    multiple: int = 1
    context: int = 0

    @property
    def centre(self) -> int:
        return centre_of(self.patch)

    @property
    def border(self) -> Pair:
        """Pixels before the first and after the last one that gets an answer: (centre, patch − 1 − centre)."""
        return self.centre, self.patch - 1 - self.centre

    def outputs(self, pixels: int) -> int:
        """Number of outputs of the strided network along a side of ``pixels`` pixels."""
        return max(0, (pixels - self.patch) // self.stride + 1)

    def pixels(self, outputs: int) -> int:
        """Side of the smallest input that gives ``outputs`` outputs: the inverse of :meth:`outputs`."""
        return (outputs - 1) * self.stride + self.patch


def reflect(position: Any, size: Any) -> Any:
    """Positions on an endless row, continued beyond its ends by reflection, as indices into 0..size−1: −2 −1 0 1 -> 2 1
    0 1.

    Unlike ``F.pad`` the border may be longer than the row: it is reflected again. Works on integer arrays of NumPy and
    of torch, and with a size that torch records.
    """
    last = size - 1
    return last - abs(position % (2 * last + (last == 0)) - last)
