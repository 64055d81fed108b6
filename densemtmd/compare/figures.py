"""Figures of comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from densemtmd.compare.reading import Comparison
from densemtmd.compare.statistics import Differences, Point
from densemtmd.draw.figures import budget_figure, differences_figure, label_curve_figure


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


def draw_budget(table: Comparison, file: Path) -> bool:
    """Draws the best validation score so far over what was trained, of each row on each dataset; says whether there was anything to draw:
    three validations at least of every run, as their folders tell."""
    courses = {
        name: {row: [run.course(name) for run in runs] for row, runs in table.rows.items()} for name in table.runs[0].datasets
    }  # fmt: skip
    if any(len(one) < 3 for rows in courses.values() for seeds in rows.values() for one in seeds):
        return False
    chief = table.kind.chief
    budget_figure(courses, file, f"{table.name}: the best network so far, on validation pictures", chief.axis)
    return True
