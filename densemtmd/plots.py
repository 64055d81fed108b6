"""The pictures that densemtmd shows: label maps in their colours, overlays with a legend, and the figures of a run.

Label maps and photos are drawn with Pillow; figures with matplotlib's objects alone, so that no window system and no
global state is touched. Nothing here changes a class id: what is drawn is what was found.

Shapes: ``H``, ``W`` pixels, ``L`` labels of one labelset. A label map is (H, W) uint8: class ids, 255 = unlabelled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from densemtmd.datasets.hands.sets import HandSet
from densemtmd.errors import UserError
from densemtmd.evaluation import per_class, scores
from densemtmd.files import atomic_write
from densemtmd.keypoints import within
from densemtmd.tasks import VOID, Colour, Labelset, OutputSpace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SMALLEST_SHARE = 0.001
"""Legends leave out classes with a smaller share of a picture: one cannot see a speck, nor read a legend of specks."""

INK, FAINT, LINE, PAPER = (31, 35, 40), (110, 118, 129), (230, 232, 235), (255, 255, 255)


# ----------------------------------------------------------------------------------------------------------------------
# Label maps


def save_indexed(path: str | Path, ids: np.ndarray, palette: Sequence[Colour]) -> None:
    """Write a label map as an 8-bit palette PNG: class ids and their colours; 255 stays 255, in black.

    Args:
        path: where; written whole or not at all.
        ids: (H, W) uint8.
        palette: one (R, G, B) per label.

    Raises:
        UserError: a class id without a colour, or a place that cannot be written.
    """
    picture = Image.fromarray(_checked(ids, len(palette)))
    picture.putpalette(_table(palette).tobytes())
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG")


def colourise(ids: np.ndarray, palette: Sequence[Colour]) -> np.ndarray:
    """(H, W, 3) uint8: a label map in the colours of its palette, 255 black.

    Raises:
        UserError: a class id without a colour.

    >>> colourise(np.array([[1, 255]], np.uint8), [(9, 9, 9), (255, 0, 0)]).tolist()
    [[[255, 0, 0], [0, 0, 0]]]
    """
    return _table(palette)[_checked(ids, len(palette))]


def class_shares(ids: np.ndarray, labelset: Labelset) -> dict[str, float]:
    """The share of each label in a label map, largest first, without those below ``SMALLEST_SHARE``.

    Pixels of 255 count as ``unlabelled``.

    Raises:
        UserError: a class id without a label.

    >>> class_shares(np.array([[1, 1, 0, 255]], np.uint8), Labelset("demo", ["car", "road"]))
    {'road': 0.5, 'car': 0.25, 'unlabelled': 0.25}
    """
    return {entry.name: entry.share for entry in _entries(ids, labelset)}


def _checked(ids: np.ndarray, labels: int) -> np.ndarray:
    """``ids``, if it is a label map of so many labels."""
    if ids.ndim != 2 or ids.dtype != np.uint8:
        raise UserError(f"expected a label map of shape (H, W) and type uint8, found {ids.shape} and {ids.dtype}")
    if len(stray := np.flatnonzero(np.bincount(ids.ravel(), minlength=256)[labels:VOID])):
        found = int(stray[0]) + labels
        expected = f"expected 0..{labels - 1} or {VOID}"
        raise UserError(f"the label map holds the class id {found}, {expected}: is it another labelset's?")
    return ids


def _table(palette: Sequence[Colour]) -> np.ndarray:
    """(256, 3) uint8: the colour of every class id, black where it has none."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table


# ----------------------------------------------------------------------------------------------------------------------
# Overlays and sheets


def overlay(image: np.ndarray, ids: np.ndarray, labelset: Labelset, opacity: float = 0.5) -> Image.Image:
    """A photo under the colours of its label map, with thin lines between classes and a legend beneath.

    Small photos are enlarged, so that the legend can be read; others keep their size, and the legend grows with them.
    Unlabelled pixels are darkened.

    Args:
        image: (H, W, 3) uint8, RGB.
        ids: (H, W) uint8.
        labelset: names and colours.
        opacity: of the colours: 0 shows the photo alone, 1 the colours alone.

    Raises:
        UserError: a class id without a label, or a label map of another size than the photo.
    """
    height, width = ids.shape
    factor = max(1, math.ceil(480 / max(height, width)))
    photo, ids = _resized(image, ids, (width * factor, height * factor))
    size = _font_size(photo.width * photo.height)
    painted = _painted(photo, ids, labelset, opacity)
    legend = _Legend.of(ids, labelset, size, width=painted.width)
    sheet = Image.new("RGB", (max(painted.width, legend.width), painted.height + legend.height), PAPER)
    sheet.paste(painted, ((sheet.width - painted.width) // 2, 0))
    legend.draw(sheet, (0, painted.height))
    return sheet


def sheet(
    image: np.ndarray,
    answers: Mapping[str, np.ndarray],
    space: OutputSpace,
    columns: int | None = None,
    opacity: float = 0.7,
) -> Image.Image:
    """A photo and what each labelset says of it, side by side, each with its title and legend.

    Args:
        image: (H, W, 3) uint8, RGB.
        answers: (H, W) uint8 by the name of the labelset, shown in this order.
        space: holds the labelsets.
        columns: panels side by side; without it, as many as make the sheet about half again as wide as high.
        opacity: of the colours over the photo.

    Raises:
        UserError: an answer of no labelset of the space, or one that does not fit the photo or the labelset.
    """
    height, width = image.shape[:2]
    # Panels of equal area whatever the photo's shape; the second bound keeps strips from running off the screen.
    factor = min(math.sqrt(220_000 / (width * height)), 1000 / max(width, height))
    panel = max(1, round(width * factor)), max(1, round(height * factor))
    count = len(answers) + 1
    columns = columns or _columns(count, panel)
    size = max(_font_size(panel[0] * panel[1]), round(panel[0] * min(columns, count) / 100))

    panels = [_Panel("photo", f"{width} x {height}", _resized(image, None, panel)[0], None)]
    for name, ids in answers.items():
        labelset = space[name]
        if not isinstance(labelset, Labelset):
            raise UserError(f"{name!r} names keypoints, expected a labelset: a sheet shows label maps")
        legend = _Legend.of(ids, labelset, size, width=panel[0])
        photo, small = _resized(image, ids, panel)
        panels.append(_Panel(name, f"{labelset.channels} labels", _painted(photo, small, labelset, opacity), legend))
    return _arranged(panels, columns, size)


@dataclass(frozen=True)
class _Entry:
    """One line of a legend."""

    name: str
    share: float
    colour: Colour


def _entries(ids: np.ndarray, labelset: Labelset) -> list[_Entry]:
    """The labels to be seen in a label map, largest share first."""
    shares = np.bincount(_checked(ids, labelset.channels).ravel(), minlength=256) / max(1, ids.size)
    own = zip(labelset.labels, shares.tolist(), labelset.palette, strict=False)
    entries = [*(_Entry(*one) for one in own), _Entry("unlabelled", float(shares[VOID]), (0, 0, 0))]
    return sorted((e for e in entries if e.share >= SMALLEST_SHARE), key=lambda e: -e.share)


@dataclass(frozen=True)
class _Legend:
    """Swatch, name and share of each class in a grid of equal cells; made before it is drawn: others need its size."""

    entries: list[_Entry]
    size: int     # of the font, pixels; every distance is a multiple of it
    columns: int
    name: int     # width of the longest name, pixels
    share: int    # width of the widest share, pixels

    @classmethod
    def of(cls, ids: np.ndarray, labelset: Labelset, size: int, width: int) -> _Legend:
        """The legend of a label map, in as many columns as ``width`` pixels hold; wider where one name needs it."""
        entries = _entries(ids, labelset)
        name = max((_text_width(e.name, size) for e in entries), default=0)
        share = max((_text_width(_percent(e.share), size) for e in entries), default=0)
        legend = cls(entries, size, 1, name, share)
        fit = max(1, (width - 2 * legend.margin + legend.gap) // (legend.cell + legend.gap))
        rows = math.ceil(len(entries) / fit)
        return cls(entries, size, math.ceil(len(entries) / max(1, rows)), name, share)

    @property
    def margin(self) -> int:
        return round(0.9 * self.size)

    @property
    def gap(self) -> int:
        return round(1.6 * self.size)

    @property
    def cell(self) -> int:
        return round(1.55 * self.size) + self.name + self.size + self.share

    @property
    def width(self) -> int:
        return 2 * self.margin + self.columns * (self.cell + self.gap) - self.gap

    @property
    def line(self) -> int:
        return round(1.6 * self.size)

    @property
    def height(self) -> int:
        return 2 * round(0.7 * self.size) + math.ceil(len(self.entries) / max(1, self.columns)) * self.line

    def draw(self, canvas: Image.Image, corner: tuple[int, int]) -> None:
        """Draw it with its upper left corner at (x, y)."""
        pen = ImageDraw.Draw(canvas)
        for i, entry in enumerate(self.entries):
            left = corner[0] + self.margin + i % self.columns * (self.cell + self.gap)
            middle = corner[1] + round(0.7 * self.size) + i // self.columns * self.line + self.line // 2
            half = round(0.5 * self.size)
            swatch = (left, middle - half, left + 2 * half, middle + half)
            pen.rounded_rectangle(swatch, radius=self.size // 5, fill=entry.colour, outline=FAINT)
            _write(pen, (left + round(1.55 * self.size), middle), entry.name, self.size, INK, "lm")
            _write(pen, (left + self.cell, middle), _percent(entry.share), self.size, FAINT, "rm")


@dataclass(frozen=True)
class _Panel:
    """One field of a sheet."""

    title: str
    note: str
    picture: Image.Image
    legend: _Legend | None


def _arranged(panels: Sequence[_Panel], columns: int, size: int) -> Image.Image:
    """Panels row by row on one sheet; a row is as high as its highest panel, a column as wide as the widest of all."""
    gap, head, title = round(1.2 * size), round(2.2 * size), round(1.3 * size)
    columns = min(columns, len(panels))
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heads = [_text_width(p.title, title) + size + _text_width(p.note, size) for p in panels]
    wide = max(*heads, *(p.picture.width for p in panels), *(p.legend.width for p in panels if p.legend))
    high = [max(head + p.picture.height + (p.legend.height if p.legend else size) for p in row) for row in rows]
    canvas = Image.new("RGB", (gap + columns * (wide + gap), sum(high) + gap), PAPER)
    pen = ImageDraw.Draw(canvas)
    top = round(0.4 * size)
    for row, height in zip(rows, high, strict=True):
        for i, panel in enumerate(row):
            left = gap + i * (wide + gap)
            base = top + round(0.68 * head)
            _write(pen, (left, base), panel.title, title, INK, "ls")
            _write(pen, (left + _text_width(panel.title, title) + size, base), panel.note, size, FAINT, "ls")
            canvas.paste(panel.picture, (left, top + head))
            if panel.legend:
                panel.legend.draw(canvas, (left - panel.legend.margin, top + head + panel.picture.height))
        top += height
    return canvas


def _columns(count: int, panel: tuple[int, int]) -> int:
    """How many columns make a sheet nearest to 3:2 and with few empty fields; a legend has about 110 pixels."""

    def cost(columns: int) -> float:
        rows = math.ceil(count / columns)
        shape = columns * panel[0] / (rows * (panel[1] + 110))
        return abs(math.log(shape / 1.5)) + (rows * columns - count) / count

    return min(range(1, count + 1), key=cost)


def _resized(image: np.ndarray, ids: np.ndarray | None, size: tuple[int, int]) -> tuple[Image.Image, np.ndarray]:
    """A photo, smoothly, and its label map, by nearest neighbour, at (width, height)."""
    if ids is not None and image.shape[:2] != ids.shape:
        expected = f"expected the photo's, {image.shape[:2]}"
        raise UserError(f"the label map has (H, W) = {ids.shape}, {expected}: is it another photo's?")
    photo = Image.fromarray(image)
    small = Image.fromarray(np.zeros(image.shape[:2], np.uint8) if ids is None else ids)
    if photo.size != size:
        photo = photo.resize(size, Image.Resampling.LANCZOS)
        small = small.resize(size, Image.Resampling.NEAREST)
    return photo, np.asarray(small)


def _painted(photo: Image.Image, ids: np.ndarray, labelset: Labelset, opacity: float) -> Image.Image:
    """The photo blended with the colours of its label map, a thin light line where two classes meet."""
    painted = Image.blend(photo, Image.fromarray(colourise(ids, labelset.palette)), opacity)
    edge = np.zeros(ids.shape, bool)
    edge[:, :-1] |= ids[:, 1:] != ids[:, :-1]
    edge[:-1] |= ids[1:] != ids[:-1]
    for _ in range(round(math.sqrt(ids.size) / 700) - 1):
        edge[:, 1:] |= edge[:, :-1]
        edge[1:] |= edge[:-1]
    # Faint where there are many: a map as grainy as noise would be lines and nothing else.
    strength = 200 * max(0.0, 1 - 4 * edge.mean())
    painted.paste(PAPER, mask=Image.fromarray(edge.astype(np.uint8) * np.uint8(strength)))
    return painted


def _font_size(pixels: int) -> int:
    """The size of a font that is read as easily beneath a large photo as beneath a small one, shown at one size."""
    return max(15, round(math.sqrt(pixels) / 36))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


@cache
def _font(size: int, ascii_only: bool) -> Any:
    """Pillow's own font; it knows little beyond ASCII, so other texts are set in the one that comes with matplotlib."""
    if ascii_only:
        return ImageFont.load_default(size=size)
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), round(0.92 * size))


def _text_width(text: str, size: int) -> int:
    return math.ceil(_font(size, text.isascii()).getlength(text))


def _write(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, colour: Colour, anchor: str) -> None:
    """Set one line of text; ``anchor`` as Pillow knows it."""
    pen.text(at, text, fill=colour, font=_font(size, text.isascii()), anchor=anchor)


# ----------------------------------------------------------------------------------------------------------------------
# Figures of a run

SCORES = {"global": "Global, validation, %", "average": "Average, validation, %", "iou": "IoU, validation, %"}
"""The scores by their names in ``scores.json``, and what figures call them."""

ERRORS = {"mm": "mean 3D error, validation, mm", "px": "mean 2D error, validation, px"}
"""The same of keypoints."""


def confusion_figure(matrix: np.ndarray, labelset: Labelset, path: str | Path) -> None:
    """Draw what became of the pixels of each label: a row per true label, which sums to 100 %, a column per answer.

    At the right of each row: the label's share of all labelled pixels, and its IoU. A label that never occurs has an
    empty row. Numbers below 0.5 % are left out.

    Args:
        matrix: (L, L) counts of pixels; rows are the true labels, columns the answers.
        labelset: names the labels.
        path: of the figure; its suffix says the format (.png, .svg, .pdf). Written whole or not at all.

    Raises:
        UserError: a matrix of another size than the labelset, or a place that cannot be written.
    """
    from matplotlib.figure import Figure

    count = labelset.channels
    if matrix.shape != (count, count):
        expected = f"expected {(count, count)}, a row and a column per label"
        raise UserError(f"the confusion matrix of {labelset.name!r} has the shape {matrix.shape}, {expected}")
    counts = np.asarray(matrix, float)
    pixels = counts.sum(1)
    percent = 100 * np.divide(counts, pixels[:, None], out=np.zeros_like(counts), where=pixels[:, None] > 0)
    iou = per_class(counts)[1]
    total = scores([counts])

    cell = 0.36  # inches, whatever the number of labels: the numbers fit, and the figure grows
    side, names = max(count * cell, 1.8), 0.08 * max(map(len, labelset.labels))
    left, top, right, bottom = 0.6 + names, 1.0 + 0.75 * names, 1.6, 0.2
    width, height = left + side + right, top + side + bottom
    figure = Figure(figsize=(width, height), dpi=150)
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    for (row, column), value in np.ndenumerate(percent):
        if value >= 0.5:
            colour = "white" if value > 55 else _hex(INK)
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=colour)

    inch = count / side  # in units of the axes, where a cell is 1
    margin: dict[str, Any] = {"ha": "right", "fontsize": 8, "color": _hex(FAINT)}
    share_at, iou_at = (count - 0.5 + x * inch for x in (0.75, 1.35))
    axes.text(share_at, -0.5 - 0.08 * inch, "share", va="bottom", **margin)
    axes.text(iou_at, -0.5 - 0.08 * inch, "IoU", va="bottom", **margin)
    for row in range(count):
        share = f"{100 * pixels[row] / total.pixels:.1f} %" if pixels[row] else "none"
        axes.text(share_at, row, share, va="center", **margin)
        axes.text(iou_at, row, f"{iou[row]:.1f}" if pixels[row] else "–", va="center", **margin)

    axes.set_xticks(range(count), labelset.labels, rotation=50, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(count), labelset.labels)
    axes.set_xticks(np.arange(count + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(count + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=_hex(LINE), linewidth=0.6)
    axes.tick_params(which="both", length=0, labelsize=9, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)

    said = total.line() if total.pixels else "no labelled pixel"
    read = "of 100 pixels of the label at the left, so many got the label above"
    for i, (text, size, ink) in enumerate(((labelset.name, 12, INK), (said, 9, FAINT), (read, 8, FAINT))):
        figure.text(0, 1 - 0.21 * i / height, text, fontsize=size, va="top", color=_hex(ink))
    _save_figure(figure, path)


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

    figure = Figure(figsize=(11, 7), dpi=150, layout="constrained")
    axes = figure.subplots(2, 2, sharex=True).ravel()
    epochs, datasets = series("epoch"), list(history[-1]["scores"]["datasets"])
    colours = matplotlib.colormaps["tab10" if len(datasets) <= 10 else "tab20"].colors  # type: ignore[attr-defined]
    dots: dict[str, Any] = {"marker": "o" if len(history) < 30 else None, "markersize": 3}
    axes[0].plot(epochs, series("loss"), color=_hex(INK), linewidth=2, **dots)
    axes[0].set_title("training loss", loc="left", fontsize=11)
    shown = ERRORS if "mm" in history[-1]["scores"]["pooled"] else SCORES
    for one, (score, title) in zip(axes[1:], shown.items(), strict=False):
        for i, name in enumerate(datasets):
            line = series("scores", "datasets", name, score)
            one.plot(epochs, line, color=colours[i % len(colours)], linewidth=1.2, label=name, **dots)
        if len(datasets) > 1:
            line = series("scores", "pooled", score)
            one.plot(epochs, line, color=_hex(INK), linewidth=2.4, label="all together", **dots)
        one.set_title(title, loc="left", fontsize=11)
    for one in axes[1 + len(shown) :]:
        one.remove()
    axes = axes[: 1 + len(shown)]
    for one in axes:
        one.grid(color=_hex(LINE), linewidth=0.8)
        one.spines[["top", "right"]].set_visible(False)
        one.xaxis.set_major_locator(MaxNLocator(integer=True))
    for one in axes[2:]:
        one.set_xlabel("epoch")
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside right upper", frameon=False, fontsize=10)
    _save_figure(figure, path)


def correlation_figure(matrix: np.ndarray, space: OutputSpace, path: str | Path) -> None:
    """Draw the label correlation matrix block by block, as the paper's Figure 6: a row per target label, darker cells are higher.

    Where a label is seen as itself is the diagonal; the highest cell of each row in each other labelset's block has a frame.

    Args:
        matrix: (C, C) in [0, 1]; rows of NaN, of labels that never occur, are hatched.
        space: names labelsets and labels.
        path: of the figure; its suffix says the format. Written whole or not at all.

    Raises:
        UserError: a matrix of another size than the space, or a place that cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    count = space.channels
    if matrix.shape != (count, count):
        expected = f"expected {(count, count)}, a row and a column per label"
        raise UserError(f"the label correlation matrix has the shape {matrix.shape}, {expected}")
    labels = [label for task in space.tasks for label in task.channel_names]
    cell = 0.19  # inches: names of 8 points stand beside each other, at 68 labels too
    side, names = max(count * cell, 2.4), 0.062 * max(map(len, labels))
    left, top, bottom, right = 0.5 + names, 1.1 + names, 0.2, 1.0
    width, height = left + side + right, top + side + bottom
    figure = Figure(figsize=(width, height), dpi=150)
    axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
    image = axes.imshow(np.ma.masked_invalid(matrix), cmap="gist_heat_r", vmin=0, vmax=1)
    inch = count / side  # in units of the axes, where a cell is 1
    blocks = [(task.name, space.slice(task.name)) for task in space.tasks]
    for row, values in enumerate(matrix):
        if np.isnan(values).any():
            axes.add_patch(Rectangle((-0.5, row - 0.5), count, 1, fill=False, hatch="////", edgecolor=_hex(LINE), linewidth=0))
            continue
        for _, own in blocks:
            if not own.start <= row < own.stop:
                best = own.start + int(values[own].argmax())
                axes.add_patch(Rectangle((best - 0.42, row - 0.42), 0.84, 0.84, fill=False, edgecolor="#2a9d8f", linewidth=0.9))
    for name, own in blocks:
        middle = (own.start + own.stop - 1) / 2
        for edge in (own.start - 0.5, own.stop - 0.5):
            axes.axhline(edge, color=_hex(INK), linewidth=0.9)
            axes.axvline(edge, color=_hex(INK), linewidth=0.9)
        bold: dict[str, Any] = {"fontsize": 9, "fontweight": "bold", "color": _hex(INK)}
        axes.text(middle, -0.5 - (0.15 + names) * inch, name, ha="center", va="bottom", **bold)
        axes.text(-0.5 - (0.15 + names) * inch, middle, name, ha="right", va="center", rotation=90, **bold)
    axes.set_xticks(range(count), labels, rotation=90)
    axes.set_yticks(range(count), labels)
    axes.tick_params(length=0, labelsize=7.5, top=True, labeltop=True, bottom=False, labelbottom=False)
    axes.spines[:].set_visible(False)
    bar = figure.colorbar(image, cax=figure.add_axes(((left + side + 0.2) / width, bottom / height, 0.12 / width, min(side, 2.5) / height)))
    bar.ax.tick_params(labelsize=8, length=0)
    bar.outline.set_visible(False)
    read = "what the network predicts, on average, for pixels of the label at the left; framed: the highest of each block"
    for i, (text, size, ink) in enumerate((("label correlation matrix", 12, INK), (read, 8, FAINT))):
        figure.text(0, 1 - 0.19 * i / height, text, fontsize=size, va="top", color=_hex(ink))
    _save_figure(figure, path)


def _hex(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def _save_figure(figure: Figure, path: str | Path) -> None:
    """A figure without pyplot draws itself with Agg, or as the suffix asks; ``tight`` grows it until no text is cut."""
    with atomic_write(path) as temporary:
        figure.savefig(temporary, bbox_inches="tight", pad_inches=0.15)


# ----------------------------------------------------------------------------------------------------------------------
# Figures of data

MARKS: dict[str, Any] = {
    "train": {"marker": "o", "color": _hex(INK)},
    "val": {"marker": "o", "markerfacecolor": "none", "color": _hex(INK)},
    "test": {"marker": "D", "color": "#d1661b", "markersize": 5},
}
"""How the splits are drawn in figures of data."""


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
    figure = Figure(figsize=(9.5, 1.3 + 0.3 * len(rows)), dpi=150, layout="constrained")
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
    left.set_title("share of the labelled pixels (of void: of all)", loc="left", fontsize=9, color=_hex(FAINT))
    right.set_title("share of the pictures", loc="left", fontsize=9, color=_hex(FAINT))
    left.set_yticks(range(len(rows)), [name for name, _, _ in rows])
    left.set_ylim(len(rows) - 0.5, -0.5)
    for axes in (left, right):
        axes.grid(color=_hex(LINE), linewidth=0.8)
        axes.spines[:].set_visible(False)
        axes.tick_params(which="both", length=0, labelsize=9)
    left.tick_params(axis="y", pad=20)
    for row, (_, colour, _) in enumerate(rows):
        swatch = {"marker": "s", "markersize": 9, "markeredgecolor": _hex(FAINT), "markeredgewidth": 0.5, "clip_on": False}
        left.plot([-0.025], [row], color=_hex(colour), transform=left.get_yaxis_transform(), **swatch)
    figure.suptitle(labelset.name, x=0.01, ha="left", fontsize=12)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    _save_figure(figure, path)


def preview(pictures: Sequence[tuple[str, str, np.ndarray, np.ndarray]], labelset: Labelset) -> Image.Image:
    """Pictures of a dataset, a row each: the picture, its labels, both over each other with a legend.

    Args:
        pictures: of each its title, a note, the photo (H, W, 3) uint8, and its labels (H, W) uint8.
        labelset: of the labels.

    Raises:
        UserError: no picture, a class id without a label, or labels of another size than their picture.
    """
    if not pictures:
        raise UserError(f"there is no picture of {labelset.name!r} to preview")
    panels = []
    size = 15
    for title, note, image, ids in pictures:
        height, width = ids.shape
        factor = min(math.sqrt(130_000 / (width * height)), 700 / max(width, height))
        panel = max(1, round(width * factor)), max(1, round(height * factor))
        photo, small = _resized(image, ids, panel)
        painted = _painted(photo, small, labelset, 0.55)
        flat = Image.fromarray(colourise(small, labelset.palette))
        legend = _Legend.of(ids, labelset, size, width=panel[0])
        panels += [
            _Panel(title, f"{width} x {height}", photo, None),
            _Panel("", _shortened(note, 2 * panel[0] // size), flat, None),
            _Panel("", "", painted, legend),
        ]
    return _arranged(panels, 3, size)


def _shortened(text: str, length: int) -> str:
    """The end of a long text: the ends of file names tell more than their beginnings."""
    return text if len(text) <= length else "..." + text[3 - length :]


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
    wide, row = 1.75, 0.24  # inches
    height = 0.75 + 0.2 * lines + row * max(labelset.channels for labelset in labelsets)
    figure = Figure(figsize=(wide * len(labelsets), height), dpi=150)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, wide * len(labelsets)), ylim=(height, 0))
    axes.axis("off")
    axes.text(0.05, 0.15, title, fontsize=9, va="center", color=_hex(FAINT))
    for column, (labelset, note) in enumerate(zip(labelsets, notes, strict=True)):
        x = 0.05 + wide * column
        axes.text(x, 0.45, labelset.name, fontsize=11, va="center", color=_hex(INK), weight="bold")
        axes.text(x, 0.58, note, fontsize=8, va="top", color=_hex(FAINT), linespacing=1.35)
        for i, (label, colour) in enumerate(zip(labelset.labels, labelset.palette, strict=True)):
            y = 0.75 + 0.2 * lines + row * i
            axes.add_patch(Rectangle((x, y - 0.08), 0.22, 0.16, facecolor=_hex(colour), edgecolor=_hex(FAINT), linewidth=0.4))
            axes.text(x + 0.3, y, label, fontsize=9, va="center", color=_hex(INK))
    _save_figure(figure, path)


# ----------------------------------------------------------------------------------------------------------------------
# Hands

FINGERS: tuple[Colour, ...] = ((235, 235, 235), (255, 93, 71), (255, 196, 0), (87, 214, 71), (66, 190, 255), (205, 120, 255))
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
        colour = FINGERS[max(hands.fingers[a], hands.fingers[b])]
        pen.line([places[a], places[b]], fill=INK, width=round(1.4 * size))
        pen.line([places[a], places[b]], fill=colour, width=round(0.8 * size))
    for joint in np.argsort(-uvd[:, 2]):
        x, y = places[joint]
        pen.ellipse((x - size, y - size, x + size, y + size), fill=FINGERS[hands.fingers[joint]], outline=INK, width=1)
    if truth is not None:
        for x, y in (truth[:, :2] - middle + margin) * zoom:
            pen.ellipse((x - 1.6 * size, y - 1.6 * size, x + 1.6 * size, y + 1.6 * size), outline=PAPER, width=1)
    font: Any = ImageFont.load_default(size=18)
    if title:
        pen.text((8, 6), title, fill=PAPER, font=font, stroke_width=2, stroke_fill=INK)
    x = 8.0
    for name, colour in zip(FINGER_NAMES, FINGERS, strict=True):
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
        axes.plot(thresholds, within(error, thresholds), linewidth=1.8, label=f"{name}, mean {np.nanmean(error):.2f} mm")
    axes.set_xlim(0, farthest)
    axes.set_ylim(0, 100)
    axes.set_xlabel("error of the worst keypoint at most, mm")
    axes.set_title("share of the frames, %", loc="left", fontsize=11)
    axes.grid(color=_hex(LINE), linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)
    _save_figure(figure, path)


# ----------------------------------------------------------------------------------------------------------------------
# Figures of comparisons


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
        axes.plot([value for value, _, _ in drawn], at, "os^Dv*"[i % 6], color=colour, markersize=5.5, label=row)
    for d in range(1, len(datasets)):
        axes.axhline(band * d, color=_hex(LINE), linewidth=0.8)
    axes.axvline(0, color=_hex(INK), linewidth=1.2, zorder=1)
    axes.set_yticks([band * (d + 0.5) for d in range(len(datasets))], datasets)
    axes.set_ylim(height, 0)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -0.1 * (high - low)), max(high, 0.1 * (high - low)))
    axes.grid(axis="x", color=_hex(LINE), linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=10)
    axes.set_xlabel(f"{unit} above {baseline}; lines are 95 % intervals", fontsize=9, color=_hex(FAINT))
    top: dict[str, Any] = {"xycoords": axes.transAxes, "textcoords": "offset points", "va": "bottom", "fontsize": 9, "color": _hex(FAINT)}
    left, right = ("better", "worse") if less_is_better else ("worse", "better")
    axes.annotate(f"{left} than {baseline}", (0, 1), xytext=(0, 3), ha="left", **top)
    axes.annotate(f"{right} than {baseline}", (1, 1), xytext=(0, 3), ha="right", **top)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=1.6, ncols=min(6, len(found)), frameon=False, fontsize=10)
    axes.annotate(title, (0, 1), xytext=(0, 22 + 18 * math.ceil(len(found) / 6)), ha="left", **{**top, "fontsize": 12, "color": _hex(INK)})
    _save_figure(figure, path)


def label_curve_figure(lines: Mapping[str, Mapping[float, tuple[float, float]]], path: str | Path, title: str) -> None:
    """Draw a score over the share of a dataset's pictures that were labelled: a line for it alone, and one for it with others.

    Args:
        lines: of each line, by share in (0, 1], the mean score in percent and its standard deviation over seeds (NaN for one seed).
        path: of the figure; its suffix says the format (.png, .svg, .pdf). Written whole or not at all.
        title: above it.

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
        axes.plot(at, mean, color=colour, marker=marker, linewidth=2, markersize=6, label=name)
    axes.set_xticks(range(len(shares)), [f"{share:.0%}" for share in shares])
    axes.set_xlabel("of its labelled pictures", fontsize=10, color=_hex(FAINT))
    axes.set_ylabel("IoU, percent; shaded: one standard deviation", fontsize=9, color=_hex(FAINT))
    axes.grid(color=_hex(LINE), linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelsize=10)
    axes.legend(loc="lower right", frameon=False, fontsize=10)
    axes.set_title(title, loc="left", fontsize=12, color=_hex(INK))
    _save_figure(figure, path)
