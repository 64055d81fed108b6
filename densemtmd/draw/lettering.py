"""Names of labels and datasets as pictures show them: one line, not too long, in a font of this machine that has their letters."""

from __future__ import annotations

import logging
import unicodedata
import warnings
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

from densemtmd.errors import one_line

P = ParamSpec("P")
R = TypeVar("R")

LONGEST = 40
"""Letters of the longest name that is drawn whole."""

PLACEHOLDERS = "Last Resort High-Efficiency"
"""A font that comes with matplotlib and has a sign for every letter, which says of what script it is."""

FONTS = (
    "DejaVu Sans",  # comes with matplotlib: Latin, Greek, Cyrillic, Arabic, Hebrew, Armenian, Georgian
    "Noto Sans", "Segoe UI", "Helvetica Neue", "Arial Unicode MS",
    "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans CJK TC", "Noto Sans CJK KR", "Noto Sans JP", "Noto Sans SC", "Noto Sans KR",
    "Source Han Sans", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Droid Sans Fallback", "IPAexGothic", "Takao Gothic", "NanumGothic",
    "Microsoft YaHei", "SimHei", "Yu Gothic", "Meiryo", "MS Gothic", "Malgun Gothic", "PingFang SC", "Hiragino Sans", "Hiragino Sans GB",
    "Heiti TC", "Apple SD Gothic Neo",
    "Noto Sans Arabic", "Noto Naskh Arabic", "Noto Sans Hebrew", "Geeza Pro",
    "Noto Sans Devanagari", "Lohit Devanagari", "Nirmala UI", "Mangal", "Kohinoor Devanagari", "Noto Sans Bengali", "Lohit Bengali",
    "Noto Sans Tamil", "Lohit Tamil", "Noto Sans Telugu", "Noto Sans Gujarati", "Noto Sans Gurmukhi", "Noto Sans Kannada",
    "Noto Sans Malayalam", "Noto Sans Sinhala",
    "Noto Sans Thai", "Loma", "Garuda", "Leelawadee UI", "Thonburi", "Noto Sans Lao", "Noto Sans Khmer", "Noto Sans Myanmar",
    "Noto Sans Ethiopic", "Noto Sans Armenian", "Noto Sans Georgian",
    "Noto Sans Symbols", "Noto Sans Symbols 2", "Noto Emoji", "Symbola",
)  # fmt: skip
"""Fonts by family, in the order in which a letter is looked for."""


def width_of(text: str) -> int:
    """How wide a text is, in letters: those of Chinese, Japanese and Korean are twice as wide as others.

    >>> width_of("car"), width_of("自動車")
    (3, 6)
    """
    return len(text) if text.isascii() else sum(1 + (unicodedata.east_asian_width(letter) in "WF") for letter in text)


def short(name: str, most: int = LONGEST) -> str:
    """A name of one line that is at most so wide; of a longer one the middle is left out, since its end tells as much as its beginning.

    >>> short("a car"), short("a very long name of a label", 16)
    ('a car', 'a very l…a label')
    """
    text = one_line(name)
    if width_of(text) <= most:
        return text
    ends: list[str] = []
    for part, room in ((text, most // 2), (text[::-1], most - most // 2 - 1)):
        kept = 0
        while kept < len(part) and width_of(part[: kept + 1]) <= room:
            kept += 1
        ends.append(part[:kept])
    return f"{ends[0]}…{ends[1][::-1]}"


@cache
def installed() -> dict[str, Path]:
    """The files of those of :data:`FONTS` that are there, and of :data:`PLACEHOLDERS`, by family."""
    from matplotlib.font_manager import fontManager

    files: dict[str, Path] = {}
    for font in fontManager.ttflist:
        if font.style == "normal" and font.weight in (400, "normal", "regular"):
            files.setdefault(font.name, Path(font.fname))
    return {family: files[family] for family in (*FONTS, PLACEHOLDERS) if family in files}


@cache
def _letters(file: Path) -> frozenset[int]:
    """The letters that a font has."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(file)).get_charmap())


@cache
def font_for(text: str) -> Path:
    """The file of the first font that has all letters of a text, or of the one that lacks the fewest."""
    files = [file for family, file in installed().items() if family != PLACEHOLDERS]
    return min(files, key=lambda file: len({ord(letter) for letter in text} - _letters(file)))


def lettered(draw: Callable[P, R]) -> Callable[P, R]:
    """Matplotlib figures that ``draw`` makes have every letter in a font that has it, or as a placeholder, without a word; a ``$`` in a
    name is a dollar, and begins no formula."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> R:
        import matplotlib

        finding = logging.getLogger("matplotlib.font_manager")  # which tells of every font without bold letters
        before = finding.level
        with matplotlib.rc_context({"font.family": [*installed()], "text.parse_math": False}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            finding.setLevel(logging.ERROR)
            try:
                return draw(*args, **kwargs)
            finally:
                finding.setLevel(before)

    return drawn
