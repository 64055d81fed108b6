"""A dataset on disk, as its YAML describes it.

:func:`open_dataset` finds the files, pairs and splits them, and decodes none; :meth:`Dataset.load` decodes one picture
with its labels, :func:`load_split` all of a split.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tqdm import tqdm

from densemtmd.datasets.config import ONE_SEQUENCE, DatasetConfig, Exclusion
from densemtmd.datasets.labels import CodeTable, code_table, read_labels
from densemtmd.datasets.names import Names, composed, forms, is_heading, is_left_by_a_system, lies_in, matching
from densemtmd.datasets.pictures import read_picture
from densemtmd.datasets.sample import Sample
from densemtmd.datasets.splits import SPLITS, Folds, Fractions, Lists, Patterns, SplitRule, deal, divide, joined, too_few
from densemtmd.errors import UserError
from densemtmd.files import read_bounded
from densemtmd.kind import kind_of_encoding
from densemtmd.machine import cores
from densemtmd.tasks import VOID, Labelset, Task, nearest

T = TypeVar("T")

LISTED = 0.8
"""The share of a list's keys that must exist: a copy may lack a few pictures, a wrong list names none that exist."""


@dataclass(frozen=True)
class Item:
    """One picture with its labels, not yet read."""

    key: str       # unique within its dataset
    image: Path
    labels: Path
    sequence: str  # pictures of one sequence share a split


@dataclass(frozen=True)
class Dataset:
    """A dataset that was found on disk."""

    name: str
    domain: str
    config: DatasetConfig
    folder: Path
    splits: Mapping[str, tuple[Item, ...]]  # train, val and test, each in the order of the keys
    notes: tuple[str, ...]                  # sentences for whoever trains on it or scores with it
    codes: CodeTable
    cut: frozenset[str]                     # sequences that had to be cut, since there are fewer than splits
    without_labels: tuple[Path, ...]        # pictures, left out
    without_picture: tuple[Path, ...]       # files of labels; only where `open_dataset` was not strict

    @property
    def task(self) -> Task:
        """What its annotator was asked for: its labelset, or keypoints of hands."""
        return self.config.task

    @property
    def labelset(self) -> Labelset:
        """Its labels; of hands an error."""
        return self.config.labelset

    def load(self, item: Item) -> Sample:
        """Read one picture and its labels.

        Raises:
            UserError: a file cannot be read, a code is unknown, or picture and labels differ in size.
        """
        return _load(item, self.config, self.codes)

    def truth(self, item: Item) -> Sample:
        """Read one picture and the labels that it has in the dataset that this one derives from: the full truth.

        Of a dataset that does not derive from another, the same as :meth:`load`.
        """
        return _load(item, self.truth_config, self._truth_codes)

    @property
    def truth_config(self) -> DatasetConfig:
        """The dataset that this one derives from, or itself; its labelset is the one of :meth:`truth`."""
        return self.config.derive.source if self.config.derive else self.config

    @cached_property
    def from_truth(self) -> np.ndarray:
        """(256,) uint8: what this dataset calls each class of the full truth; 255 where it says nothing.

        ``dataset.from_truth[dataset.truth(item).target]`` is ``dataset.load(item).target``. So what a network answers
        in this labelset can be scored on any picture of the source, and two datasets that derive from one source have
        the answer key to which of their labels correspond.
        """
        table = np.full(256, VOID, np.uint8)
        labels = self.truth_config.labelset.channels
        table[:labels] = self.config.derive.ids if self.config.derive else np.arange(labels)
        return table

    @cached_property
    def _truth_codes(self) -> CodeTable:
        return code_table(self.truth_config) if self.config.derive else self.codes


def _load(item: Item, config: DatasetConfig, codes: CodeTable) -> Sample:
    image = read_picture(item.image)
    target = read_labels(item.labels, config, codes)
    if image.shape[:2] != target.shape:
        raise UserError(
            f"{item.labels} has {target.shape[1]}×{target.shape[0]} pixels but its picture {item.image} has "
            f"{image.shape[1]}×{image.shape[0]}, expected the same size: pair other files or make them anew"
        )
    return Sample(image, target, item.key)


def open_dataset(
    config: DatasetConfig,
    data_root: str | Path,
    *,
    domain: str | None = None,
    split: str | Mapping[str, Any] | None = None,
    fold: int | None = None,
    listed: Path | None = None,
    strict: bool = True,
) -> Dataset:
    """Find the files of a dataset, pair and split them; nothing is decoded yet.

    Pictures without labels are left out, with a note. Labels without a picture are an error: something is missing.
    Of a derived dataset, the source is split first, and then dealt out: what trains in one of its parts trains in all.

    Args:
        config: what the dataset's YAML says.
        data_root: the folder that holds the dataset's folder, or that folder itself.
        domain: another domain than the YAML's.
        split: another split than the YAML's: the name of one of its ``splits``, or one written out.
        fold: the fold that tests, where the split is by folds.
        listed: a folder with ``train.txt``, ``val.txt`` and ``test.txt``, the keys that an earlier opening found: then these are the
            splits, no rule decides, and no list beside the YAML is read.
        strict: without it, labels without a picture are left out as well.

    Raises:
        UserError: nothing there, labels without a picture, a key twice, or a split or ``listed`` that names what does not exist.
    """
    return kind_of_encoding(config.encoding).open(
        config, Path(data_root), domain=domain, split=split, fold=fold, listed=listed, strict=strict
    )


def open_labelled(
    config: DatasetConfig,
    data_root: Path,
    *,
    domain: str | None = None,
    split: str | Mapping[str, Any] | None = None,
    fold: int | None = None,
    listed: Path | None = None,
    strict: bool = True,
) -> Dataset:
    """:func:`open_dataset` of a dataset of pictures whose pixels are labelled."""
    rule = config.choose_split(split)
    if fold is not None:
        if not isinstance(rule, Folds) or not 1 <= fold <= rule.count:
            has = f"folds 1 to {rule.count}" if isinstance(rule, Folds) else "no folds"
            raise UserError(f"fold {fold} of {config.name} was asked for, but its split has {has}: choose another")
        rule = replace(rule, test=fold)
    folder = _find_folder(config, data_root)
    pairs = _pair(config if listed is None else replace(config, exclude=()), folder, strict and listed is None)
    items, notes = pairs.items, pairs.notes
    groups = joined({key: item.sequence for key, item in items.items()}, config.together)
    cut: set[str] = set()
    if listed is None:
        keys = _split(config, rule, items, groups, folder, data_root, notes, cut)
        if config.derive:
            keys = _taken(config, keys, groups)
        keys = {part: [key for key in keys[part] if key not in pairs.excluded] for part in SPLITS}
    else:
        keys = _as_listed(config, listed, items, folder)
        cut = {item.sequence for item in items.values()}  # whatever was cut then: nobody shall be stopped by it now
    if not keys["train"]:
        raise UserError(f"{config.name}: its split leaves none of {len(items)} pictures to train: see {config.path}")
    return Dataset(
        name=config.name,
        domain=domain or config.domain,
        config=config,
        folder=folder,
        splits={part: tuple(items[key] for key in sorted(keys[part])) for part in SPLITS},
        notes=tuple(notes),
        codes=code_table(config),
        cut=frozenset(cut),
        without_labels=pairs.without_labels,
        without_picture=pairs.without_picture,
    )


@dataclass(frozen=True)
class Loaded:
    """A dataset with its pictures decoded, as its kind of task keeps them."""

    dataset: Dataset
    pictures: Mapping[str, Any]  # of each split, in the order of the keys: a list of samples, or hands

    @property
    def name(self) -> str:
        return self.dataset.name

    @property
    def counts(self) -> str:
        """``180/40/80``: pictures to train, to validate and to test."""
        return "/".join(str(len(items)) for items in self.dataset.splits.values())


def few_pictures(dataset: Dataset, at_most: int) -> Dataset:
    """The dataset with at most so many pictures of each split; 0: all."""
    return replace(dataset, splits={split: tuple(spread(items, at_most)) for split, items in dataset.splits.items()})


def spread(items: Sequence[T], at_most: int) -> Sequence[T]:
    """At most so many of them, evenly from all; 0: all."""
    if not at_most or len(items) <= at_most:
        return items
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, at_most)]


def load_split(dataset: Dataset, split: str, progress: bool = True) -> list[Sample]:
    """Decode all pictures of a split into memory.

    Args:
        dataset: an open dataset.
        split: ``train``, ``val`` or ``test``.
        progress: show a bar, on a terminal, once it has taken two seconds.

    Returns:
        The samples in the order of their keys.

    Raises:
        UserError: no such split, or what :meth:`Dataset.load` raises.
    """
    if split not in dataset.splits:
        raise UserError(f"{dataset.name} has no split {split!r}; {nearest(split, dataset.splits)}")
    items = dataset.splits[split]
    disable = None if progress else True
    return list(tqdm(ahead(dataset.load, items), f"{dataset.name} {split}", len(items), unit=" pictures", delay=2, disable=disable))


def ahead(work: Callable[[Item], T], items: Iterable[Item]) -> Iterator[T]:
    """``work`` of each picture, in their order; a few are worked on ahead, on as many threads as there are cores, at
    most eight."""
    threads = min(8, cores())
    waiting: deque[Future[T]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(work, item))
                if len(waiting) > 4 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # after an error, do not decode the others first


def _find_folder(config: DatasetConfig, data_root: Path) -> Path:
    """The dataset's folder: beneath the data root, or the data root itself."""
    for form in forms(config.folder):
        folder = data_root / form  # an absolute config.folder is taken as it is
        if os.path.isdir(folder):  # noqa: PTH112 (of a name that is too long, Path.is_dir raises)
            return folder
    folder, parts = data_root / config.folder, Path(config.folder).parts
    if data_root.is_dir() and data_root.resolve().parts[-len(parts) :] == parts:
        return data_root
    raise UserError(
        f"dataset {config.name} was not found: {folder} is not a folder; set data_root to the folder that holds it{_where(config)}"
    )


def _where(config: DatasetConfig) -> str:
    return f"; get the dataset from {config.where}" if config.where else ""


@dataclass(frozen=True)
class _Pairs:
    """What belongs together, and what stands alone."""

    items: dict[str, Item]   # in the order of their keys; those to leave out too, so that the split is the same without them
    excluded: frozenset[str]
    without_labels: tuple[Path, ...]
    without_picture: tuple[Path, ...]
    notes: list[str]


def _pair(config: DatasetConfig, folder: Path, strict: bool) -> _Pairs:
    """All pictures that have labels, by key; with ``strict``, every file of labels must have a picture."""
    labels = _scan(config, folder, "labels", config.labels, frozenset())
    images = _scan(config, folder, "images", config.images, frozenset(labels.values()))
    notes: list[str] = []
    paths = {key: [side[key] for side in (images, labels) if key in side] for key in sorted({*images, *labels})}
    excluded = {key for exclusion in config.exclude for key in _excluded(config, exclusion, Names(paths), folder, notes)}
    lonely = sorted(labels.keys() - images.keys() - excluded)
    if lonely and (strict or len(lonely) == len(labels)):
        raise UserError(
            f"{folder / labels[lonely[0]]} has no picture, as have {len(lonely)} of {len(labels)} files of labels: "
            f"expected the key {lonely[0]!r} among the pictures, whose keys are like {min(images)!r}; add pictures, "
            f"or see 'images' and 'key' in {config.path}"
        )
    items = {
        key: Item(key, folder / images[key], folder / labels[key], _sequence(config, key))
        for key in sorted(labels.keys() & images.keys())
    }
    bare = sorted(images.keys() - labels.keys() - excluded)  # a check tells of them
    unnamed = sum(item.sequence == "" for item in items.values())
    if unnamed and config.sequence != ONE_SEQUENCE:
        notes.append(f"{config.name}: {unnamed} of {len(items)} pictures name no sequence and are taken for one")
    return _Pairs(
        items,
        frozenset(excluded),
        without_labels=tuple(folder / images[key] for key in bare),
        without_picture=tuple(folder / labels[key] for key in lonely),
        notes=notes,
    )


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113 (of a name that is too long, Path.is_file raises)


def _excluded(config: DatasetConfig, exclusion: Exclusion, names: Names, folder: Path, notes: list[str]) -> list[str]:
    """The keys that a file lists to be left out; what else it lists is quoted only where it lies with the dataset."""
    path = next((place / exclusion.file for place in (exclusion.beside, folder) if _is_file(place / exclusion.file)), None)
    if path is None:
        raise UserError(f"{config.name}: the list {exclusion.file} to exclude is neither in {exclusion.beside} nor in {folder}")
    counts, listed, sections = True, [], []
    for line in _lines(path):
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
            found = f"the keys {_some(listed)}" if listed else f"sections for {', '.join(sections)}"
        raise UserError(f"{path} excludes {found}, expected keys of {config.name} such as {min(names.keys)!r}: is it the right list?")
    if len(keys) < len(listed):
        notes.append(f"{config.name}: {len(listed) - len(keys)} of {len(listed)} pictures that {path.name} excludes do not exist")
    return keys


def _scan(
    config: DatasetConfig, folder: Path, what: str, globs: Sequence[str], others: frozenset[Path]
) -> dict[str, Path]:
    """The files that match, by key, as paths below the folder; hidden files and ``others`` do not count."""
    found: dict[str, Path] = {}
    for glob in globs:
        try:
            paths = matching(folder, glob)
            _expression(composed(glob))
        except Exception as error:  # whatever the library stumbles over
            raise UserError(f"{config.path}: {what} has {glob!r}, which is no pattern of files: {error}") from error
        for path in paths:
            relative = path.relative_to(folder)
            if relative in others or is_left_by_a_system(relative) or not path.is_file():
                continue
            key = _key(config, glob, relative)
            if (other := found.setdefault(key, relative)) != relative:
                if composed(str(other)) == composed(str(relative)):
                    raise UserError(
                        f"{folder} has one name twice, its accents written in two ways, {str(other)!a} and {str(relative)!a}: "
                        "remove or rename one of these files"
                    )
                raise UserError(
                    f"{folder / other} and {folder / relative} have the same key {key!r}, expected one file each: "
                    f"make '{what}' more exact or set 'key' in {config.path}"
                )
    if not found:
        there = ", ".join(sorted(path.name for path in folder.glob("*") if not is_left_by_a_system(Path(path.name)))[:8])
        raise UserError(
            f"dataset {config.name}: no file in {folder} matches {' or '.join(globs)} ('{what}' in {config.path}), "
            f"there are {there or 'no files at all'}{_where(config)}"
        )
    return found


def _key(config: DatasetConfig, glob: str, path: Path) -> str:
    """What pairs a picture with its labels: see ``key`` of :class:`DatasetConfig`."""
    text = composed(path.as_posix())
    if config.key is None:
        match = _expression(composed(glob)).fullmatch(text)
        return "/".join(group for group in match.groups() if group) if match and match.re.groups else composed(path.stem)
    match = re.search(config.key, text)
    if match is None:
        raise UserError(
            f"{path} does not match {config.key!r}, the 'key' in {config.path}, expected every picture and every file "
            "of labels to match: write it for all of them"
        )
    return _groups(match)


def _expression(glob: str) -> re.Pattern[str]:
    """A regular expression for a glob, with one group per wildcard; a ``*`` at the end leaves the suffix out."""
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
    return re.compile(expression)


def _groups(match: re.Match[str]) -> str:
    """The groups of a match, joined; the match itself where the expression has none."""
    return "/".join(group for group in match.groups() if group) if match.re.groups else match[0]


def _sequence(config: DatasetConfig, key: str) -> str:
    """The video sequence of a key: see ``sequence`` of :class:`DatasetConfig`."""
    if config.sequence is None:
        return key
    match = None if config.sequence == ONE_SEQUENCE else re.search(config.sequence, key)
    return _groups(match) if match else ""


def _split(
    config: DatasetConfig,
    rule: SplitRule,
    items: Mapping[str, Item],
    groups: Mapping[str, str],
    folder: Path,
    data_root: Path,
    notes: list[str],
    cut: set[str],
) -> dict[str, list[str]]:
    """The keys of train, val and test; adds to the notes how they were chosen, and to ``cut`` what had to be cut."""
    if isinstance(rule, Fractions):
        shares = (rule.train, rule.val, rule.test)
        return dict(zip(SPLITS, _divide(config, groups, shares, rule.seed, notes, cut), strict=True))

    if isinstance(rule, Patterns):
        named = _by_patterns(config, rule, items, folder)
    elif isinstance(rule, Lists):
        named = _by_lists(config, rule, items, folder, notes)
    else:
        folds = _folds(config, rule, items, groups, folder, (data_root, folder, folder.parent, *_beside(config)), notes, cut)
        named = {"test": folds.pop(rule.test - 1), "train": [key for fold in folds for key in fold]}
    _once(config, named)
    if missing := sorted(items.keys() - {key for keys in named.values() for key in keys}):
        notes.append(
            f"{config.name}: {len(missing)} of {len(items)} pictures are in no split and are left out, the first is "
            f"{missing[0]!r}"
        )
    if isinstance(rule.val, float):
        train = {key: groups[key] for key in named["train"]}
        named["train"], named["val"] = _divide(config, train, (1 - rule.val, rule.val), rule.seed, notes, cut)
    return named


def _taken(config: DatasetConfig, keys: dict[str, list[str]], groups: Mapping[str, str]) -> dict[str, list[str]]:
    """Of the source's splits, what a derived dataset takes."""
    assert config.derive is not None  # the caller has looked
    for take in config.derive.takes:
        for split in take.splits:
            hands = deal({key: groups[key] for key in keys[split]}, take.of)
            taken = sorted(key for part in take.parts for key in hands[part - 1])
            if keys[split] and not taken:
                raise UserError(
                    f"{config.name} takes part {', '.join(map(str, take.parts))} of {take.of} of {len(keys[split])} pictures in "
                    f"{split}, and none is left for it: take from fewer parts, or leave {split} out of 'splits' in {config.path}"
                )
            keys = {**keys, split: taken}
    return keys


def _as_listed(config: DatasetConfig, listed: Path, items: Mapping[str, Item], folder: Path) -> dict[str, list[str]]:
    """The keys of each split as the files of an earlier opening list them, all of which must exist."""
    named: dict[str, list[str]] = {}
    for part in SPLITS:
        file = listed / f"{part}.txt"
        keys = read_keys(config, file, part, items, folder)
        if twice := {*keys} & {key for others in named.values() for key in others}:
            raise UserError(f"{config.name}: {min(twice)!r} is in {file} and in another split too, expected one: copy the folder again")
        named[part] = keys
    return named


def read_keys(config: DatasetConfig, file: Path, part: str, known: Collection[str], folder: Path) -> list[str]:
    """The keys of a split, as a file of an earlier opening lists them.

    Raises:
        UserError: it cannot be read, or names what is no longer in the dataset's folder.
    """
    try:
        text = read_bounded(file, f"the keys of {part}").decode("utf-8", "replace")
    except UserError as error:
        raise UserError(f"{error}: bring it back, or start a new run") from error
    keys = [composed(key) for key in text.replace("\r\n", "\n").split("\n") if key]  # splitlines cuts at more than "\n"
    if missing := [key for key in keys if key not in known]:
        raise UserError(
            f"{config.name}: {len(missing)} of {len(keys)} pictures in {file} are no longer in {folder}, or have lost their labels, "
            f"the first is {missing[0]!r}: bring them back, or start a new run"
        )
    return keys


def _divide(
    config: DatasetConfig, groups: Mapping[str, str], shares: Sequence[float], seed: int, notes: list[str], cut: set[str]
) -> list[list[str]]:
    """:func:`divide`, with a note where sequences had to be cut."""
    if too_few(groups, shares):
        cut |= set(groups.values())
        parts = sum(share > 0 for share in shares)
        notes.append(
            f"{config.name}: {len(groups)} pictures of too few sequences ({len(set(groups.values()))}) are cut into "
            f"{parts} blocks in the order of their keys"
        )
    return divide(groups, shares, seed)


def _once(config: DatasetConfig, named: Mapping[str, Sequence[str]]) -> None:
    """Refuse a key that is in two parts."""
    part_of: dict[str, str] = {}
    for part, keys in named.items():
        for key in keys:
            if part_of.setdefault(key, part) != part:
                raise UserError(
                    f"{config.name}: {key!r} is in {part_of[key]} and in {part}, expected one: see 'split' in "
                    f"{config.path}"
                )


def _by_patterns(
    config: DatasetConfig, rule: Patterns, items: Mapping[str, Item], folder: Path
) -> dict[str, list[str]]:
    """The keys whose picture or labels lie where a pattern says."""
    paths = {
        key: [composed(path.relative_to(folder).as_posix()) for path in (item.image, item.labels)] for key, item in items.items()
    }
    named: dict[str, list[str]] = {}
    for part in SPLITS:
        patterns = getattr(rule, part)
        if isinstance(patterns, float):
            continue
        named[part] = []
        for pattern in patterns:
            keys = [key for key in items if any(fnmatchcase(path, composed(pattern)) for path in paths[key])]
            if not keys:
                raise UserError(
                    f"{config.name}: the pattern {pattern!r} for {part} matches nothing, expected paths such as "
                    f"{' or '.join(next(iter(paths.values())))}: see 'split' in {config.path}"
                )
            named[part] += keys
    return named


def _by_lists(
    config: DatasetConfig, rule: Lists, items: Mapping[str, Item], folder: Path, notes: list[str]
) -> dict[str, list[str]]:
    """The keys that the files list."""
    named: dict[str, list[str]] = {}
    names = _named(items, folder)
    for part in SPLITS:
        files = getattr(rule, part)
        if not isinstance(files, float):
            paths = [_find_list(config, file, (folder, *_beside(config))) for file in files]
            named[part] = [key for path in paths for key in _read_list(config, path, names, folder, notes)]
    return named


def _beside(config: DatasetConfig) -> list[Path]:
    """The folders of the YAMLs that a dataset is made of."""
    return [config.path.parent, *([config.derive.source.path.parent] if config.derive else [])]


def _find_list(config: DatasetConfig, file: str, places: Sequence[Path]) -> Path:
    for place in places:
        if _is_file(place / file):
            return place / file
    looked = " nor in ".join(str(place) for place in dict.fromkeys(places))
    raise UserError(f"{config.name}: the list {file} of its split is neither in {looked}{_where(config)}")


def _named(items: Mapping[str, Item], folder: Path) -> Names:
    """What finds the pictures that a list names."""
    return Names({key: [file.relative_to(folder) for file in (item.image, item.labels)] for key, item in items.items()})


def _read_list(config: DatasetConfig, path: Path, names: Names, folder: Path, notes: list[str]) -> list[str]:
    """The keys that a text file lists, one per line: see :class:`~densemtmd.datasets.names.Names` for how."""
    listed = dict.fromkeys(line for line in _lines(path) if line)
    found = {line: names.key(line) for line in listed}
    if found and found[first := next(iter(found))] is None and is_heading(first):
        del found[first]
    keys = [key for key in dict.fromkeys(found.values()) if key is not None]
    missing = [line for line, key in found.items() if key is None]
    quoted = lies_in(path, (folder, folder.parent, *_beside(config)))
    if not keys or len(found) - len(missing) < LISTED * len(found):
        first = f", the first is {_some(missing[:1])}" if missing and quoted else ""
        raise UserError(
            f"{path} lists {len(found)} keys, of which {config.name} lacks {len(missing)}{first}, expected keys like "
            f"{next(iter(names.keys))!r}: is it the right list?"
        )
    if missing:
        first = f", the first is {_some(missing[:1])}" if quoted else ""
        notes.append(f"{config.name}: {len(missing)} of {len(found)} pictures in the list {path.name} do not exist{first}")
    return keys


def _some(listed: Sequence[str]) -> str:
    """The first lines of a list, for a message."""
    return ", ".join(repr(line if len(line) <= 100 else f"{line[:100]}…") for line in listed[:3])


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in read_bounded(path, "a text file with one key per line").decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} cannot be read ({error}): expected a text file with one key per line, in UTF-8") from error


def _folds(
    config: DatasetConfig,
    rule: Folds,
    items: Mapping[str, Item],
    groups: Mapping[str, str],
    folder: Path,
    places: Sequence[Path],
    notes: list[str],
    cut: set[str],
) -> list[list[str]]:
    """The keys of each fold: as the files list them or, where there are none, dealt by the seed."""
    files = [] if rule.files is None else [rule.files.replace("{}", str(number + 1)) for number in range(rule.count)]
    if any(_is_file(place / file) for place in places for file in files):
        names = _named(items, folder)
        folds = [_read_list(config, _find_list(config, file, places), names, folder, notes) for file in files]
        _once(config, dict(zip(files, folds, strict=True)))
        notes.append(f"{config.name}: fold {rule.test} of {rule.count} tests, as {rule.files} lists them")
        return folds
    why = f", since there is no {rule.files}" if rule.files else ""
    notes.append(f"{config.name}: fold {rule.test} of {rule.count} tests, drawn with seed {rule.seed}{why}")
    return _divide(config, groups, [1] * rule.count, rule.seed, notes, cut)
