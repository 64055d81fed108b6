"""From a data choice to pictures that can be trained on: which datasets, which of their pictures, opened, checked and decoded.

A data choice is a file of ``conf/data/``, or ``data.<name>=<value>``: :class:`DataSettings`. :func:`open_data` finds its datasets on disk,
and renders those of the synthetic worlds where they are not there; :func:`load` decodes their pictures, or cuts out their hands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from densemtmd.datasets.cache import cache_folder
from densemtmd.datasets.config import DatasetConfig, load_dataset_config
from densemtmd.datasets.folder import Dataset, Loaded, open_dataset
from densemtmd.datasets.sample import Item
from densemtmd.datasets.splits import Folds
from densemtmd.errors import UserError
from densemtmd.kind import kind_of
from densemtmd.network import JointNetwork
from densemtmd.settings import DataSettings, RunSettings
from densemtmd.tasks import Labelset, OutputSpace, harmonised, nearest


def open_data(data: DataSettings, data_root: str | Path) -> list[Dataset]:
    """Finds the datasets of a data choice; renders its synthetic worlds first where they are not there.

    Raises:
        UserError: a dataset that is missing or broken, two of one name, or a fold or split that none of them has.
    """
    root = Path(data_root)
    from densemtmd.worlds.choice import rendered  # a renderer is imported where one is wanted

    worlds = rendered(data, root)
    added = [] if data.add is None else data.add if isinstance(data.add, list) else [data.add]
    if strange := [name for name in added if not isinstance(name, str)]:
        raise UserError(f"data.add has {strange[0]!r}, expected the name of a dataset or the path of its YAML, or a list of these")
    configs = [(load_dataset_config(name), worlds.get(name, root)) for name in data.datasets]
    configs += [(load_dataset_config(name), root) for name in added]
    return open_configs(configs, data)


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
    drawn = {task.name: task for task in harmonised([task for task in tasks.values() if isinstance(task, Labelset)])}
    return OutputSpace([drawn.get(name, task) for name, task in tasks.items()])


def load(datasets: Sequence[Dataset], network: JointNetwork, settings: RunSettings) -> dict[str, Loaded]:
    """Decodes all pictures, or maps them from the cache, and checks them: errors in the data stop the run, warnings are shown.

    It is done before a run has a folder, so that what is wrong leaves none behind.

    Args:
        datasets: open ones, of one kind.
        network: that will see them; it may be without memory (on torch's meta device).
        settings: of the run.

    Raises:
        UserError: what the kind's ``load`` raises, or no picture to validate on: which epoch is best must not be decided on the pictures
            that are trained or tested on.
    """
    for dataset in datasets:
        if not dataset.splits["val"]:
            raise UserError(f"{dataset.name} has no validation pictures: give its split in {dataset.config.path} some, such as val: 0.1")
    cache = None if settings.debug else cache_folder(settings.cache, settings.data_root)
    return kind_of(datasets[0].task.kind).load(datasets, network, settings, cache, at_most=2 if settings.debug else 0)


def domains_of(data: Sequence[Loaded]) -> list[str]:
    """The names of the domains of some datasets, in their order; none where all are of one domain, and there is nothing to tell apart."""
    domains = list(dict.fromkeys(d.dataset.domain for d in data))
    return domains if len(domains) > 1 else []
