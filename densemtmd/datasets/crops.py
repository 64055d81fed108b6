"""Cutting what a network sees, and the labels of the pixels that it answers for, out of a sample.

Shapes: ``H``, ``W`` pixels of the picture; ``rows``, ``columns`` outputs of the strided network in a crop.
"""

from __future__ import annotations

import numpy as np

from densemtmd.datasets.sample import Sample
from densemtmd.dense import Geometry, reflect
from densemtmd.tasks import VOID


def cut(
    sample: Sample, row: int, column: int, rows: int, columns: int, geometry: Geometry, *, flip: bool = False, valid: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The pixels that a strided network must see to answer for a grid of pixels, and their labels.

    The grid starts at pixel (row, column) and has one point every ``geometry.stride`` pixels. Pixels beyond the picture's border are its
    reflection; grid points beyond it are void, and with ``valid`` so are those whose patch does not fit in the picture. With ``flip``
    everything is cut from the mirrored picture: mirroring the crop instead would shift its labels by a pixel, since an even patch has no
    middle.

    Returns:
        image (geometry.pixels(rows), geometry.pixels(columns), 3) uint8 and target (rows, columns) uint8.
    """
    before, after = geometry.border
    margin = (before, after) if valid else (0, 0)

    def along(start: int, outputs: int, size: int, mirror: bool) -> tuple[np.ndarray, np.ndarray, slice]:
        """Along one side: the pixels seen, the pixels answered for, and which outputs the latter are."""
        seen = reflect(np.arange(start - before, start - before + geometry.pixels(outputs)), size)
        grid = start + geometry.stride * np.arange(outputs)
        first, last = np.searchsorted(grid, [margin[0], size - margin[1]])
        answered = grid[first:last]
        return (size - 1 - seen, size - 1 - answered, slice(first, last)) if mirror else (seen, answered, slice(first, last))

    height, width = sample.target.shape
    seen_rows, grid_rows, output_rows = along(row, rows, height, False)
    seen_columns, grid_columns, output_columns = along(column, columns, width, flip)
    target = np.full((rows, columns), VOID, np.uint8)
    target[output_rows, output_columns] = sample.target[grid_rows[:, None], grid_columns]
    return sample.image[seen_rows[:, None], seen_columns], target
