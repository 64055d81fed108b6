"""Figures of comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from densemtmd.compare.reading import Comparison
from densemtmd.compare.statistics import Differences, Point
from densemtmd.draw.figures import differences_figure, label_curve_figure


def draw_differences(table: Comparison, base: str, found: Differences, file: Path) -> None:
    """Draws the differences to the baseline in the chief measure, with their intervals."""
    chief = table.kind.chief
    shown = {
        row: {column: (one.value, one.low, one.high) for (column, key), one in values.items() if key == chief.key}
        for row, values in found.items()
    }
    differences_figure(shown, file, table.name, base, chief.unit, chief.less_is_better)


def draw_curve(table: Comparison, points: Sequence[Point], file: Path) -> None:
    """Draws the chief measure over the share of a dataset's labelled pictures, alone and with others."""
    drawn = {
        "alone": {p.share: (p.alone.mean, p.alone.sd) for p in points},
        "with others": {p.share: (p.joint.mean, p.joint.sd) for p in points},
    }
    pictures = {p.share: p.pictures for p in points if p.pictures}
    label_curve_figure(drawn, file, f"What labelled pictures of {table.curve} are worth", pictures)
