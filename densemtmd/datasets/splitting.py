"""Which of the pictures that were found train, validate and test: the rules of :mod:`densemtmd.datasets.splits`, applied.

A rule is read before any file is looked for; here it meets the keys that exist, and says in notes what it found.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from densemtmd.datasets.config import DatasetConfig
from densemtmd.datasets.names import Names, composed, is_heading, lies_in
from densemtmd.datasets.pairing import LISTED, is_file, read_lines, some_of, where_to_get
from densemtmd.datasets.sample import Item
from densemtmd.datasets.splits import SPLITS, Folds, Fractions, Lists, Patterns, SplitRule, deal, divide, too_few
from densemtmd.errors import UserError
from densemtmd.files import read_bounded


def divided(
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


def taken(config: DatasetConfig, keys: dict[str, list[str]], groups: Mapping[str, str]) -> dict[str, list[str]]:
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


def as_listed(config: DatasetConfig, listed: Path, items: Mapping[str, Item], folder: Path) -> dict[str, list[str]]:
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
        first = f"the first is {missing[0]!r}: " if lies_in(file, (file.parent,)) else ""  # no line of what a link leads to
        raise UserError(
            f"{config.name}: {len(missing)} of {len(keys)} pictures in {file} are no longer in {folder}, or have lost their labels, "
            f"{first}bring them back, or start a new run"
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
        if is_file(place / file):
            return place / file
    looked = " nor in ".join(str(place) for place in dict.fromkeys(places))
    raise UserError(f"{config.name}: the list {file} of its split is neither in {looked}{where_to_get(config)}")


def _named(items: Mapping[str, Item], folder: Path) -> Names:
    """What finds the pictures that a list names."""
    return Names({key: [file.relative_to(folder) for file in (item.image, item.labels)] for key, item in items.items()})


def _read_list(config: DatasetConfig, path: Path, names: Names, folder: Path, notes: list[str]) -> list[str]:
    """The keys that a text file lists, one per line: see :class:`~densemtmd.datasets.names.Names` for how."""
    listed = dict.fromkeys(line for line in read_lines(path) if line)
    found = {line: names.key(line) for line in listed}
    if found and found[first := next(iter(found))] is None and is_heading(first):
        del found[first]
    keys = [key for key in dict.fromkeys(found.values()) if key is not None]
    missing = [line for line, key in found.items() if key is None]
    quoted = lies_in(path, (folder, folder.parent, *_beside(config)))
    if not keys or len(found) - len(missing) < LISTED * len(found):
        first = f", the first is {some_of(missing[:1])}" if missing and quoted else ""
        raise UserError(
            f"{path} lists {len(found)} keys, of which {config.name} lacks {len(missing)}{first}, expected keys like "
            f"{next(iter(names.keys))!r}: is it the right list?"
        )
    if missing:
        first = f", the first is {some_of(missing[:1])}" if quoted else ""
        notes.append(f"{config.name}: {len(missing)} of {len(found)} pictures in the list {path.name} do not exist{first}")
    return keys


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
    if any(is_file(place / file) for place in places for file in files):
        names = _named(items, folder)
        folds = [_read_list(config, _find_list(config, file, places), names, folder, notes) for file in files]
        _once(config, dict(zip(files, folds, strict=True)))
        notes.append(f"{config.name}: fold {rule.test} of {rule.count} tests, as {rule.files} lists them")
        return folds
    why = f", since there is no {rule.files}" if rule.files else ""
    notes.append(f"{config.name}: fold {rule.test} of {rule.count} tests, drawn with seed {rule.seed}{why}")
    return _divide(config, groups, [1] * rule.count, rule.seed, notes, cut)
