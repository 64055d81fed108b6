"""Finding a dataset's files, and which picture has which labels: by key, as its YAML says. Nothing is decoded."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from densemtmd.datasets.config import LISTING, ONE_SEQUENCE, DatasetConfig, Exclusion
from densemtmd.datasets.expressions import TooSlow, search_all
from densemtmd.datasets.formats.label_studio import stored
from densemtmd.datasets.formats.objects import pictures_in
from densemtmd.datasets.globs import forbidden, matching
from densemtmd.datasets.names import Names, composed, forms, is_left_by_a_system, lies_in
from densemtmd.datasets.sample import Item
from densemtmd.errors import UserError
from densemtmd.files import read_bounded
from densemtmd.progress import Progress

LISTED = 0.8
"""The share of a list's keys that must exist: a copy may lack a few pictures, a wrong list names none that exist."""


def find_folder(config: DatasetConfig, data_root: Path) -> Path:
    """The dataset's folder: beneath the data root, or the data root itself; one that is given whole, where it has been moved to there."""
    given = Path(config.folder)
    names = dict.fromkeys([config.folder, given.name] if given.is_absolute() and given.name else [config.folder])
    for form in (form for name in names for form in forms(name)):
        folder = data_root / form  # an absolute one is taken as it is
        if os.path.isdir(folder):  # noqa: PTH112 (of a name that is too long, Path.is_dir raises)
            return folder
    folder, parts = data_root / given, Path(list(names)[-1]).parts
    if data_root.is_dir() and data_root.resolve().parts[-len(parts) :] == parts:
        return data_root
    if data_root.parts[-len(parts) :] == parts:  # it was the dataset's folder, as far as its name tells
        folder = data_root
    raise UserError(
        f"dataset {config.name} was not found: {folder} is not a folder; set data_root to the folder that holds it{where_to_get(config)}"
    )


def where_to_get(config: DatasetConfig) -> str:
    return f"; get the dataset from {config.where}" if config.where else ""


@dataclass(frozen=True)
class Pairs:
    """What belongs together, and what stands alone."""

    items: dict[str, Item]   # in the order of their keys; those to leave out too, so that the split is the same without them
    excluded: frozenset[str]
    without_labels: tuple[Path, ...]
    without_picture: tuple[Path, ...]
    notes: list[str]


def pair(config: DatasetConfig, folder: Path, strict: bool) -> Pairs:
    """All pictures that have labels, by key; with ``strict``, every file of labels must have a picture."""
    notes: list[str] = []
    called: dict[str, str] = {}
    if config.encoding in LISTING:
        images = _scan(config, folder, "images", config.images, frozenset())
        labels, called = _listed(config, folder, images, notes)
    else:
        labels = _scan(config, folder, "labels", config.labels, frozenset())
        images = _scan(config, folder, "images", config.images, frozenset(labels.values()))
    paths = {key: [side[key] for side in (images, labels) if key in side] for key in sorted({*images, *labels})}
    excluded = {key for exclusion in config.exclude for key in _excluded(config, exclusion, Names(paths), folder, notes)}
    lonely = sorted(labels.keys() - images.keys() - excluded)
    if lonely and (strict or len(lonely) == len(labels)):
        raise UserError(
            f"{folder / labels[lonely[0]]} has no picture, as have {len(lonely)} of {len(labels)} files of labels: "
            f"expected the key {lonely[0]!r} among the pictures, whose keys are like {min(images)!r}; add pictures, "
            f"or see 'images' and 'key' in {config.path}"
        )
    both = sorted(labels.keys() & images.keys())
    sequences = _sequences(config, both)
    items = {key: Item(key, folder / images[key], folder / labels[key], sequences[key], called.get(key, "")) for key in both}
    bare = sorted(images.keys() - labels.keys() - excluded)  # a check tells of them
    unnamed = sum(item.sequence == "" for item in items.values())
    if unnamed and config.sequence != ONE_SEQUENCE:
        notes.append(f"{config.name}: {unnamed} of {len(items)} pictures name no sequence and are taken for one")
    return Pairs(
        items,
        frozenset(excluded),
        without_labels=tuple(folder / images[key] for key in bare),
        without_picture=tuple(folder / labels[key] for key in lonely),
        notes=notes,
    )


def is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 (of a name that is too long, Path.is_file raises)


def _excluded(config: DatasetConfig, exclusion: Exclusion, names: Names, folder: Path, notes: list[str]) -> list[str]:
    """The keys that a file lists to be left out; what else it lists is quoted only where it lies with the dataset."""
    path = next((place / exclusion.file for place in (exclusion.beside, folder) if is_file(place / exclusion.file)), None)
    if path is None:
        raise UserError(f"{config.name}: the list {exclusion.file} to exclude is neither in {exclusion.beside} nor in {folder}")
    counts, listed, sections = True, [], []
    for line in read_lines(path):
        text = re.sub(r"(^|\s)#.*", "", line).strip()
        if text.startswith("[") and text.endswith("]"):
            sections.append(text[1:-1])
            counts = sections[-1] in exclusion.names
        elif text and counts:
            listed.append(text)
    keys = [key for line in listed if (key := names.key(line)) is not None]
    if len(keys) < LISTED * len(listed) or (not listed and sections and not set(sections) & set(exclusion.names)):
        found = f"{len(listed)} keys, of which {len(keys)} exist" if listed else f"{len(sections)} sections, none for it"
        if lies_in(path, (exclusion.beside, folder)):
            found = f"the keys {some_of(listed)}" if listed else f"sections for {', '.join(sections)}"
        raise UserError(f"{path} excludes {found}, expected keys of {config.name} such as {min(names.keys)!r}: is it the right list?")
    if len(keys) < len(listed):
        notes.append(f"{config.name}: {len(listed) - len(keys)} of {len(listed)} pictures that {path.name} excludes do not exist")
    return keys


def _scan(
    config: DatasetConfig, folder: Path, what: str, globs: Sequence[str], others: frozenset[Path]
) -> dict[str, Path]:
    """The files that match, by key, as paths below the folder; hidden files and ``others`` do not count."""
    found: dict[str, Path] = {}
    for glob, relative in _matched(config, folder, what, globs, others):
        try:
            keys = _keys(config, what, glob, relative)
        except UserError:
            raise
        except Exception as error:  # whatever the library stumbles over
            raise UserError(f"{config.path}: {what} has {glob!r}, which is no pattern of files: {error}") from error
        for key, path in zip(keys, relative, strict=True):
            if (other := found.setdefault(key, path)) != path:
                if composed(str(other)) == composed(str(path)):
                    raise UserError(
                        f"{folder} has one name twice, its accents written in two ways, {str(other)!a} and {str(path)!a}: "
                        "remove or rename one of these files"
                    )
                raise UserError(
                    f"{folder / other} and {folder / path} have the same key {key!r}, expected one file each: "
                    f"make '{what}' more exact or set 'key' in {config.path}"
                )
    return found


def _matched(
    config: DatasetConfig, folder: Path, what: str, globs: Sequence[str], others: frozenset[Path]
) -> list[tuple[str, list[Path]]]:
    """Of each glob the files that match, as paths below the folder; of all together there is one at least."""
    matched = []
    for glob in globs:
        try:
            with Progress(f"looking in {folder} for {glob}", None, "files") as progress:
                paths = matching(folder, glob, progress.tick)
        except UserError:
            raise
        except Exception as error:  # whatever the library stumbles over
            raise UserError(f"{config.path}: {what} has {glob!r}, which is no pattern of files: {error}") from error
        relative = [path.relative_to(folder) for path in paths]
        matched.append((glob, [path for path in relative if path not in others and not is_left_by_a_system(path)]))
    if not any(paths for _, paths in matched):
        if (closed := forbidden(folder)) is not None:
            raise UserError(f"dataset {config.name}: {closed} may not be read by you, expected {what} in {folder}: ask for the right to")
        if others and any(matching(folder, glob, lambda: None) for glob in globs):
            raise UserError(
                f"dataset {config.name}: all files in {folder} that match {' or '.join(globs)} ('{what}' in {config.path}) are its labels "
                "already: make 'images' or 'labels' more exact"
            )
        there = ", ".join(sorted(path.name for path in folder.glob("*") if not is_left_by_a_system(Path(path.name)))[:8])
        raise UserError(
            f"dataset {config.name}: no file in {folder} matches {' or '.join(globs)} ('{what}' in {config.path}), "
            f"there are {there or 'no files at all'}{where_to_get(config)}"
        )
    return matched


def _listed(config: DatasetConfig, folder: Path, images: Mapping[str, Path], notes: list[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """Where each picture's labels are, in files that speak of many pictures, and what these call it.

    A file's names are compared with those of the pictures that were found: as paths from where it lies first, then by how paths end. So
    none of them can lead anywhere else.
    """
    by_path = {composed(path.as_posix()): key for key, path in images.items()}
    names = Names({key: [path] for key, path in images.items()})
    uploaded: dict[str, str | None] = {}
    for one, path in images.items() if config.encoding == "label_studio" else ():
        uploaded[stored(path.name)] = None if stored(path.name) in uploaded else one  # several
    labels: dict[str, Path] = {}
    called: dict[str, str] = {}
    for file in dict.fromkeys(path for _, paths in _matched(config, folder, "labels", config.labels, frozenset()) for path in paths):
        listed = pictures_in(folder / file, config.encoding)
        there = 0
        for name, paths in listed.items():
            places = [path.replace("\\", "/") for path in paths]
            keys = [by_path.get(composed(posixpath.normpath((file.parent / place).as_posix()))) for place in places]
            keys += [names.key(place) for place in (*places, *map(posixpath.basename, places))]
            keys += [uploaded.get(posixpath.basename(place)) for place in places]
            if (key := next((key for key in keys if key is not None), None)) is None:
                continue
            there += 1
            if key in labels:
                raise UserError(
                    f"{folder / file} lists {name!r}, whose labels are {called[key]!r} of {folder / labels[key]} already, expected each "
                    f"picture once: make 'labels' more exact in {config.path}, or its pictures' names"
                )
            labels[key], called[key] = file, name
        if listed and not there:
            raise UserError(
                f"{folder / file} lists pictures such as {next(iter(listed))!r}, of which none is among those found, such as "
                f"{min(images)!r}: see 'images' in {config.path}"
            )
        if there < len(listed):
            notes.append(f"{config.name}: {len(listed) - there} of {len(listed)} pictures that {file.name} lists are not there")
    return labels, called


def _keys(config: DatasetConfig, what: str, glob: str, paths: Sequence[Path]) -> list[str]:
    """What pairs pictures with their labels: see ``key`` of :class:`DatasetConfig`."""
    texts = [composed(path.as_posix()) for path in paths]
    if config.key is None:
        quick = max(part.count("*") for part in glob.split("/")) <= 2 and glob.count("**") <= 1
        expression = _expression(composed(glob))
        keys = _searched(config, what, glob, expression, texts, quick) if re.compile(expression).groups else [None] * len(texts)
        return [composed(path.stem) if key is None else key for path, key in zip(paths, keys, strict=True)]
    found = []
    for path, key in zip(paths, _searched(config, "key", config.key, config.key, texts), strict=True):
        if key is None:
            raise UserError(
                f"{path} does not match {config.key!r}, the 'key' in {config.path}, expected every picture and every file "
                "of labels to match: write it for all of them"
            )
        found.append(key)
    return found


def _searched(
    config: DatasetConfig, what: str, given: str, expression: str, texts: Sequence[str], quick: bool | None = None
) -> list[str | None]:
    """What an expression finds in each text; ``given`` stands under ``what`` in the dataset's YAML."""
    try:
        return search_all(expression, texts, quick)
    except TooSlow:
        raise UserError(
            f"{config.path}: {what} is {given!r}, which takes too long to find in {len(texts)} names: give it fewer repetitions, none "
            "within another"
        ) from None


def _expression(glob: str) -> str:
    """A regular expression for all of a path that a glob matches, a group per wildcard; a ``*`` at the end leaves the suffix out."""
    tokens = re.split(r"(\*\*/|\*|\?|\[[^]]+\])", glob)  # text and wildcards in turn
    expression = ""
    for text, wildcard in zip(tokens[::2], [*tokens[1::2], ""], strict=True):
        expression += re.escape(text)
        if wildcard == "**/":
            expression += "(?:(.*)/)?"
        elif wildcard == "?":
            expression += "([^/])"
        elif wildcard.startswith("["):
            inside = wildcard[1:-1].replace("\\", r"\\").replace("[", r"\[")
            expression += f"([^{inside[1:]}])" if inside.startswith("!") else f"([{inside}])"
        elif wildcard:
            expression += "([^/]*)"
    if glob.endswith("*"):
        expression = expression.removesuffix("([^/]*)") + r"([^/]*?)(?:\.[^./]*)?"
    return rf"\A(?:{expression})\Z"


def _sequences(config: DatasetConfig, keys: Sequence[str]) -> dict[str, str]:
    """The video sequence of each key: see ``sequence`` of :class:`DatasetConfig`."""
    if config.sequence is None:
        return {key: key for key in keys}
    if config.sequence == ONE_SEQUENCE:
        return dict.fromkeys(keys, "")
    found = _searched(config, "sequence", config.sequence, config.sequence, keys)
    return {key: sequence or "" for key, sequence in zip(keys, found, strict=True)}


def read_lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in read_bounded(path, "a text file with one key per line").decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read ({error}): expected a text file with one key per line, in UTF-8") from error


def some_of(listed: Sequence[str]) -> str:
    """The first lines of a list, for a message."""
    return ", ".join(repr(line if len(line) <= 100 else f"{line[:100]}…") for line in listed[:3])
