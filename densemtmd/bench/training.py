"""What the benches that train have in common: a network, what it learns from, and how."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densemtmd.bench.networks import choice
from densemtmd.errors import UserError

if TYPE_CHECKING:
    from densemtmd.datasets.folder import Dataset
    from densemtmd.datasets.mixing import Mixture


@dataclass(frozen=True)
class Kind:
    """One way to train."""

    protocol: str
    precision: str
    changes: Mapping[str, int] = field(default_factory=dict)  # of its crop and batch


@dataclass(frozen=True)
class Training:
    """A network, what it learns from and how, as training has them."""

    network: Any
    mixture: Mixture
    settings: Any
    validation: Mapping[str, Sequence[Any]]  # samples of each dataset
    labelsets: Mapping[str, str]             # the name of that which annotates each dataset
    opening: float                           # seconds until the first batch could be drawn


def make_training(arguments: argparse.Namespace, kind: Kind, seed: int = 0) -> Training:
    """A fresh network, in eval mode, with its data."""
    import torch

    from densemtmd import backbones, checkpoint
    from densemtmd.data import output_space
    from densemtmd.datasets.cache import cache_folder, load_all
    from densemtmd.datasets.mixing import Mixture, Source
    from densemtmd.settings import TrainSettings

    given, compared = (choice("protocol", name).get("train") or {} for name in (kind.protocol, arguments.protocol))
    usual = TrainSettings(**compared)
    given |= {"optimizer": usual.optimizer, "lr": usual.lr, **kind.changes, **given_rate(arguments, kind.protocol)}
    settings = TrainSettings(**given, precision=kind.precision, workers=arguments.workers, checkpoint_seconds=60.0, patience=0)
    model = choice("model", arguments.model)
    datasets = open_datasets(arguments.datasets, arguments.data_root)
    torch.manual_seed(seed)
    network = backbones.build(model, output_space(datasets))
    network = network.eval().to(checkpoint.device_of(arguments.device), memory_format=torch.channels_last)  # type: ignore[call-overload]
    began = time.perf_counter()
    domains = list(dict.fromkeys(dataset.domain for dataset in datasets))
    sources, validation = [], {}
    for dataset in datasets:
        decoded = load_all(dataset, cache_folder(arguments.cache, Path(arguments.data_root).expanduser()))
        if decoded.note:
            print(decoded.note)
        task, domain = network.space.index(dataset.labelset.name), domains.index(dataset.domain)
        sources.append(Source(dataset.name, task, domain, decoded.splits["train"]))
        validation[dataset.name] = decoded.splits["val"]
    mixture = Mixture(
        sources, network.geometry, crop=settings.crop, batch=settings.batch, flip=settings.flip, colour=settings.colour,
        border=settings.border, mixing=settings.mixing, seed=seed,
    )  # fmt: skip
    labelsets = {dataset.name: dataset.labelset.name for dataset in datasets}
    return Training(network, mixture, settings, validation, labelsets, time.perf_counter() - began)


def given_rate(arguments: argparse.Namespace, protocol: str) -> dict[str, float]:
    """That which --lr gives a protocol, if it does."""
    given = dict(text.partition("=")[::2] for text in getattr(arguments, "lr", []))
    try:
        return {"lr": float(given[protocol])} if protocol in given else {}
    except ValueError:
        raise UserError(f"--lr gives {protocol} {given[protocol]!r}, expected a number as in {protocol}=0.01") from None


def open_datasets(names: Sequence[str], data_root: str) -> list[Dataset]:
    """The datasets, their files found and split."""
    from densemtmd.datasets.config import load_dataset_config
    from densemtmd.datasets.folder import open_dataset

    return [open_dataset(load_dataset_config(name), Path(data_root).expanduser()) for name in names]


def step_on(ready: Sequence[Any], learn: Callable[..., object], device: Any, n: int) -> None:
    """The n-th step on batches made before."""
    learn(ready[n % len(ready)].to(device))
