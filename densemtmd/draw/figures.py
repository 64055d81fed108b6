"""Figures: how a training went, what was confused, how labels correspond, what a dataset holds, how rows of a table differ.

Drawn with matplotlib's objects alone, so that no window system and no global state is touched; it is imported where a figure is drawn.
Their files are written whole or not at all; their suffix says the format (.png, .svg, .pdf).

Shapes: ``L`` labels of one labelset, ``C`` channels of the output space, ``N`` frames, ``J`` keypoints.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from densemtmd.draw.colours import FAINT, INK, LINE, hex_of
from densemtmd.draw.lettering import lettered, short, width_of
from densemtmd.errors import UserError
from densemtmd.evaluation import per_class, scores
from densemtmd.files import atomic_write
from densemtmd.keypoints import within
from densemtmd.kind import kind_of_scores
from densemtmd.tasks import VOID, Colour, Labelset, OutputSpace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# ----------------------------------------------------------------------------------------------------------------------
# Matrices

NUMBERS = 40
"""Labels of the largest matrix whose cells are so large that each has its number; up to :data:`READABLE` the high ones have theirs."""

READABLE = 100
"""Labels of the largest matrix in which one can read numbers and follow a row to its end: with more it is a picture, beside its CSV."""

SIDE, SMALLEST = 20.0, 4.0
"""Inches of the side of the largest matrix, and points of the smallest letters: where names were smaller, only some are written."""


def _matrix(
    shown: np.ndarray, labels: Sequence[str], margins: tuple[float, float], cell: float, upright: bool
) -> tuple[Figure, Any, float, float]:
    """A figure with a square matrix in it, in blues: a row and a column per label, with their names.

    Args:
        shown: (L, L) in [0, 1], NaN where there is nothing, which is grey.
        labels: the names.
        margins: inches at the left and above, beside those that the names take.
        cell: inches of a cell, where they are not too many for :data:`SIDE`.
        upright: whether the names above the matrix are; of many labels they are repeated below it.

    Returns:
        The figure, its axes, in whose units a cell is 1, the inches of a cell, and those that the longest name takes.
    """
    import matplotlib
    from matplotlib.figure import Figure

    count = len(labels)
    cell = min(cell, SIDE / count)
    size = min(9.0, max(SMALLEST, 72 * cell * (0.9 if count > READABLE else 0.5)))
    every = max(1, math.ceil(0.99 * size / 72 / cell))  # so that the smallest letters, too, stand beside each other
    below = count > NUMBERS
    names = 0.0087 * size * max(map(width_of, labels))
    side = max(count * cell, 1.8)
    left, top, right, bottom = margins[0] + names, margins[1] + names * (1 if upright else 0.75), 1.7, 0.2 + names * below
    width, height = left + side + right, top + side + bottom
    figure = Figure(figsize=(width, height), dpi=200 if count > READABLE else 150)
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    colours = matplotlib.colormaps["Blues"].with_extremes(bad="#bcbcbc")
    edges = np.arange(count + 1) - 0.5
    # A mesh: imshow would make ten copies of what it shows at the size of the figure, half a gigabyte of them.
    axes.pcolormesh(edges, edges, np.ma.masked_invalid(shown), cmap=colours, vmin=0, vmax=1, rasterized=count > READABLE)
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(edges[-1], edges[0])
    at, written = range(0, count, every), labels[::every]
    slanted: dict[str, Any] = {"rotation": 50, "ha": "left", "rotation_mode": "anchor"}
    axes.set_xticks(at, written, **({"rotation": 90} if upright else slanted))
    axes.set_yticks(at, written)
    axes.tick_params(which="both", length=0, labelsize=size, top=True, labeltop=True, bottom=False, labelbottom=below)
    if count <= READABLE:
        axes.set_xticks(edges, minor=True)
        axes.set_yticks(edges, minor=True)
        axes.tick_params(which="minor", length=0)
        axes.grid(which="minor", color=hex_of(LINE), linewidth=0.6)
    axes.spines[:].set_visible(False)
    return figure, axes, side / count, names


def _numbers(axes: Any, percent: np.ndarray, least: float, size: float) -> None:
    """Writes the values of a matrix (L, L) of percents that are at least so high into their cells."""
    for row, column in np.argwhere(percent >= least).tolist():
        value = percent[row, column]
        axes.text(
            column, row, f"{value:.0f}", ha="center", va="center", fontsize=size, color="white" if value > 55 else hex_of(INK)
        )  # fmt: skip


def _heading(figure: Figure, *lines: tuple[str, float, Colour]) -> None:
    """Lines of text, each with its size and colour, above the upper left corner, larger above a large figure."""
    width, height = figure.get_size_inches()
    scale, at = min(1.8, max(1.0, width / 12)), 0.0
    for text, size, ink in reversed(lines):
        figure.text(0, 1 + at / height, text, fontsize=scale * size, va="bottom", color=hex_of(ink))
        at += 0.021 * scale * size


@lettered
def confusion_figure(matrix: np.ndarray, labelset: Labelset, path: str | Path) -> None:
    """Draw what became of the pixels of each label: a row per true label, which sums to 100 %, a column per answer.

    At the right of each row: the label's share of all labelled pixels, and its IoU. A label that never occurs has an
    empty row. Numbers below 0.5 % are left out, of more than 40 labels those below 10 %, and of more than 100 all of them.

    Args:
        matrix: (L, L) counts of pixels; rows are the true labels, columns the answers.
        labelset: names the labels.
        path: of the figure; its suffix says the format (.png, .svg, .pdf). Written whole or not at all.

    Raises:
        UserError: a matrix of another size than the labelset, or a place that cannot be written.
    """
    count = labelset.channels
    if matrix.shape != (count, count):
        expected = f"expected {(count, count)}, a row and a column per label"
        raise UserError(f"the confusion matrix of {labelset.name!r} has the shape {matrix.shape}, {expected}")
    counts = np.asarray(matrix, float)
    pixels = counts.sum(1)
    percent = 100 * np.divide(counts, pixels[:, None], out=np.zeros_like(counts), where=pixels[:, None] > 0)
    iou = per_class(counts)[1]
    total = scores([counts])

    few, names = count <= NUMBERS, [short(label) for label in labelset.labels]
    figure, axes, cell, _ = _matrix(percent / 100, names, (0.6, 0.35), 0.36 if few else 0.22, upright=not few)
    if count <= READABLE:
        _numbers(axes, percent, *((0.5, 8) if few else (10, 6)))
    inch = 1 / cell  # in units of the axes, where a cell is 1
    size = min(8.0, 72 * cell * 0.9)
    margin: dict[str, Any] = {"ha": "right", "fontsize": size, "color": hex_of(FAINT)}
    share_at, iou_at = (count - 0.5 + x * inch for x in (0.75, 1.35))
    axes.text(share_at, -0.5 - 0.08 * inch, "share", va="bottom", **margin)
    axes.text(iou_at, -0.5 - 0.08 * inch, "IoU", va="bottom", **margin)
    for row in range(count):
        share = f"{100 * pixels[row] / total.pixels:.1f} %" if pixels[row] else "none"
        axes.text(share_at, row, share, va="center", **margin)
        axes.text(iou_at, row, f"{iou[row]:.1f}" if pixels[row] else "–", va="center", **margin)
    said = total.line() if total.pixels else "no labelled pixel"
    read = "of 100 pixels of the label at the left, so many got the label above"
    _heading(figure, (short(labelset.name), 12, INK), (said, 9, FAINT), (read, 8, FAINT))
    _save_figure(figure, path)


# ----------------------------------------------------------------------------------------------------------------------
# Of a run


@lettered
def curves_figure(history: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draw how a training went: the loss, and the three scores of each dataset and of all together, over the epochs.

    Args:
        history: a record per validation, in order: ``epoch`` (a number), ``loss`` (None before the first step) and
            ``scores``, as :func:`densemtmd.evaluation.report` gives them.
        path: of the figure; its suffix says the format (.png, .svg, .pdf). Written whole or not at all.

    Raises:
        UserError: an empty history, or a place that cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    if not history:
        raise UserError(f"there is nothing to draw in {path}: the training was not validated once")

    def series(*keys: str) -> list[float]:
        """One value per record, NaN where there is none."""
        values = []
        for record in history:
            found: Any = record
            for key in keys:
                found = found.get(key, {})
            values.append(float(found) if isinstance(found, int | float) else math.nan)
        return values

    shown = {measure.key: measure.axis for measure in kind_of_scores(history[-1]["scores"]).measures}
    columns = 2 if len(shown) % 2 else 1 + len(shown)  # no field of the figure is empty
    rows = math.ceil((1 + len(shown)) / columns)
    figure = Figure(figsize=(5 * columns + 1, 3.5 * rows), dpi=150, layout="constrained")
    axes = figure.subplots(rows, columns, sharex=True).ravel()
    epochs, datasets = series("epoch"), list(history[-1]["scores"]["datasets"])
    colours = matplotlib.colormaps["tab10" if len(datasets) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    dots: dict[str, Any] = {"marker": "o" if len(history) < 30 else None, "markersize": 3}
    axes[0].plot(epochs, series("loss"), color=hex_of(INK), linewidth=2, **dots)
    axes[0].set_title("training loss", loc="left", fontsize=11)
    for one, (score, title) in zip(axes[1:], shown.items(), strict=False):
        for i, name in enumerate(datasets):
            line = series("scores", "datasets", name, score)
            one.plot(epochs, line, color=colours[i % len(colours)], linewidth=1.2, label=_legible(name), **dots)
        if len(datasets) > 1:
            line = series("scores", "pooled", score)
            one.plot(epochs, line, color=hex_of(INK), linewidth=2.4, label="all together", **dots)
        one.set_title(title, loc="left", fontsize=11)
    for one in axes:
        one.grid(color=hex_of(LINE), linewidth=0.8)
        one.spines[["top", "right"]].set_visible(False)
        one.xaxis.set_major_locator(MaxNLocator(integer=True))
    for one in axes[-columns:]:
        one.set_xlabel("epoch")
    lines, names = axes[1].get_legend_handles_labels()
    if len(lines) > NAMED:  # the last is all together
        lines, names = [*lines[: NAMED - 1], lines[-1]], [*names[: NAMED - 1], f"{names[-1]} ({len(lines) - NAMED} more)"]
    figure.legend(lines, names, loc="outside right upper", frameon=False, fontsize=10)
    _save_figure(figure, path)


@lettered
def correlation_figure(matrix: np.ndarray, space: OutputSpace, path: str | Path) -> None:
    """Draw the label correlation matrix block by block, as the paper's Figure 6: a row per target label, darker cells are higher.

    Where a label is seen as itself is the diagonal; the highest cell of each row in each other labelset's block has a frame. Rows of
    labels that never occur are grey. Of more than 100 labels, which nobody reads one by one, the labels of each labelset stand in the order
    of their partners in the labelset of the most labels, so that what corresponds lies along diagonals.

    Args:
        matrix: (C, C) in [0, 1]; rows of NaN of labels that never occur.
        space: names labelsets and labels.
        path: of the figure; its suffix says the format. Written whole or not at all.

    Raises:
        UserError: a matrix of another size than the space, or a place that cannot be written.
    """
    import matplotlib
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection, PatchCollection
    from matplotlib.patches import Rectangle

    count = space.channels
    if matrix.shape != (count, count):
        expected = f"expected {(count, count)}, a row and a column per label"
        raise UserError(f"the label correlation matrix has the shape {matrix.shape}, {expected}")
    blocks = [(short(task.name, 24), space.slice(task.name)) for task in space.tasks]
    labels = [short(label, 30) for task in space.tasks for label in task.channel_names]
    few = count <= READABLE
    order = np.arange(count) if few else _by_partners(matrix, [own for _, own in blocks])
    matrix = np.asarray(matrix, float)[np.ix_(order, order)]
    figure, axes, cell, names = _matrix(matrix, [labels[i] for i in order], (0.45, 0.5), 0.22 if count > NUMBERS else 0.3, upright=True)
    if few:
        high = np.nan_to_num(100 * matrix)
        _numbers(axes, high, 10, 6 if count > NUMBERS else 7)
        frames = [
            Rectangle((best - 0.46, row - 0.46), 0.92, 0.92)
            for row, values in enumerate(matrix) if not np.isnan(values).any()
            for _, own in blocks if not own.start <= row < own.stop
            for best in (own.start + int(values[own].argmax()),)
        ]  # fmt: skip
        axes.add_collection(PatchCollection(frames, facecolor="none", edgecolor="#D55E00", linewidth=1.2))
    edges = [edge - 0.5 for edge in dict.fromkeys([0, *(own.stop for _, own in blocks)])]
    ends = (-0.5, count - 0.5)
    lines = [((edge, ends[0]), (edge, ends[1])) for edge in edges] + [((ends[0], edge), (ends[1], edge)) for edge in edges]
    axes.add_collection(LineCollection(lines, colors=hex_of(INK), linewidths=0.9))
    away = -0.5 - (0.12 + names) / cell
    for name, own in blocks:
        middle, room = (own.start + own.stop - 1) / 2, (own.stop - own.start) * cell
        bold: dict[str, Any] = {"fontsize": min(11.0, max(SMALLEST, 72 * room)), "fontweight": "bold", "color": hex_of(INK)}
        upright = width_of(name) * 0.0105 * bold["fontsize"] > room  # a name wider than its block would run into the next
        axes.text(middle, away, name, ha="center", va="bottom", rotation=90 if upright else 0, **bold)
        axes.text(away, middle, name, ha="right", va="center", rotation=0 if upright else 90, **bold)
    width, height = figure.get_size_inches()
    box = axes.get_position()
    bar_at = (box.x1 + 0.25 / width, box.y0, 0.12 / width, min(box.height, 2.5 / height))
    bar = figure.colorbar(ScalarMappable(cmap=matplotlib.colormaps["Blues"]), cax=figure.add_axes(bar_at))
    bar.ax.tick_params(labelsize=8, length=0)
    bar.outline.set_visible(False)
    grey = "; grey: no such pixel" if np.isnan(matrix).any() else ""
    read = f"what the network predicts, on average, for pixels of the label at the left{grey}"
    how = (
        "numbers: percent, from 10 on; framed: the highest of each block" if few else
        "each labelset's labels in the order of their partners in the largest one; all numbers are in the CSV"
    )  # fmt: skip
    _heading(figure, ("label correlation matrix", 12, INK), (read, 8, FAINT), (how, 8, FAINT))
    _save_figure(figure, path)


def _by_partners(matrix: np.ndarray, blocks: Sequence[slice]) -> np.ndarray:
    """(C,) the channels, labelset by labelset, each labelset's in the order of where they answer best in the one of the most labels."""
    first = max(blocks, key=lambda own: own.stop - own.start)
    partners = np.nan_to_num(np.asarray(matrix, float)[:, first], nan=-1).argmax(1)
    partners[first] = np.arange(first.stop - first.start)
    return np.concatenate([own.start + np.argsort(partners[own], kind="stable") for own in blocks])


@lettered
def within_figure(errors: Mapping[str, np.ndarray], path: str | Path, farthest: float = 80.0) -> None:
    """Draw the share of frames in which all keypoints are near, over how near that is.

    Args:
        errors: of each line of the figure, (N, J) mm.
        path: of the figure; its suffix says the format (.png, .svg, .pdf). Written whole or not at all.
        farthest: where the figure ends, mm.

    Raises:
        UserError: a place that cannot be written.
    """
    from matplotlib.figure import Figure

    thresholds = np.linspace(0, farthest, 321)
    figure = Figure(figsize=(6.5, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    for name, error in errors.items():
        axes.plot(thresholds, within(error, thresholds), linewidth=1.8, label=f"{_legible(name)}, mean {np.nanmean(error):.2f} mm")
    axes.set_xlim(0, farthest)
    axes.set_ylim(0, 100)
    axes.set_xlabel("error of the worst keypoint at most, mm")
    axes.set_title("share of the frames, %", loc="left", fontsize=11)
    axes.grid(color=hex_of(LINE), linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    _save_figure(figure, path)


# ----------------------------------------------------------------------------------------------------------------------
# Of data

MARKS: dict[str, Any] = {
    "train": {"marker": "o", "color": hex_of(INK)},
    "val": {"marker": "o", "markerfacecolor": "none", "color": hex_of(INK)},
    "test": {"marker": "D", "color": "#d1661b", "markersize": 5},
}
"""How the splits are drawn in figures of data."""


@lettered
def labels_figure(
    labelset: Labelset,
    pixels: Mapping[str, np.ndarray],
    pictures: Mapping[str, np.ndarray],
    counts: Mapping[str, int],
    path: str | Path,
) -> None:
    """Draw how often each label occurs: its share of the labelled pixels, and of the pictures, in each split.

    Args:
        labelset: names the labels.
        pixels: of each split, (256,) counts per class id; 255 counts the unlabelled.
        pictures: of each split, (256,) in how many pictures the class is.
        counts: of each split, how many pictures it has.
        path: of the figure; its suffix says the format (.png, .svg, .pdf). Written whole or not at all.

    Raises:
        UserError: a place that cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    rows = [*zip(labelset.labels, labelset.palette, range(labelset.channels), strict=True), ("void", (0, 0, 0), VOID)]
    tight = len(rows) > NUMBERS
    figure = Figure(figsize=(9.5, 1.3 + (0.18 if tight else 0.3) * len(rows)), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    least = 0.01
    for split, style in MARKS.items():
        if not (total := pixels[split].sum()):
            continue
        labelled = max(1, pixels[split][:VOID].sum())
        shares = [100 * pixels[split][i] / (total if i == VOID else labelled) for _, _, i in rows]
        present = [(share, row) for row, share in enumerate(shares) if share > 0]
        marks: dict[str, Any] = {"linestyle": "none", "clip_on": False, "zorder": 3, **style}
        left.plot([max(least, share) for share, _ in present], [row for _, row in present], label=f"{split} ({counts[split]})", **marks)
        right.plot([100 * pictures[split][i] / counts[split] for _, _, i in rows], range(len(rows)), **marks)
    left.set_xscale("log")
    left.set_xlim(least, 100)
    left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    right.set_xlim(0, 100)
    right.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    left.set_title("share of the labelled pixels (of void: of all)", loc="left", fontsize=9, color=hex_of(FAINT))
    right.set_title("share of the pictures", loc="left", fontsize=9, color=hex_of(FAINT))
    left.set_yticks(range(len(rows)), [short(name) for name, _, _ in rows])
    left.set_ylim(len(rows) - 0.5, -0.5)
    for axes in (left, right):
        axes.grid(color=hex_of(LINE), linewidth=0.8)
        axes.spines[:].set_visible(False)
        axes.tick_params(which="both", length=0, labelsize=9)
    left.tick_params(axis="y", labelsize=7 if tight else 9)
    left.tick_params(axis="y", pad=20)
    for row, (_, colour, _) in enumerate(rows):
        swatch = {"marker": "s", "markersize": 9, "markeredgecolor": hex_of(FAINT), "markeredgewidth": 0.5, "clip_on": False}
        left.plot([-0.025], [row], color=hex_of(colour), transform=left.get_yaxis_transform(), **swatch)
    figure.suptitle(short(labelset.name), x=0.01, ha="left", fontsize=12)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    _save_figure(figure, path)


@lettered
def labelsets_figure(labelsets: Sequence[Labelset], notes: Sequence[str], path: str | Path, title: str) -> None:
    """Draw labelsets side by side: the names and colours of their labels (Figure 3).

    Args:
        labelsets: one column each.
        notes: of each, beneath its name; several lines are fine.
        path: of the figure; its suffix says the format (.png, .svg, .pdf). Written whole or not at all.
        title: above it.

    Raises:
        UserError: a place that cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    lines = max(note.count("\n") + 1 for note in notes)
    row = 0.24  # inches
    names = [[short(label, 30) for label in (labelset.name, *labelset.labels)] for labelset in labelsets]
    wide = [max(1.75, 0.45 + 0.085 * max(map(width_of, some))) for some in names]
    height = 0.75 + 0.2 * lines + row * max(labelset.channels for labelset in labelsets)
    figure = Figure(figsize=(sum(wide), height), dpi=150)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, sum(wide)), ylim=(height, 0))
    axes.axis("off")
    axes.text(0.05, 0.15, title, fontsize=9, va="center", color=hex_of(FAINT))
    for column, (labelset, note) in enumerate(zip(labelsets, notes, strict=True)):
        x = 0.05 + sum(wide[:column])
        axes.text(x, 0.45, short(labelset.name, 30), fontsize=11, va="center", color=hex_of(INK), weight="bold")
        axes.text(x, 0.58, note, fontsize=8, va="top", color=hex_of(FAINT), linespacing=1.35)
        for i, (label, colour) in enumerate(zip(labelset.labels, labelset.palette, strict=True)):
            y = 0.75 + 0.2 * lines + row * i
            axes.add_patch(Rectangle((x, y - 0.08), 0.22, 0.16, facecolor=hex_of(colour), edgecolor=hex_of(FAINT), linewidth=0.4))
            axes.text(x + 0.3, y, short(label, 30), fontsize=9, va="center", color=hex_of(INK))
    _save_figure(figure, path)


# ----------------------------------------------------------------------------------------------------------------------
# Of comparisons


@lettered
def differences_figure(
    found: Mapping[str, Mapping[str, tuple[float, float, float]]],
    path: str | Path,
    title: str,
    baseline: str,
    unit: str = "points of IoU",
    less_is_better: bool = False,
) -> None:
    """Draw how much each strategy gains or loses on each dataset: a dot, and a line as long as its interval.

    Args:
        found: of each row of a table, by dataset, the difference to the baseline and both ends of its interval, in points.
        path: of the figure; its suffix says the format (.png, .svg, .pdf). Written whole or not at all.
        title: above it.
        baseline: the row at the zero line.
        unit: of the differences.
        less_is_better: so that the better ones are on the left.

    Raises:
        UserError: nothing to draw, or a place that cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    datasets = list(dict.fromkeys(name for row in found.values() for name in row))
    if not datasets:
        raise UserError(f"there is nothing to draw in {path}: no row has a seed in common with {baseline}")
    # Okabe and Ito's, which colour-blind people can tell apart, less black and yellow; a table has rarely more rows.
    colours = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"]
    if len(found) > len(colours):
        colours = [matplotlib.colors.to_hex(colour) for colour in matplotlib.colormaps["tab20"].colors]  # type: ignore[attr-defined]
    step = 0.14  # inches from row to row, in which a dot has place; between two datasets there is as much again, and half of it more
    band = max(0.3, step * (len(found) + 1.5))
    height = band * len(datasets)
    figure = Figure(figsize=(9, 1.2 + height), dpi=150)
    axes = figure.add_axes((0.18, 0.6 / (1.2 + height), 0.8, height / (1.2 + height)))
    for i, (row, values) in enumerate(found.items()):
        at = [band * (d + 0.5) + step * (i - (len(found) - 1) / 2) for d, name in enumerate(datasets) if name in values]
        drawn = [values[name] for name in datasets if name in values]
        colour = colours[i % len(colours)]
        axes.hlines(at, [low for _, low, _ in drawn], [high for _, _, high in drawn], color=colour, linewidth=2.2, alpha=0.55)
        axes.plot([value for value, _, _ in drawn], at, "os^Dv*"[i % 6], color=colour, markersize=5.5, label=_legible(row))
    for d in range(1, len(datasets)):
        axes.axhline(band * d, color=hex_of(LINE), linewidth=0.8)
    axes.axvline(0, color=hex_of(INK), linewidth=1.2, zorder=1)
    axes.set_yticks([band * (d + 0.5) for d in range(len(datasets))], [short(name) for name in datasets])
    axes.set_ylim(height, 0)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -0.1 * (high - low)), max(high, 0.1 * (high - low)))
    axes.grid(axis="x", color=hex_of(LINE), linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=10)
    axes.set_xlabel(f"{unit} above {baseline}; lines are 95 % intervals", fontsize=9, color=hex_of(FAINT))
    top: dict[str, Any] = {"textcoords": "offset points", "va": "bottom", "fontsize": 9, "color": hex_of(FAINT)}
    left, right = ("better", "worse") if less_is_better else ("worse", "better")
    zero: dict[str, Any] = {"xycoords": ("data", "axes fraction"), **top}  # each on its own side of it
    axes.annotate(f"← {left} than {short(baseline, 24)}", (0, 1), xytext=(-6, 3), ha="right", **zero)
    axes.annotate(f"{right} than {short(baseline, 24)} →", (0, 1), xytext=(6, 3), ha="left", **zero)
    top["xycoords"] = axes.transAxes
    fit = max(1, int(7.2 / (0.6 + 0.095 * max(width_of(short(row)) for row in found))))  # columns as wide as the axes, and no wider
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=1.6, ncols=min(6, fit, len(found)), frameon=False, fontsize=10)
    above = 22 + 18 * math.ceil(len(found) / min(6, fit))
    axes.annotate(title, (0, 1), xytext=(0, above), ha="left", **{**top, "fontsize": 12, "color": hex_of(INK)})
    _save_figure(figure, path)


@lettered
def label_curve_figure(
    lines: Mapping[str, Mapping[float, tuple[float, float]]], path: str | Path, title: str, pictures: Mapping[float, int] | None = None
) -> None:
    """Draw a score over the share of a dataset's pictures that were labelled: a line for it alone, and one for it with others.

    Args:
        lines: of each line, by share in (0, 1], the mean score in percent and its standard deviation over seeds (NaN for one seed).
        path: of the figure; its suffix says the format (.png, .svg, .pdf). Written whole or not at all.
        title: above it.
        pictures: how many a share is, where that is known.

    Raises:
        UserError: nothing to draw, or a place that cannot be written.
    """
    from matplotlib.figure import Figure

    shares = sorted({share for points in lines.values() for share in points})
    if not shares:
        raise UserError(f"there is nothing to draw in {path}: no share has been run alone and with others")
    figure = Figure(figsize=(7, 4.5), dpi=150)
    axes = figure.add_axes((0.11, 0.14, 0.86, 0.74))
    for colour, marker, (name, points) in zip(("#0072B2", "#D55E00"), "os", lines.items(), strict=False):
        at = [shares.index(share) for share in points]
        mean, spread = (np.array(values, float) for values in zip(*points.values(), strict=True))
        axes.fill_between(at, mean - np.nan_to_num(spread), mean + np.nan_to_num(spread), color=colour, alpha=0.18, linewidth=0)
        axes.plot(at, mean, color=colour, marker=marker, linewidth=2, markersize=6, label=_legible(name))
    known = pictures or {}
    axes.set_xticks(range(len(shares)), [f"{share:.0%}" + (f"\n{known[share]}" if share in known else "") for share in shares])
    axes.set_xlabel("of its labelled pictures" + (": so many to learn from" if known else ""), fontsize=10, color=hex_of(FAINT))
    axes.set_ylabel("IoU, percent; shaded: one standard deviation", fontsize=9, color=hex_of(FAINT))
    axes.grid(color=hex_of(LINE), linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=10)
    axes.legend(loc="lower right", frameon=False, fontsize=10)
    axes.set_title(title, loc="left", fontsize=12, color=hex_of(INK))
    _save_figure(figure, path)


def budget_figure(
    courses: Mapping[str, Mapping[str, Sequence[Sequence[tuple[int, float]]]]], path: str | Path, title: str, unit: str
) -> None:
    """Draw scores over what was trained: a field for each dataset, a line for each row of a table, the mean over its seeds, and a band of
    one standard deviation about it. A training that has ended keeps its score.

    Args:
        courses: of each dataset and row, of each seed, the score after so many labelled outputs, ascending.
        path: of the figure; its suffix says the format (.png, .svg, .pdf). Written whole or not at all.
        title: above it.
        unit: what the scores are.

    Raises:
        UserError: a place that cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    columns = min(3, len(courses))
    lines = math.ceil(len(courses) / columns)
    figure = Figure(figsize=(4 * columns + 2.5, 3.4 * lines + 0.4), dpi=150, layout="constrained")
    fields = figure.subplots(lines, columns, squeeze=False).ravel()
    rows = list(next(iter(courses.values())))
    colours = matplotlib.colormaps["tab10" if len(rows) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    for axes, (dataset, found) in zip(fields, courses.items(), strict=False):
        for n, row in enumerate(rows):
            at = sorted({outputs for seed in found[row] for outputs, _ in seed})
            at = [outputs for outputs in at if all(outputs >= seed[0][0] for seed in found[row])]
            held = np.array([[[score for outputs, score in seed if outputs <= x][-1] for x in at] for seed in found[row]])
            mean, spread, colour = held.mean(0), held.std(0, ddof=1) if len(held) > 1 else 0, colours[n % len(colours)]
            axes.fill_between(at, mean - spread, mean + spread, color=colour, alpha=0.15, linewidth=0)
            # The first rows on top: a row that goes on where another ends must not hide it.
            axes.plot(at, mean, color=colour, linewidth=1.8, marker=".", label=_legible(row), zorder=3 - n / len(rows))
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / 1e6:g} M" if x >= 1e6 else f"{x / 1e3:g} k"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_title(_legible(dataset), loc="left", fontsize=11)
        axes.grid(color=hex_of(LINE), linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in fields[len(courses) :]:
        axes.set_visible(False)
    below = "labelled outputs of the networks that know the dataset; shaded: one standard deviation"
    figure.supxlabel(below, fontsize=9, color=hex_of(FAINT))
    figure.supylabel(unit, fontsize=9, color=hex_of(FAINT))
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, color=hex_of(INK))
    figure.legend(*fields[0].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=10)
    _save_figure(figure, path)


NAMED = 30
"""Lines of a figure that a legend names."""


def _legible(name: str) -> str:
    """A name for a legend, from which matplotlib leaves out those that begin with ``_``."""
    return f" {short(name)}" if name.startswith("_") else short(name)


MOST_PIXELS = 2**25
"""Of the largest figure: 134 MB while it is drawn. One that would be larger has fewer dots per inch."""


def _save_figure(figure: Figure, path: str | Path) -> None:
    """A figure without pyplot draws itself with Agg, or as the suffix asks; ``tight`` grows it until no text is cut."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
    box = figure.get_tightbbox().padded(0.15)  # what savefig's own ``tight`` finds by drawing all of it once more
    dpi = min(figure.get_dpi(), math.sqrt(MOST_PIXELS / (box.width * box.height)), 2**15 / max(box.width, box.height))
    with atomic_write(path) as temporary:
        figure.savefig(temporary, bbox_inches=box, dpi=dpi)
