"""Scoring a trained network once more: which run it is of, on which pictures, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densemtmd import composing
from densemtmd.data import open_data
from densemtmd.datasets.cache import cache_folder
from densemtmd.datasets.folder import Dataset, Item
from densemtmd.errors import UserError
from densemtmd.inference import Predictor
from densemtmd.kind import kind_of
from densemtmd.progress import Progress
from densemtmd.runs.folder import reopen
from densemtmd.settings import DataSettings, ScoreSettings
from densemtmd.tasks import OutputSpace
from densemtmd.truth import named_truths

if TYPE_CHECKING:
    import numpy as np


def evaluate(
    checkpoint: str | Path,
    data: str | None = None,
    data_root: str | Path | None = None,
    *,
    split: str = "test",
    scoring: str = "dense",
    interior: bool = False,
    device: str = "auto",
    precision: str = "float32",
    mirror: bool = False,
    scales: Sequence[float] = (1.0,),
) -> dict[str, Any]:
    """The scores of a trained network, as ``scores.json`` holds them; nothing is written.

    Args:
        checkpoint: a run's folder, or a ``.safetensors`` file.
        data: a choice of ``conf/data/``, or names or YAMLs of datasets, separated by commas; None: those of the run.
        data_root: the folder of the datasets' folders; None: where they were, or ``data``.
        split: train, val or test.
        scoring: dense, every labelled pixel, or strided, a 16th of them.
        interior: only pixels whose patch lies wholly inside the picture.
        device: auto, cpu, cuda, ...
        precision: float32, or bfloat16, which is faster.
        mirror: average the probabilities of each picture and of its mirrored copy.
        scales: average those of copies enlarged by each of these.

    Raises:
        UserError: no network or no pictures there, or labels that the network did not learn.

    >>> evaluate("runs/my-run", split="val")["pooled"]["iou"]  # doctest: +SKIP
    48.6
    """
    predictor = Predictor.load(checkpoint, device, precision)
    datasets, cache = chosen(checkpoint, data, data_root)
    check_labelsets(datasets, predictor.space)
    for dataset in datasets:
        if not dataset.splits.get(split):
            raise UserError(f"{dataset.name} has no {split} pictures; choose another split")
    kind, how = kind_of(predictor.space.kind), ScoreSettings(scoring, interior=interior, mirror=mirror, scales=list(scales))
    kind.check_way(how)
    answers, _ = answered(predictor, datasets, split, how, cache)
    scored = kind.report(answers, {dataset.name: dataset.task for dataset in datasets})
    other = {} if predictor.precision == "float32" else {"precision": predictor.precision}
    return {"kind": kind.name, **scored, **kind.way(how), "split": split, **other}


def answered(
    predictor: Predictor, datasets: Sequence[Dataset], split: str, how: ScoreSettings, cache: Path | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Sequence[Item]]]:
    """What the kind of the network's task counts of its answers on each picture, by dataset, and the pictures."""
    kind = kind_of(predictor.space.kind)
    counted: dict[str, np.ndarray] = {}
    pictures: dict[str, Sequence[Item]] = {dataset.name: dataset.splits[split] for dataset in datasets}
    where: dict[str, Any] = {"device": predictor.device, "precision": predictor.precision}
    with Progress(f"scoring ({how.scoring})", sum(map(len, pictures.values()))) as progress:
        for dataset in datasets:
            network = next(network for network in predictor.networks if dataset.task.name in network.space.names)
            progress.part = dataset.name
            with progress.paused():
                loaded = kind.for_scoring(dataset, split, network, cache)
                if not how.copies and predictor.precision == "float32":
                    kind.before_scoring(network, loaded, split)
            pictures[dataset.name] = loaded.dataset.splits[split]
            counted[dataset.name] = kind.score(network, loaded, split, 0, how, tick=progress.tick, **where)
    return counted, pictures


def run_of(checkpoint: str | Path) -> Path | None:
    """The folder of the run that a checkpoint lies in, or None."""
    checkpoint = Path(checkpoint)
    folders = [checkpoint, *checkpoint.absolute().parents[:2]] if checkpoint.is_dir() else checkpoint.absolute().parents[:2]
    return next((folder for folder in folders if (folder / "config.yaml").is_file()), None)


def chosen(
    checkpoint: str | Path, data: str | None = None, data_root: str | Path | None = None, truths: OutputSpace | None = None
) -> tuple[list[Dataset], Path | None]:
    """The datasets to score a network on, and where their decoded pictures are kept.

    Args:
        checkpoint: the network's.
        data: a choice of ``conf/data/``, or names or YAMLs of datasets, separated by commas; None: those of its run.
        data_root: the folder of the datasets' folders; None: where they were, or ``data``.
        truths: of a network: with the datasets that they name in ``truth: {with: ...}``, as far as it knows their labelsets.

    Raises:
        UserError: datasets that are not found, or none named of a checkpoint that lies in no run.
    """
    if data is None:
        if (run := run_of(checkpoint)) is None:
            raise UserError(f"{checkpoint} lies in no run's folder, which would tell its data: name some with --data")
        settings, datasets = reopen(run, data_root)
        root, cache = Path(settings.data_root), None if settings.debug else cache_folder(settings.cache, settings.data_root)
    else:
        root = Path(data_root or "data")
        built_in = (composing.CONF / "data" / f"{data}.yaml").is_file()
        settings_of_data = composing.compose([f"data={data}"]).data if built_in else DataSettings(datasets=data.split(","))
        datasets, cache = open_data(settings_of_data, root), cache_folder("auto", root)
    return [*datasets, *([] if truths is None else named_truths(datasets, root, truths.names))], cache


def check_labelsets(datasets: Sequence[Dataset], space: OutputSpace) -> None:
    """Refuses datasets whose labelsets the network does not know."""
    for dataset in datasets:
        if space[dataset.task.name] != dataset.task:
            raise UserError(
                f"the network's labelset {dataset.task.name!r} is not that of the dataset in {dataset.config.path}: their labels differ"
            )
