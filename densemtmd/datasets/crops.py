"""Cutting what a network sees, and the labels of the pixels that it answers for, out of a sample.

Shapes: ``H``, ``W`` pixels of the picture; ``rows``, ``columns`` outputs of the strided network in a crop.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from densemtmd.datasets.sample import Sample
from densemtmd.geometry import Geometry, reflect
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
        image (geometry.pixels(rows), geometry.pixels(columns), 3) uint8 and target (rows, columns) uint8. Where the crop lies inside the
        picture, the image is a view of it.
    """
    before, after = geometry.border
    margin = (before, after) if valid else (0, 0)
    stride = geometry.stride

    def answered(start: int, outputs: int, size: int) -> tuple[slice, slice]:
        """Along one side: which outputs have a label, and the pixels that they answer for."""
        first = min(outputs, max(0, -((start - margin[0]) // stride)))
        last = max(first, min(outputs, -((start - size + margin[1]) // stride)))
        return slice(first, last), slice(start + first * stride, start + last * stride, stride)

    labels = sample.target[:, ::-1] if flip else sample.target
    target = np.full((rows, columns), VOID, np.uint8)
    (output_rows, grid_rows), (output_columns, grid_columns) = answered(row, rows, len(labels)), answered(column, columns, labels.shape[1])
    if output_rows.start < output_rows.stop and output_columns.start < output_columns.stop:
        target[output_rows, output_columns] = labels[grid_rows, grid_columns]

    seen_rows = _seen(row - before, geometry.pixels(rows), len(labels), False)
    seen_columns = _seen(column - before, geometry.pixels(columns), labels.shape[1], flip)
    image = sample.image[seen_rows.within, seen_columns.within]
    if seen_rows.order is not None:
        image = image.take(seen_rows.order, 0)
    if seen_columns.order is not None:
        image = image.take(seen_columns.order, 1)
    return image, target


class _Seen(NamedTuple):
    """Pixels along one side: where in the picture they all lie, and their order in there; None: just as they lie."""

    within: slice
    order: np.ndarray | None


def _seen(start: int, pixels: int, size: int, mirror: bool) -> _Seen:
    """So many pixels from ``start`` on, reflected beyond the border. Slices are quick, and most crops need nothing else."""
    if start >= 0 and start + pixels <= size:
        if not mirror:
            return _Seen(slice(start, start + pixels), None)
        return _Seen(slice(size - start - pixels, size - start), np.arange(pixels - 1, -1, -1))
    positions = reflect(np.arange(start, start + pixels), size)
    if mirror:
        positions = size - 1 - positions
    first = int(positions.min())
    return _Seen(slice(first, int(positions.max()) + 1), positions - first)
