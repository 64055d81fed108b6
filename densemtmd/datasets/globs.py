"""Finding files by a glob, or all that a folder holds, without walking through a whole disk and without leaving out what may not be read.

A glob means what it means to Python's ``pathlib``: ``**`` stands for any number of folders, and follows no links.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from stat import S_ISDIR, S_ISREG

from densemtmd.datasets.names import forms, is_left_by_a_system
from densemtmd.errors import UserError

MOST = 4_000_000
"""Files and folders that are looked at for one glob: a million pictures with their labels are half of that."""

FEW, EACH = 500_000, 20
"""So many are looked at in any case, and so many more for each file that is found: below somebody's home there are more."""


def matching(folder: Path, glob: str, found: Callable[[], None]) -> list[Path]:
    """The files below a folder that match a glob in any form of its letters, sorted; ``found`` is called for each.

    Raises:
        UserError: a folder on the way may not be looked into, or there are far more files than pictures.
        ValueError: it is no glob.
    """
    search = _Search(folder, glob, found)
    for form in forms(glob):
        search.look(os.fspath(folder), _parts(form))
    return sorted(map(Path, search.matches), key=lambda path: path.parts)


def all_below(folder: Path) -> list[Path]:
    """All files below a folder, sorted, but for what systems leave there; what may not be looked into is passed over.

    Raises:
        UserError: there are very many, as on a whole disk.
    """
    search = _Search(folder, "**/*", lambda: None, strict=False)
    search.look(os.fspath(folder), ["**", "*"])
    paths = (Path(path) for path in search.matches)
    return sorted(path for path in paths if not is_left_by_a_system(path.relative_to(folder)))


def forbidden(folder: Path) -> Path | None:
    """A folder, or the first one in it, that may not be looked into, so that nothing is found there."""
    try:
        return next((path for path in sorted(folder.iterdir()) if path.is_dir() and not os.access(path, os.R_OK | os.X_OK)), None)
    except OSError:
        return folder


def _parts(glob: str) -> list[str]:
    parts = [part for part in re.sub(r"(\*\*/+)+", "**/", glob).split("/") if part not in ("", ".")]
    for part in parts:
        if "**" in part and part != "**":
            raise ValueError(f"{part!r} is not one folder: ** stands for any number of them, between two /")
    if not parts or "\0" in glob:
        raise ValueError("it names nothing")
    return parts


class _Search:
    """One glob's way through the folders."""

    def __init__(self, folder: Path, glob: str, found: Callable[[], None], strict: bool = True) -> None:
        if "**" in glob and (real := folder.resolve()) == real.parent:
            raise UserError(f"{glob!r} below {folder} would look through the whole disk: name the folder of the pictures")
        self.folder, self.glob, self.found, self.strict = folder, glob, found, strict
        self.looked = 0
        self.matches: set[str] = set()

    def look(self, place: str, parts: list[str]) -> None:
        """Adds the files in a folder that match the parts of a glob."""
        part, *rest = parts
        if part == "**":
            for below in self.folders(place) if rest else ():  # of folders alone nothing is read
                self.look(below, rest)
        elif not re.search(r"[*?[]", part):
            path = os.path.join(place, part)  # noqa: PTH118 (pathlib takes several times as long)
            try:
                mode = os.stat(path).st_mode  # noqa: PTH116
            except PermissionError:
                return self.refuse(place)
            except OSError:
                return
            if rest and S_ISDIR(mode):
                self.look(path, rest)
            elif not rest and S_ISREG(mode):
                self.match(path)
        else:
            alike = re.compile(fnmatch.translate(part)).match
            for entry in self.entries(place):
                if not alike(entry.name):
                    continue
                if rest and _is(entry.is_dir):
                    self.look(entry.path, rest)
                elif not rest and _is(entry.is_file):
                    self.match(entry.path)

    def folders(self, place: str) -> Iterator[str]:
        """A folder and all below it."""
        waiting = [place]
        while waiting:
            place = waiting.pop()
            yield place
            waiting += [entry.path for entry in self.entries(place) if _is(partial(entry.is_dir, follow_symlinks=False))]

    def entries(self, place: str) -> list[os.DirEntry[str]]:
        """What lies in a folder."""
        try:
            with os.scandir(place) as entries:
                there = list(entries)
        except PermissionError:
            self.refuse(place)
            return []
        except OSError:  # gone in the meantime
            return []
        self.looked += len(there)
        if self.looked > MOST or self.looked > FEW + EACH * len(self.matches):
            raise UserError(
                f"{self.glob!r} below {self.folder} finds {len(self.matches)} among {self.looked} files and folders, and there are more: "
                "name the folder of the pictures"
            )
        return there

    def refuse(self, place: str) -> None:
        """Says that a folder may not be looked into, where it may hold what is looked for."""
        if self.strict and not is_left_by_a_system(Path(place).relative_to(self.folder)):
            raise UserError(f"{place} may not be read by you, expected to find {self.glob} there: ask for the right to") from None

    def match(self, path: str) -> None:
        self.matches.add(path)
        self.found()


def _is(asked: Callable[[], bool]) -> bool:
    """What an entry says of itself; False of a link in a circle."""
    try:
        return asked()
    except OSError:
        return False
