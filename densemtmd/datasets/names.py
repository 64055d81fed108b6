"""Names of files as different systems and people write them: what is no file of anybody's, accents, and lists of pictures.

A name has one form within the project, that of Unicode's NFC, whatever the disk has: macOS and some archives keep ``é`` as an ``e`` and an
accent (NFD), and two names that look the same on screen would then be two.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath

LEFT_BY_SYSTEMS = frozenset(
    ("thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found")
)
"""Files and folders that Windows, macOS and file servers leave everywhere, in lower case."""

HEADINGS = frozenset(
    ("image", "images", "img", "picture", "pictures", "photo", "file", "files", "filename", "name", "path", "id", "key", "label", "labels",
     "mask", "masks", "annotation", "split", "set")
)  # fmt: skip
"""Words of a list's first line that name its columns."""


def is_left_by_a_system(relative: PurePath) -> bool:
    """Whether a path below a dataset's folder is hidden, or one of those that systems leave: nobody's picture."""
    return any(part.startswith(".") or part.lower() in LEFT_BY_SYSTEMS or part == "Icon\r" for part in relative.parts)


def composed(text: str) -> str:
    """A name with its accents in one form, NFC."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def forms(text: str) -> list[str]:
    """A name in the forms in which a disk may have it, the given one first."""
    return list(dict.fromkeys((text, composed(text), unicodedata.normalize("NFD", text))))


def lies_in(path: Path, folders: Iterable[Path]) -> bool:
    """Whether a file lies in one of some folders, wherever links lead, and is not hidden there: then a message may quote it."""
    try:
        real = path.resolve()
        below = [real.relative_to(folder.resolve()) for folder in folders if real.is_relative_to(folder.resolve())]
    except (OSError, RuntimeError):  # links that go round in circles
        return False
    return any(not any(part.startswith(".") for part in relative.parts) for relative in below)


class Names:
    """Which picture a line of a list means: lists name pictures by key, by path, or by the paths of picture and labels in two columns.

    Args:
        paths: of each key, where its picture and its labels lie below the dataset's folder.

    >>> names = Names({"p0": [PurePath("images/p0.jpg"), PurePath("labels/p0.png")]})
    >>> [names.key(line) for line in ("p0", "p0.jpg", r"images\\p0.jpg", "/data/mine/images/p0.jpg labels/p0.png", "p1.jpg")]
    ['p0', 'p0', 'p0', 'p0', None]
    """

    def __init__(self, paths: Mapping[str, Iterable[PurePath]]) -> None:
        self.keys = paths
        self.whole: dict[str, str | None] = {}  # of each path the key; without its suffix too
        self.ends: dict[str, str | None] = {}   # and of what each ends in; None: of several
        for key, of_it in paths.items():
            for path in of_it:
                for name in dict.fromkeys((path, path.with_suffix(""))):
                    parts = tuple(map(composed, name.parts))
                    for start in range(len(parts)):
                        end = "/".join(parts[start:])
                        known = self.ends if start else self.whole
                        known[end] = key if known.get(end, key) == key else None

    def key(self, line: str) -> str | None:
        """The key that a line means; None where there is no such picture, or more than one."""
        if (found := self._key(line)) is not None:
            return found
        for column in _columns(line):
            if (found := self._key(column)) is not None:
                return found
        return None

    def _key(self, text: str) -> str | None:
        text = composed(text.strip().strip("\"'"))
        text = text if text in self.keys else text.replace("\\", "/").removeprefix("./")
        bare = re.sub(r"\.[^./]*$", "", text)
        for name in (text, bare):
            if name in self.keys:
                return name
        for name in (text, bare):
            if (found := self.whole.get(name) or self.ends.get(name)) is not None:
                return found
        parts = text.split("/"), bare.split("/")
        for start in range(1, len(parts[0])):  # the path of a picture somewhere else
            for one in parts:
                if (found := self.whole.get("/".join(one[start:]))) is not None:
                    return found
        return None


def is_heading(line: str) -> bool:
    """Whether a line of a list names its columns: ``image,label``."""
    words = re.findall(r"[a-z]+", line.lower())
    return bool(words) and not re.search(r"[0-9/\\.]", line) and HEADINGS.issuperset(words)


def _columns(line: str) -> list[str]:
    """What of a line may be the path or key of a picture, the likeliest first: paths before numbers, flags and classes beside them."""
    columns = [column for column in re.split(r"[\t,;]", line) if column.strip()]
    if len(columns) < 2:
        words = line.split(" ")[:20]
        columns = [*(" ".join(words[:count]) for count in range(1, len(words) + 1)), *words]  # names may have spaces
    paths = [column for column in columns if re.search(r"[./\\]", column)]
    return paths or columns
