"""From a data choice to pictures that can be trained on: which datasets, which of their pictures, opened, checked and decoded.

A data choice is a file of ``conf/data/``, or ``data.<name>=<value>``: :class:`DataSettings`. :func:`open_data` finds its datasets on disk,
and renders those of the synthetic worlds where they are not there; :func:`load` decodes their pictures, or cuts out their hands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from densemtmd import backbones
from densemtmd.datasets import checks
from densemtmd.datasets.cache import load_all
from densemtmd.datasets.config import DatasetConfig, load_dataset_config
from densemtmd.datasets.folder import Dataset, Item, open_dataset
from densemtmd.datasets.hands.dataset import HandDataset, Hands, load_hands
from densemtmd.datasets.mixing import check_samples
from densemtmd.datasets.sample import Sample
from densemtmd.datasets.splits import Folds
from densemtmd.errors import UserError
from densemtmd.settings import DataSettings
from densemtmd.stack import geometry_of
from densemtmd.tasks import KeypointSet, Labelset, OutputSpace, Task, nearest

T = TypeVar("T")


@dataclass(frozen=True)
class Loaded:
    """One dataset with its pictures decoded, or with its hands cropped."""

    dataset: Dataset
    train: Sequence[Sample]
    val: Sequence[Sample]
    test: Sequence[Sample]
    hands: Mapping[str, Hands] = field(default_factory=dict)  # of each split; the samples are then none

    @property
    def name(self) -> str:
        return self.dataset.name

    @property
    def labelset(self) -> Labelset:
        return self.dataset.labelset

    @property
    def task(self) -> Task:
        return self.dataset.task

    @property
    def counts(self) -> str:
        """``180/40/80``: pictures to train, to validate and to test."""
        return "/".join(str(len(items)) for items in self.dataset.splits.values())


def open_data(data: DataSettings, data_root: str | Path) -> list[Dataset]:
    """Finds the datasets of a data choice; renders its synthetic worlds first where they are not there.

    Raises:
        UserError: a dataset that is missing or broken, two of one name, or a fold or split that none of them has.
    """
    root = Path(data_root)
    worlds = rendered(data, root)
    added = [] if data.add is None else data.add if isinstance(data.add, list) else [data.add]
    if strange := [name for name in added if not isinstance(name, str)]:
        raise UserError(f"data.add has {strange[0]!r}, expected the name of a dataset or the path of its YAML, or a list of these")
    configs = [(load_dataset_config(name), worlds.get(name, root)) for name in data.datasets]
    configs += [(load_dataset_config(name), root) for name in added]
    return open_configs(configs, data)


def rendered(data: DataSettings, root: Path) -> dict[str, Path]:
    """Where the datasets lie that a data choice has rendered; worlds that are not there are rendered below ``root``.

    Raises:
        UserError: a setting of a world that is unknown, or no whole number.
    """
    from densemtmd.worlds import annotators, hands, otherworld

    of_hands = [name for name in data.datasets if load_dataset_config(name).task.kind == KeypointSet.kind]
    of_streets = tuple(name for name in data.datasets if name in annotators.ANNOTATORS)
    known = ("frames", "test", "seed") if of_hands else ("images", "frames", "width", "height", "seed")
    world = whole_numbers("data.world", data.world or {}, known)
    others = whole_numbers("data.otherworld", data.otherworld or {}, ("images", "width", "height", "seed"))
    places: dict[str, Path] = {}
    if data.world is not None and of_hands:
        places |= dict.fromkeys(of_hands, hands.ensure_hands(root, hands.HandWorldSettings(**world)))
    elif data.world is not None and of_streets:
        places |= dict.fromkeys(of_streets, annotators.ensure_streets(root, annotators.StreetSettings(**world, annotators=of_streets)))
    if data.otherworld is not None and otherworld.NAME in data.datasets:
        places[otherworld.NAME] = otherworld.ensure_otherworld(root, otherworld.OtherSettings(**others))
    return places


def whole_numbers(setting: str, values: Mapping[str, Any], known: Sequence[str]) -> dict[str, int]:
    """The values, all of whose keys are known and which are whole numbers."""
    for key, value in values.items():
        if key not in known:
            raise UserError(f"unknown setting {setting}.{key}; {nearest(str(key), known)}")
        if type(value) is not int:
            raise UserError(f"{setting}.{key} is {value!r}, expected a whole number")
    return dict(values)


def open_configs(
    configs: Sequence[tuple[DatasetConfig, Path]], data: DataSettings, lists: Path | None = None
) -> list[Dataset]:
    """Finds datasets, each beneath its own data root, with what the data choice says of all of them; ``lists`` is a run's ``splits/``,
    where the splits are known already."""
    if not configs:
        raise UserError("data.datasets is empty: choose data=... or list datasets, built-in names or paths of YAMLs")
    folded = [config.name for config, _ in configs if isinstance(config.split, Folds)]
    named = [config.name for config, _ in configs if data.split in config.splits]
    if data.fold is not None and not folded:
        raise UserError(f"data.fold is {data.fold}, but none of {', '.join(c.name for c, _ in configs)} is split by folds: leave it out")
    if data.split is not None and not named:
        known = sorted({name for config, _ in configs for name in config.splits})
        raise UserError(f"data.split is {data.split!r}, which none of the datasets names; {nearest(data.split, known)}")
    own = sorted({config.domain for config, _ in configs})
    domains = data.domain if isinstance(data.domain, dict) else dict.fromkeys(own, data.domain)
    for name, domain in domains.items():
        if name not in own:
            raise UserError(f"data.domain has {name!r}, which is the domain of none of the datasets; {nearest(str(name), own)}")
        if not isinstance(domain, str | None):
            raise UserError(f"data.domain is {data.domain!r}, expected a name, or a name for each of {', '.join(own)}")
    opened = []
    for config, root in configs:
        fold, split = (data.fold if config.name in folded else None), (data.split if config.name in named else None)
        listed = lists / config.name if lists else None
        opened.append(open_dataset(config, root, domain=domains.get(config.domain), fold=fold, split=split, listed=listed))
    if lists is None:  # a run's own lists are the fewer already
        opened = fewer_pictures(opened, data.share or {})
    names = [dataset.name for dataset in opened]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"two datasets are called {twice[0]!r}: give one of them another name in its YAML")
    return opened


def fewer_pictures(datasets: Sequence[Dataset], share: Mapping[str, float]) -> list[Dataset]:
    """The datasets, as if only a share of some datasets' pictures had been labelled, to train as well as to validate on. Smaller shares
    are parts of larger ones; the test pictures stay.

    Raises:
        UserError: a dataset that is not there, or a share outside (0, 1].
    """
    for name, value in share.items():
        if name not in (known := [dataset.name for dataset in datasets]):
            raise UserError(f"data.share names {name!r}; {nearest(name, known)}")
        if not isinstance(value, int | float) or not 0 < value <= 1:
            raise UserError(f"data.share of {name} is {value!r}, expected more than 0 and at most 1")

    def part(dataset: Dataset, split: str) -> tuple[Item, ...]:
        items = dataset.splits[split]
        if split == "test" or dataset.name not in share:
            return items
        kept = np.random.default_rng(0).permutation(len(items))[: math.ceil(share[dataset.name] * len(items))]
        return tuple(items[n] for n in sorted(kept))

    return [replace(dataset, splits={split: part(dataset, split) for split in dataset.splits}) for dataset in datasets]


def output_space(datasets: Sequence[Dataset]) -> OutputSpace:
    """One task per labelset; datasets that share a labelset share its outputs."""
    tasks = {dataset.task.name: dataset.task for dataset in datasets}
    for dataset in datasets:
        if dataset.task != tasks[dataset.task.name]:
            raise UserError(f"two datasets have different labelsets called {dataset.task.name!r}: give one of them another name")
    return OutputSpace(list(tasks.values()))


def spread(items: Sequence[T], at_most: int) -> Sequence[T]:
    """At most so many of them, evenly from all; 0: all."""
    if not at_most or len(items) <= at_most:
        return items
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, at_most)]


def load(
    datasets: Sequence[Dataset],
    model: Mapping[str, Any],
    *,
    cache: Path | None,
    flip: bool,
    border: str,
    margin: float,
    at_most: int = 0,
) -> dict[str, Loaded]:
    """Decodes all pictures, or maps them from the cache, and checks them: errors in the data stop the run, warnings are shown.

    It is done before a run has a folder, so that what is wrong leaves none behind.

    Args:
        datasets: open ones, of one kind: all of pictures, or all of hands.
        model: the network that they are for, by the settings of it.
        cache: the folder in which decoded pictures and crops of hands are kept; None: nowhere.
        flip: ``train.flip``, whether training pictures are mirrored too.
        border: ``train.border``, by which a picture may be too small.
        margin: how much wider than its cube the crop of a hand is kept, for augmentation.
        at_most: so many pictures of each split; 0: all.

    Raises:
        UserError: an error in the data, no labelled pixel to train on, a picture smaller than a patch where ``border`` is valid, or no
            picture to validate on: which epoch is best must not be decided on the pictures that are trained or tested on.
    """
    for dataset in datasets:
        if not dataset.splits["val"]:
            raise UserError(f"{dataset.name} has no validation pictures: give its split in {dataset.config.path} some, such as val: 0.1")
    datasets = [few_pictures(dataset, at_most) for dataset in datasets]
    if all(isinstance(dataset, HandDataset) for dataset in datasets):
        return {d.name: cropped(d, cache, model.get("size", 64), margin) for d in datasets if isinstance(d, HandDataset)}
    decoded = [load_all(dataset, cache) for dataset in datasets]
    findings = checks.check([checks.survey_decoded(dataset, found) for dataset, found in zip(datasets, decoded, strict=True)])
    checks.refuse(findings)
    notes = [note for dataset in datasets for note in dataset.notes] + [found.note for found in decoded if found.note]
    for line in notes + [f"warning: {finding.message} [{finding.tag}]" for finding in findings if finding.severity == "warning"]:
        print(line)
    with torch.device("meta"):
        where = geometry_of(backbones.build(model, output_space(datasets)))
    loaded = {}
    for dataset, found in zip(datasets, decoded, strict=True):
        check_samples(dataset.name, found.splits["train"], where, flip=flip, border=border)
        loaded[dataset.name] = Loaded(dataset, found.splits["train"], found.splits["val"], found.splits["test"])
    return loaded


def cropped(dataset: HandDataset, cache: Path | None, size: int, margin: float) -> Loaded:
    """A dataset of hands with its crops, ``size`` pixels wide, those to train on as much wider as augmentation wants them; without the
    frames that show no hand."""
    hands = load_hands(dataset, cache, size, margin)
    keys = {split: set(some.keys) for split, some in hands.items()}
    splits = {split: tuple(item for item in items if item.key in keys[split]) for split, items in dataset.splits.items()}
    for note in [*dataset.notes, *(some.note for some in hands.values() if some.note)]:
        print(note)
    return Loaded(replace(dataset, splits=splits), (), (), (), hands)


def few_pictures(dataset: Dataset, at_most: int) -> Dataset:
    """The dataset with at most so many pictures of each split; 0: all."""
    return replace(dataset, splits={split: tuple(spread(items, at_most)) for split, items in dataset.splits.items()})
