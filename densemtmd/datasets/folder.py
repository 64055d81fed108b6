"""A dataset on disk, as its YAML describes it.

:func:`open_dataset` finds the files, pairs and splits them, and decodes none; :meth:`Dataset.load` decodes one picture
with its labels, :func:`load_split` all of a split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from densemtmd.datasets import splitting
from densemtmd.datasets.config import DatasetConfig
from densemtmd.datasets.labels import CodeTable, code_table, read_labels
from densemtmd.datasets.pairing import find_folder, pair
from densemtmd.datasets.pictures import read_picture
from densemtmd.datasets.sample import Item, Sample
from densemtmd.datasets.splits import SPLITS, Folds, Fractions, joined
from densemtmd.errors import UserError
from densemtmd.kind import kind_of_encoding
from densemtmd.machine import ahead
from densemtmd.progress import followed
from densemtmd.tasks import VOID, Labelset, Task, nearest

T = TypeVar("T")

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
    target = read_labels(item.labels, config, codes, item)
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
    listed: str | Path | None = None,
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
    listed = None if listed is None else Path(listed)
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
    folder = find_folder(config, data_root)
    pairs = pair(config if listed is None else replace(config, exclude=()), folder, strict and listed is None)
    items, notes = pairs.items, pairs.notes
    groups = joined({key: item.sequence for key, item in items.items()}, config.together)
    cut: set[str] = set()
    if listed is None:
        keys = splitting.divided(config, rule, items, groups, folder, data_root, notes, cut)
        if config.derive:
            keys = splitting.taken(config, keys, groups)
        keys = {part: [key for key in keys[part] if key not in pairs.excluded] for part in SPLITS}
    else:
        keys = splitting.as_listed(config, listed, items, folder)
        cut = {item.sequence for item in items.values()}  # whatever was cut then: nobody shall be stopped by it now
    if not keys["train"] and not (isinstance(rule, Fractions) and not rule.train):  # pictures to test by alone are no mistake
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
    maps: Any = None             # what a frozen trunk gives of them (densemtmd.datasets.maps), where it is kept

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


def load_split(dataset: Dataset, split: str) -> list[Sample]:
    """Decode all pictures of a split into memory.

    Args:
        dataset: an open dataset.
        split: ``train``, ``val`` or ``test``.

    Returns:
        The samples in the order of their keys.

    Raises:
        UserError: no such split, or what :meth:`Dataset.load` raises.
    """
    if split not in dataset.splits:
        raise UserError(f"{dataset.name} has no split {split!r}; {nearest(split, dataset.splits)}")
    items = dataset.splits[split]
    return list(followed(ahead(dataset.load, items), f"decoding {dataset.name} {split}", len(items)))
