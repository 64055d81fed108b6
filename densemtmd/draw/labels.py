"""Label maps: in their colours, over a photo with a legend, and side by side.

Drawn with Pillow. Nothing here changes a class id: what is drawn is what was found.

Shapes: ``H``, ``W`` pixels, ``L`` labels of one labelset. A label map is (H, W) uint8: class ids, 255 = unlabelled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from PIL.PngImagePlugin import PngInfo

from densemtmd.draw.colours import FAINT, INK, PAPER
from densemtmd.draw.lettering import font_for, short
from densemtmd.errors import UserError
from densemtmd.files import atomic_write
from densemtmd.machine import let_go
from densemtmd.tasks import VOID, Colour, Labelset, OutputSpace, harmonised

SMALLEST_SHARE = 0.001
"""Legends leave out classes with a smaller share of a picture: one cannot see a speck, nor read a legend of specks."""


PART = 2**22
"""Pixels of a large picture that are worked on at a time."""

LARGEST = 2**24
"""Pixels of the largest overlay. Nobody sees more, and Pillow would hold several copies of four bytes a pixel."""


def save_indexed(path: str | Path, ids: np.ndarray, palette: Sequence[Colour], note: str | None = None) -> None:
    """Write a label map as an 8-bit palette PNG: class ids and their colours; 255 stays 255, in black.

    Args:
        path: where; written whole or not at all.
        ids: (H, W) uint8.
        palette: one (R, G, B) per label.
        note: kept in the file, for :func:`note_of`.

    Raises:
        UserError: a class id without a colour, or a place that cannot be written.
    """
    picture = Image.fromarray(_checked(ids, len(palette)))
    picture.putpalette(_table(palette).tobytes())
    save_png(path, picture, note)


NOTE = "densemtmd"
"""The keyword of a note in a PNG."""

LEVEL = 2
"""Of the compression of PNGs: a quarter of the time of the usual 6, and files that are a tenth larger."""


def save_png(path: str | Path, picture: Image.Image, note: str | None = None) -> None:
    """Write a picture whole or not at all, with a note for :func:`note_of`."""
    about = PngInfo()
    if note is not None:
        about.add_text(NOTE, note)
    with atomic_write(path) as temporary:
        picture.save(temporary, format="PNG", compress_level=LEVEL, pnginfo=about)


def note_of(path: str | Path) -> str | None:
    """The note that a PNG was written with; None where it has none, or there is no such file. The picture is not decoded."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            note = picture.info.get(NOTE)
    except (OSError, SyntaxError, ValueError):
        return None
    return note if isinstance(note, str) else None


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
    if len(stray := np.flatnonzero(_counts(ids)[labels:VOID])):
        found = int(stray[0]) + labels
        expected = f"expected 0..{labels - 1} or {VOID}"
        raise UserError(f"the label map holds the class id {found}, {expected}: is it another labelset's?")
    return ids


def _counts(ids: np.ndarray) -> np.ndarray:
    """(256,) how often each class id occurs: a part of the map at a time, of which NumPy makes eight times as large a copy."""
    parts = np.array_split(ids, max(1, math.ceil(ids.size / PART)))
    counts = np.zeros(256, np.int64)
    for part in parts:
        counts += np.bincount(part.ravel(), minlength=256)
        let_go(ids)
    return counts


def _table(palette: Sequence[Colour]) -> np.ndarray:
    """(256, 3) uint8: the colour of every class id, black where it has none."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    return table


# ----------------------------------------------------------------------------------------------------------------------
# Overlays and sheets


def overlay(image: np.ndarray, ids: np.ndarray, labelset: Labelset, opacity: float = 0.5) -> Image.Image:
    """A photo under the colours of its label map, with thin lines between classes and a legend beneath.

    Small photos are enlarged, so that the legend can be read; others keep their size, and the legend grows with them; very large ones
    (above :data:`LARGEST`) are made smaller. Unlabelled pixels are darkened. ``info["photo"]`` says which part of it is the photo: left,
    top, right and bottom in pixels.

    Args:
        image: (H, W, 3) uint8, RGB.
        ids: (H, W) uint8.
        labelset: names and colours.
        opacity: of the colours: 0 shows the photo alone, 1 the colours alone.

    Raises:
        UserError: a class id without a label, or a label map of another size than the photo.
    """
    height, width = ids.shape
    factor, share = max(1, math.ceil(480 / max(height, width))), math.ceil(math.sqrt(ids.size / LARGEST))
    whole = ids
    photo, ids = _resized(image, ids, (-(-width * factor // share), -(-height * factor // share)))
    size = _font_size(photo.width * photo.height)
    painted = _painted_at((photo.width, photo.height), image, whole, labelset, opacity)
    legend = _Legend.of(ids, labelset, size, width=painted.width)
    sheet = Image.new("RGB", (max(painted.width, legend.width), painted.height + legend.height), PAPER)
    left = (sheet.width - painted.width) // 2
    sheet.paste(painted, (left, 0))
    legend.draw(sheet, (0, painted.height))
    sheet.info["photo"] = (left, 0, left + painted.width, painted.height)
    return sheet


def painted(image: np.ndarray, ids: np.ndarray, labelset: Labelset, opacity: float = 0.5) -> np.ndarray:
    """:func:`overlay` without its legend, of the photo's own size, as the frames of a video are: (H, W, 3) uint8."""
    photo, ids = _resized(image, ids, (image.shape[1], image.shape[0]))
    return np.asarray(_painted(photo, _checked(ids, labelset.channels), labelset, opacity))


def sheet(
    image: np.ndarray,
    answers: Mapping[str, np.ndarray],
    space: OutputSpace,
    columns: int | None = None,
    opacity: float = 0.7,
) -> Image.Image:
    """A photo and what each labelset says of it, side by side, each with its title and legend; labels of one name have one colour.

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

    labelsets = []
    for name in answers:
        labelset = space[name]
        if not isinstance(labelset, Labelset):
            raise UserError(f"{name!r} names keypoints, expected a labelset: a sheet shows label maps")
        labelsets.append(labelset)
    panels = [_Panel("photo", f"{width} x {height}", _resized(image, None, panel)[0], None)]
    for labelset, (name, ids) in zip(harmonised(labelsets, all_of_them=True), answers.items(), strict=True):
        legend = _Legend.of(ids, labelset, size, width=panel[0])
        panels.append(_Panel(short(name), f"{labelset.channels} labels", _painted_at(panel, image, ids, labelset, opacity), legend))
    return _arranged(panels, columns, size)


def strip(pictures: Sequence[Image.Image], height: int = 72, width: int = 960) -> Image.Image | None:
    """Pictures side by side, ``height`` pixels high: as many of them as fit into ``width``, the first one in any case; None of none."""
    small = [picture.resize((max(1, round(picture.width * height / picture.height)), height)) for picture in pictures]
    ends = list(accumulate(one.width + 4 for one in small))
    shown = [one for one, end in zip(small, ends, strict=True) if end <= width] or small[:1]
    if not shown:
        return None
    whole = Image.new("RGB", (ends[len(shown) - 1] - 4, height), "white")
    for one, end in zip(shown, ends, strict=False):
        whole.paste(one, (end - one.width - 4, 0))
    return whole


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
        painted = _painted_at(panel, image, ids, labelset, 0.55)
        flat = Image.fromarray(colourise(small, labelset.palette))
        legend = _Legend.of(ids, labelset, size, width=panel[0])
        panels += [
            _Panel(short(title), f"{width} x {height}", photo, None),
            _Panel("", _shortened(note, 2 * panel[0] // size), flat, None),
            _Panel("", "", painted, legend),
        ]
    return _arranged(panels, 3, size)


def _shortened(text: str, length: int) -> str:
    """The end of a long text: the ends of file names tell more than their beginnings."""
    return text if len(text) <= length else "..." + text[3 - length :]


@dataclass(frozen=True)
class _Entry:
    """One line of a legend."""

    name: str
    share: float
    colour: Colour


def _entries(ids: np.ndarray, labelset: Labelset) -> list[_Entry]:
    """The labels to be seen in a label map, largest share first."""
    shares = _counts(_checked(ids, labelset.channels)) / max(1, ids.size)
    own = zip(labelset.labels, shares.tolist(), labelset.palette, strict=False)
    entries = [*(_Entry(*one) for one in own), _Entry("unlabelled", float(shares[VOID]), (0, 0, 0))]
    return sorted((e for e in entries if e.share >= SMALLEST_SHARE), key=lambda e: -e.share)


@dataclass(frozen=True)
class _Legend:
    """Swatch, name (:func:`short`) and share of each class in a grid of equal cells; made before it is drawn: others need its size."""

    entries: list[_Entry]
    size: int     # of the font, pixels; every distance is a multiple of it
    columns: int
    name: int     # width of the longest name, pixels
    share: int    # width of the widest share, pixels

    @classmethod
    def of(cls, ids: np.ndarray, labelset: Labelset, size: int, width: int) -> _Legend:
        """The legend of a label map, in as many columns as ``width`` pixels hold; wider where one name needs it."""
        entries = _entries(ids, labelset)
        name = max((_text_width(short(e.name), size) for e in entries), default=0)
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
            _write(pen, (left + round(1.55 * self.size), middle), short(entry.name), self.size, INK, "lm")
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
        empty = rows * columns - count
        return abs(math.log(shape / 1.5)) + empty / count + 10 * (4 * empty >= rows * columns)  # no sheet with an empty quarter

    return min(range(1, count + 1), key=cost)


def _resized(image: np.ndarray, ids: np.ndarray | None, size: tuple[int, int]) -> tuple[Image.Image, np.ndarray]:
    """A photo, smoothly, and its label map, by nearest neighbour, at (width, height)."""
    if ids is not None and image.shape[:2] != ids.shape:
        expected = f"expected the photo's, {image.shape[:2]}"
        raise UserError(f"the label map has (H, W) = {ids.shape}, {expected}: is it another photo's?")
    if image.shape[0] * image.shape[1] > LARGEST and (factor := min(image.shape[1] // size[0], image.shape[0] // size[1])) > 1:
        image, ids = _reduced(image, factor), None if ids is None else ids[::factor, ::factor]
    photo = Image.fromarray(image)
    small = Image.fromarray(np.zeros(image.shape[:2], np.uint8) if ids is None else ids)
    if photo.size != size:
        photo = photo.resize(size, Image.Resampling.LANCZOS)
        small = small.resize(size, Image.Resampling.NEAREST)
    return photo, np.asarray(small)


def _reduced(image: np.ndarray, factor: int) -> np.ndarray:
    """A photo a whole factor smaller, a part at a time: each pixel the mean of factor² ones."""
    rows = factor * max(1, PART // (factor * image.shape[1]))
    parts = []
    for top in range(0, len(image), rows):
        parts.append(np.asarray(Image.fromarray(image[top : top + rows]).reduce(factor)))
        let_go(image)
    return np.concatenate(parts)


def _painted(photo: Image.Image, ids: np.ndarray, labelset: Labelset, opacity: float) -> Image.Image:
    """The photo blended with the colours of its label map, a thin light line where two classes meet."""
    painted = Image.blend(photo, Image.fromarray(colourise(ids, labelset.palette)), opacity)
    edge, strength = _boundaries(ids)
    for _ in range(round(math.sqrt(ids.size) / 700) - 1):
        edge[:, 1:] |= edge[:, :-1]
        edge[1:] |= edge[:-1]
    painted.paste(PAPER, mask=Image.fromarray(edge.astype(np.uint8) * np.uint8(strength)))
    return painted


FINER = 2
"""Times as fine as a picture in which its labels are drawn smooth: lines and edges are then as soft as those of letters."""


def _painted_at(size: tuple[int, int], image: np.ndarray, ids: np.ndarray, labelset: Labelset, opacity: float) -> Image.Image:
    """:func:`_painted` at another (width, height): boundaries are smooth where the label map is not drawn pixel by pixel."""
    photo, small = _resized(image, ids, size)
    if (image.shape[1], image.shape[0]) == size:
        return _painted(photo, small, labelset, opacity)
    fine = _smooth(ids, (FINER * size[0], FINER * size[1]))
    lines, faint = _boundaries(fine)
    painted = Image.blend(photo, Image.fromarray(colourise(fine, labelset.palette)).reduce(FINER), opacity)
    lines[:, 1:] |= lines[:, :-1].copy()
    lines[1:] |= lines[:-1].copy()
    painted.paste(PAPER, mask=Image.fromarray(lines.astype(np.uint8) * np.uint8(faint)).reduce(FINER))
    return painted


def _smooth(ids: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A label map at (width, height): each pixel has the label that most of what it shows has, and between pixels the nearer one."""
    if (step := min(ids.shape[1] // size[0], ids.shape[0] // size[1])) > 1:
        ids = ids[::step, ::step]
    larger = size[0] > ids.shape[1]  # whose pixels are rounded a little, less than would lose a line of single ones
    most, best = np.zeros((size[1], size[0]), np.uint8), np.full((size[1], size[0]), VOID, np.uint8)
    for one in np.flatnonzero(_counts(ids)).tolist():
        own = Image.fromarray((ids == one).astype(np.uint8) * np.uint8(255))
        part = np.asarray((own.filter(ImageFilter.GaussianBlur(0.6)) if larger else own).resize(size, Image.Resampling.BICUBIC))
        best[part > most] = one
        np.maximum(most, part, out=most)
    return best


def _boundaries(ids: np.ndarray) -> tuple[np.ndarray, float]:
    """(H, W) where the next pixel, to the right or below, has another label, and how strong a line there is, in 0..255: faint where there
    are many, as a map as grainy as noise would be lines and nothing else."""
    edge = np.zeros(ids.shape, bool)
    edge[:, :-1] |= ids[:, 1:] != ids[:, :-1]
    edge[:-1] |= ids[1:] != ids[:-1]
    return edge, 200 * max(0.0, 1 - 4 * float(edge.mean()))


def _font_size(pixels: int) -> int:
    """The size of a font that is read as easily beneath a large photo as beneath a small one, shown at one size."""
    return max(15, round(math.sqrt(pixels) / 36))


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


@cache
def _font(size: int, file: Path | None) -> Any:
    """Pillow's own font, or that of a file, which is a little larger."""
    return ImageFont.load_default(size=size) if file is None else ImageFont.truetype(file, round(0.92 * size))


def _font_of(text: str, size: int) -> Any:
    """Pillow's own font knows little beyond ASCII, so other texts are set in one that has their letters."""
    return _font(size, None if text.isascii() else font_for(text))


def _text_width(text: str, size: int) -> int:
    return math.ceil(_font_of(text, size).getlength(text))


def _write(pen: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, colour: Colour, anchor: str) -> None:
    """Set one line of text; ``anchor`` as Pillow knows it."""
    pen.text(at, text, fill=colour, font=_font_of(text, size), anchor=anchor)
