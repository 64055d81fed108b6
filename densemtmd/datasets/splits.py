"""Which picture trains, validates and tests: the four ways in which a dataset's YAML may say so; and which of them a
derived dataset takes.

The rule of section 4.2 holds everywhere: "any two images from the same video sequence end up in the same split". Lots
are drawn by a hash of the seed and the name, so they fall alike on every machine and with every version of every
library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Fractions:
    """``{fractions: {train: 0.6, val: 0.1, test: 0.3}, seed: 0}``: shares of the pictures, in whole sequences."""

    train: float
    val: float
    test: float
    seed: int = 0


@dataclass(frozen=True)
class Patterns:
    """``{patterns: {train: 'day1/*', test: 'day2/*', val: 0.15}, seed: 0}``: by where the picture or its labels lie.

    A pattern is matched with the whole path below the dataset's folder, of the picture or of its labels; its ``*`` also
    stands for ``/``. A list of patterns is allowed. A number for ``val`` is the share of the training pictures that is
    put aside, in whole sequences.
    """

    train: tuple[str, ...]
    val: tuple[str, ...] | float
    test: tuple[str, ...]
    seed: int = 0


@dataclass(frozen=True)
class Lists:
    """``{lists: {train: train.txt, test: test.txt, val: 0.15}, seed: 0}``: text files of keys, one per line.

    The files lie in the dataset's folder or beside its YAML. In the place of a key there may be the path of the picture or of its labels,
    with its suffix or without, ``\\`` for ``/``, what lies above the dataset's folder before it; and the two paths in two columns. A number
    for ``val`` is the share of the training pictures that is put aside, in whole sequences.
    """

    train: tuple[str, ...]
    val: tuple[str, ...] | float
    test: tuple[str, ...]
    seed: int = 0


@dataclass(frozen=True)
class Folds:
    """``{folds: 'folds/fold{}.txt', count: 5, test: 1, val: 0.1, seed: 0}``: fold ``test`` tests, the others train.

    The files hold keys, one per line; ``{}`` stands for the numbers 1 to ``count``. They lie beneath the data root,
    in the dataset's folder, or beside that folder or its YAML. Where they are not there, or none are named (``folds:
    null``), the pictures are dealt into folds of equal size. ``val`` is the share of the training pictures that is
    put aside.
    """

    files: str | None
    count: int
    test: int
    val: float
    seed: int = 0


SplitRule = Fractions | Patterns | Lists | Folds


@dataclass(frozen=True)
class Take:
    """``{part: 2, of: 7, splits: [train, val, test]}``: the share of its source's pictures that a derived dataset has.

    The pictures of each split are dealt into ``of`` parts (see :func:`deal`), of which it takes the one or the several
    that ``part`` names, 1 to ``of``: datasets that take different parts have no picture in common. Of the splits that
    ``splits`` leaves out, it takes all pictures.
    """

    parts: tuple[int, ...]
    of: int
    splits: tuple[str, ...] = SPLITS


def divide(groups: Mapping[str, str], shares: Sequence[float], seed: int) -> list[list[str]]:
    """Divide keys by shares, whole groups at a time; too few groups are cut into blocks in the order of the keys.

    Args:
        groups: the group (video sequence) of each key.
        shares: of each part, in any unit.
        seed: decides which of the groups of one size go where.

    Returns:
        The keys of each part, sorted.
    """
    if too_few(groups, shares):
        return blocks(sorted(groups), shares)
    members: dict[str, list[str]] = {}
    for key, group in groups.items():
        members.setdefault(group, []).append(key)
    parts = partition({group: len(keys) for group, keys in members.items()}, shares, seed)
    return [sorted(key for group in part for key in members[group]) for part in parts]


def too_few(groups: Mapping[str, str], shares: Sequence[float]) -> bool:
    """Whether there are fewer groups than parts that want one."""
    return len(set(groups.values())) < sum(share > 0 for share in shares)


def partition(sizes: Mapping[str, int], shares: Sequence[float], seed: int) -> list[list[str]]:
    """Deal groups into parts whose sizes are near the shares: no group is divided, no part that has a share is empty.

    The largest group goes first, each to the part that lacks most, so that the small ones even out what the large ones
    leave. Among groups of one size the seed decides.

    Args:
        sizes: the pictures of each group; at least one group per part.
        shares: of each part, in any unit.
        seed: decides which of the groups of one size go where.

    Returns:
        The groups of each part, sorted.
    """
    scale = sum(sizes.values()) / sum(shares)
    lacks = [share * scale for share in shares]
    wanted = [part for part, share in enumerate(shares) if share > 0]
    parts: list[list[str]] = [[] for _ in shares]
    order = sorted(sizes, key=lambda group: (-sizes[group], hashlib.sha256(f"{seed}:{group}".encode()).digest()))
    for left, group in zip(range(len(order), 0, -1), order, strict=True):
        empty = [part for part in wanted if not parts[part]]
        part = max(empty if left <= len(empty) else wanted, key=lambda part: lacks[part])
        parts[part].append(group)
        lacks[part] -= sizes[group]
    return [sorted(part) for part in parts]


def blocks(keys: Sequence[str], shares: Sequence[float]) -> list[list[str]]:
    """Cut an ordered list into contiguous blocks: for the frames of one drive, of which neighbours look alike.

    Each part that has a share has a key, where there are enough of them.
    """
    bounds = [round(len(keys) * sum(shares[:part]) / sum(shares)) for part in range(len(shares) + 1)]
    sizes = [last - first for first, last in pairwise(bounds)]
    wanted = [part for part, share in enumerate(shares) if share > 0]
    for part in wanted:
        if sizes[part] == 0 and len(keys) >= len(wanted):
            sizes[sizes.index(max(sizes))] -= 1
            sizes[part] = 1
    return [list(keys[last - size : last]) for size, last in zip(sizes, accumulate(sizes), strict=True)]


def joined(sequences: Mapping[str, str], together: Iterable[Iterable[str]]) -> dict[str, str]:
    """The group of each key: its sequence, where the sequences of keys that must share a split are one group, called as the first of them.

    Each entry costs about as much time as its length, however many there are: groups are trees, whose roots are their first sequences.
    """
    above = {sequence: sequence for sequence in sequences.values()}

    def first(sequence: str) -> str:
        while above[sequence] != sequence:
            above[sequence] = sequence = above[above[sequence]]
        return sequence

    for keys in together:
        roots = {first(sequences[key]) for key in keys if key in sequences}
        if roots:
            above |= dict.fromkeys(roots, min(roots))
    return {key: first(sequence) for key, sequence in sequences.items()}


def deal(sequences: Mapping[str, str], parts: int, seed: int = 0) -> list[list[str]]:
    """Deal pictures to several annotators, so that each has some of every video.

    A sequence of at least ``parts`` pictures is cut into contiguous blocks, one for each; shorter ones are dealt whole.

    Args:
        sequences: the video sequence of each key.
        parts: how many annotators.
        seed: decides which of the short sequences of one size go where.

    Returns:
        The keys of each part, sorted; no key is in two.
    """
    members: dict[str, list[str]] = {}
    for key in sorted(sequences):
        members.setdefault(sequences[key], []).append(key)
    hands: list[list[str]] = [[] for _ in range(parts)]
    short = {sequence: len(keys) for sequence, keys in members.items() if len(keys) < parts}
    for hand, whole in zip(hands, partition(short, [1] * parts, seed), strict=True):
        hand += [key for sequence in whole for key in members[sequence]]
    for keys in members.values():
        if len(keys) >= parts:
            for hand, block in zip(hands, blocks(keys, [1] * parts), strict=True):
                hand += block
    return [sorted(hand) for hand in hands]
