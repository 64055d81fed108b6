"""Labels of pixels: pictures in colour, each labelled in one dataset's labelset.

Shapes: ``N`` pictures, ``L`` labels of a labelset, ``H``, ``W`` pixels. What is found of pictures are their confusion matrices (N, L, L); a
tally (..., 3, L) of them holds of each label the pixels that are right, that are there, that were answered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from densemtmd import evaluation
from densemtmd.backbones.padded import check_scales
from densemtmd.criterion import label_weights, loss_weights, mixed, most_frequent
from densemtmd.datasets import checks
from densemtmd.datasets.cache import load_all
from densemtmd.datasets.cells import CellMixture
from densemtmd.datasets.config import DatasetConfig, parse_labelled
from densemtmd.datasets.folder import Dataset, Loaded, few_pictures, load_split, open_labelled, spread
from densemtmd.datasets.maps import KeptMaps
from densemtmd.datasets.mixing import Mixture, Source, check_samples
from densemtmd.datasets.sample import Batch, Batches, Sample, as_input
from densemtmd.draw import tables
from densemtmd.draw.attempt import drawing
from densemtmd.draw.figures import confusion_figure
from densemtmd.draw.labels import overlay
from densemtmd.errors import UserError
from densemtmd.files import write_text
from densemtmd.inference import strided_logits
from densemtmd.kind import Across, Criterion, Kind, Measure
from densemtmd.losses import selective_cross_entropy, selective_shares
from densemtmd.network import JointNetwork
from densemtmd.parallel import shared_out
from densemtmd.progress import Progress, note
from densemtmd.settings import LossSettings, RunSettings, ScoreSettings
from densemtmd.tasks import Labelset, OutputSpace, Task
from densemtmd.truth import truths_of

OVERFIT = 99.0
"""Percent of the outputs of its few batches that an overfitted network must get right: then the training can learn at all."""


class Pixels(Kind):
    name = "pixels"
    task = Labelset
    encodings = ()
    model = "patchnet"
    shows = "pictures in colour"
    measures = (
        Measure("global", "Global", "points of Global", "Global, validation, %", pooled_only=True),
        Measure("average", "Average", "points of Average", "Average, validation, %", pooled_only=True),
        Measure("iou", "IoU", "points of IoU", "IoU, validation, %"),
    )
    chief = measures[2]
    settings = ("loss",)
    merges = True

    def config(self, data: dict[str, Any], path: Path) -> DatasetConfig:
        return parse_labelled(data, path)

    def open(self, config: DatasetConfig, data_root: Path, **how: Any) -> Dataset:
        return open_labelled(config, data_root, **how)

    def load(
        self, datasets: Sequence[Dataset], network: JointNetwork, settings: RunSettings, cache: Path | None, at_most: int = 0
    ) -> dict[str, Loaded]:
        loss_weights(settings.loss.mix)
        datasets = [few_pictures(dataset, at_most) for dataset in datasets]
        decoded = [load_all(dataset, cache) for dataset in datasets]
        surveys = [checks.survey_decoded(dataset, found) for dataset, found in zip(datasets, decoded, strict=True)]
        findings = checks.check(surveys, checks.copies(surveys, cache))
        checks.refuse(findings)
        notes = [one for dataset in datasets for one in dataset.notes] + [found.note for found in decoded if found.note]
        for line in notes + checks.warnings(findings):
            note(line)
        flip, border = settings.train.flip, settings.train.border
        for dataset, found in zip(datasets, decoded, strict=True):
            check_samples(dataset.name, found.splits["train"], network.geometry, flip=flip, border=border)
        return {
            dataset.name: Loaded(dataset, found.splits, KeptMaps(dataset, cache)) for dataset, found in zip(datasets, decoded, strict=True)
        }

    def outputs_of(self, data: Loaded, network: JointNetwork) -> int:
        """Of a network whose trunk's maps are kept: cells."""
        stride = network.geometry.stride if network.trunk is None else network.trunk.grid
        return sum(math.ceil(s.target.shape[0] / stride) * math.ceil(s.target.shape[1] / stride) for s in data.pictures["train"])

    def asked_of(self, data: Loaded, split: str, at_most: int = 0) -> int:
        """Pixels."""
        return sum(sample.target.size for sample in spread(data.pictures[split], at_most))

    def mixture(
        self,
        data: Sequence[Loaded],
        split: str,
        network: JointNetwork,
        settings: RunSettings,
        seed: int,
        *,
        domains: Sequence[str],
        mixing: str | Mapping[str, float],
        equilibrium: bool = False,
    ) -> Mixture | CellMixture:
        train, space = settings.train, network.space
        sources = [
            Source(d.name, space.index(d.dataset.task.name), domains.index(d.dataset.domain) if domains else 0, d.pictures[split])
            for d in data
        ]
        if network.trunk is not None:
            maps = [d.maps.of(network, d.pictures[split]) for d in data]
            return CellMixture(
                sources, maps, network.trunk.grid, labels=[d.dataset.labelset.channels for d in data],
                most_labels=max(task.channels for task in space.tasks), batch=train.batch, rare=train.rare if split == "train" else 0.0,
                mixing=mixing, equilibrium=equilibrium, seed=seed,
            )  # fmt: skip
        return Mixture(
            sources, network.geometry, crop=train.crop, batch=train.batch, flip=train.flip, scale=train.scale, colour=train.colour,
            blur=train.blur, border=train.border, rare=train.rare if split == "train" else 0.0, mixing=mixing, equilibrium=equilibrium,
            seed=seed,
        )  # fmt: skip

    def shown(self, network: JointNetwork, crop: int) -> tuple[int, int, int]:
        """A cell of kept maps, or pixels; whole pictures, of which each has its own size, are taken to be of some size."""
        if network.trunk is not None:
            return network.trunk.channels, 1, 1
        side = network.geometry.pixels(max(1, math.ceil((crop or WHOLE) / network.geometry.stride)))
        return 3, side, side

    def prepare(self, network: JointNetwork, mixture: Batches) -> None:
        """What a trunk's maps are standardised by comes from cells of the training pictures, or from some of their crops."""
        device = next(network.parameters()).device
        if isinstance(mixture, CellMixture):
            network.standardise(mixture.some_maps())
        else:
            network.standardise(as_input(mixture.batch(step).image.to(device)) for step in range(FIT_BATCHES))

    def loss(self, outputs: torch.Tensor, batch: Batch, space: OutputSpace) -> torch.Tensor:
        """Eq. 2; where an output answers for several pixels, the mean of their losses."""
        if batch.target.is_floating_point():
            return selective_shares(outputs, batch.target, batch.task, space, batch.weight)
        return selective_cross_entropy(outputs, batch.target, batch.task, space, batch.weight)

    def criterion(self, data: Sequence[Loaded], space: OutputSpace, settings: RunSettings) -> Criterion:
        """The losses that ``loss.mix`` names, and labels weighted as ``loss.balance`` says."""
        how = settings.loss
        if how == LossSettings():
            return super().criterion(data, space, settings)
        targets = ((d.dataset.task.name, sample.target) for d in data for sample in d.pictures["train"])
        return mixed(how, space, label_weights(targets, space, how.balance) if how.balance else None)

    def fitted(self, network: JointNetwork, mixture: Batches, batches: int, data: Sequence[Loaded], device: torch.device) -> dict[str, Any]:
        """Labelsets are counted once, be they of several datasets."""
        labelsets = {d.dataset.task.name: d.dataset.task for d in data}
        network.eval()
        with torch.inference_mode():
            drawn = [mixture.batch(step).to(device) for step in range(batches)]
            answers = [network(as_input(batch.image)) for batch in drawn]
        matrices = {}
        for name, labelset in labelsets.items():
            counts = torch.zeros(labelset.channels, labelset.channels, dtype=torch.int64, device=device)
            for batch, logits in zip(drawn, answers, strict=True):
                own = batch.task == network.space.index(name)
                answer = logits[own][:, network.space.slice(name)].argmax(1)
                counts += evaluation.confusion(answer, most_frequent(batch.target)[own], labelset.channels)
            matrices[name] = counts.cpu().numpy()
        return self.report(matrices, labelsets)

    def learned(self, scored: Mapping[str, Any]) -> str | None:
        right = scored["pooled"]["global"] or 0.0
        return None if right >= OVERFIT else f"only {right:.1f} % of the outputs of {{of}} are right{{after}}, expected {OVERFIT:.0f} %"

    def way(self, how: ScoreSettings) -> dict[str, Any]:
        return how.way

    def check_way(self, how: ScoreSettings) -> None:
        check_scales("score.scales", how.scales)
        if how.copies and how.scoring != "dense":
            raise UserError(
                f"score.mirror is {str(how.mirror).lower()} and score.scales {how.scales}, but score.scoring {how.scoring}: copies of a "
                "picture are scored at every pixel, so use score.scoring=dense"
            )

    def before_scoring(self, network: JointNetwork, data: Loaded, split: str, at_most: int = 0) -> None:
        """The features of a trunk that is frozen, which says of them how far it is."""
        if network.trunk is not None and data.maps is not None:
            data.maps.of(network, spread(data.pictures[split], at_most))

    def score(
        self,
        network: JointNetwork,
        data: Loaded,
        split: str,
        at_most: int,
        how: ScoreSettings,
        device: torch.device,
        tick: Callable[[int], object] = lambda count: None,
        precision: str = "float32",
        most_pixels: int = 0,
    ) -> np.ndarray:
        samples, name = spread(data.pictures[split], at_most), data.dataset.task.name
        if network.trunk is not None and data.maps is not None and precision == "float32" and not how.copies:
            maps = data.maps.of(network, samples)

            def of_kept(numbers: Sequence[int]) -> np.ndarray:
                own, kept = [samples[n] for n in numbers], [maps[n] for n in numbers]
                return evaluation.score_kept(network, name, own, kept, interior=how.interior, device=device, tick=lambda: tick(1))

            return shared_out(of_kept, range(len(samples)))

        def of_pictures(numbers: Sequence[int]) -> np.ndarray:
            own = [middle(samples[n], most_pixels) for n in numbers]
            return evaluation.score_pictures(
                network, name, own, **self.way(how), precision=precision, device=device, tick=lambda: tick(1),
            )  # fmt: skip

        return shared_out(of_pictures, range(len(samples)))

    def for_scoring(self, dataset: Dataset, split: str, network: JointNetwork, cache: Path | None) -> Loaded:
        samples = load_all(dataset, cache).splits[split] if cache else load_split(dataset, split)
        return Loaded(dataset, {split: samples}, KeptMaps(dataset, cache))

    def across(self, networks: Sequence[JointNetwork], datasets: Sequence[Dataset], split: str, how: ScoreSettings, **where: Any) -> Across:
        matrices: dict[str, dict[str, np.ndarray]] = {}
        truths = truths_of(datasets)
        pictures = sum(len(d.splits[split]) for truth in truths for d in truth.datasets)
        with Progress("scoring across annotators", pictures) as progress:
            for truth in truths:
                for dataset in truth.datasets:
                    progress.part = dataset.name
                    found = evaluation.score_across(networks, truth, dataset, split, **self.way(how), **where, tick=progress.tick)
                    for name, counts in found.items():
                        matrices.setdefault(name, {})[dataset.name] = counts.sum(0)
        scored = evaluation.cross_report(matrices) | self.way(how)
        return Across(scored, tables.cross_tables(scored), tables.cross_markdown(scored), pictures)

    def report(self, found: Mapping[str, np.ndarray], tasks: Mapping[str, Task]) -> dict[str, Any]:
        return evaluation.report(found, {name: labelset(task) for name, task in tasks.items()})

    def arrays(self, name: str, found: np.ndarray) -> dict[str, np.ndarray]:
        return {name: found}

    def stored(self, arrays: Mapping[str, np.ndarray], name: str, about: Mapping[str, Any]) -> np.ndarray:
        matrix, count = arrays[name], len(about["labels"])
        if matrix.ndim != 3 or matrix.shape[1:] != (count, count) or not len(matrix) or matrix.dtype.kind not in "iu":
            raise ValueError(f"it holds {matrix.dtype}s of shape {matrix.shape} for {name}, not counts of {count} labels")
        if (matrix < 0).any():
            raise ValueError(f"it holds counts below 0 for {name}")
        return matrix

    def tally(self, found: np.ndarray) -> np.ndarray:
        return np.stack([np.diagonal(found, axis1=-2, axis2=-1), found.sum(-1), found.sum(-2)], -2)

    def pooled(self, tallies: Sequence[np.ndarray]) -> np.ndarray:
        """As :func:`densemtmd.evaluation.scores` pools datasets."""
        right, true, answered = np.moveaxis(np.concatenate(tallies, -1).astype(float), -2, 0)
        present = true > 0
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = np.where(present, right / true, 0).sum(-1) / present.sum(-1)
            iou = np.where(present, right / (true + answered - right), 0).sum(-1) / present.sum(-1)
            return 100 * np.stack([right.sum(-1) / true.sum(-1), recall, iou], -1)

    def asked(self, found: np.ndarray) -> np.ndarray:
        """(N, L): of each label the pixels that are there."""
        return found.sum(2)

    def parts(self, about: Mapping[str, Any]) -> list[str]:
        return list(about["labels"])

    def table(self, scored: Mapping[str, Any]) -> str:
        return tables.scores_table(scored)

    def details(self, scored: Mapping[str, Any]) -> str:
        return tables.labels_table(scored)

    def markdown(self, scored: Mapping[str, Any]) -> str:
        return tables.scores_markdown(scored)

    def figures(self, found: Mapping[str, np.ndarray], tasks: Mapping[str, Task], folder: Path) -> None:
        for name, matrices in found.items():
            if (whole := matrices.sum(0)).any():
                write_text(folder / f"confusion_{name}.csv", tables.confusion_csv(whole, labelset(tasks[name]).labels))
                with drawing(file := folder / f"confusion_{name}.png"):
                    confusion_figure(whole, labelset(tasks[name]), file)

    def drawn(self, network: JointNetwork, data: Loaded, at_most: int, device: torch.device) -> list[tuple[str, Image]]:
        task = labelset(network.space[data.dataset.task.name])  # whose colours fit those of the other labelsets
        return [(sample.name, labelled(network, task, sample, device)) for sample in spread(data.pictures["val"], at_most)]

    def measured(self, scored: Mapping[str, Any], split: str) -> str:
        return f"Percent on the {split} pictures, {tables.how_scored(scored)}"

    def manner(self, scored: Mapping[str, Any]) -> str:
        return f", {tables.how_scored(scored)}"

    def protocol(self, train: Mapping[str, Any], model: str) -> str:
        if model != self.model:
            return "cells of kept features" if model == "frozen" else "regions, every pixel of them"
        return "single patches, as the paper" if train["crop"] == 1 else "strided"

    def next_step(self, folder: Path) -> str:
        return f"label pictures with it:\n  python tools/infer.py PICTURE --labelset all --checkpoint {folder}"


WHOLE = 256
"""Pixels along a side of a picture of which nothing is known yet."""

FIT_BATCHES = 4
"""From the pictures of so many batches a network takes what it must know of them before it learns."""


def labelset(task: Task) -> Labelset:
    """A task of this kind, as what it is."""
    assert isinstance(task, Labelset)
    return task


def middle(sample: Sample, most: int) -> Sample:
    """The middle of a picture of more than so many pixels, of about its shape and at most so large; 0: the whole picture."""
    height, width = sample.target.shape
    share = math.sqrt(most / (height * width)) if 0 < most < height * width else 1.0
    rows, columns = (
        slice((size - kept) // 2, (size - kept) // 2 + kept) for size, kept in ((n, max(1, int(n * share))) for n in (height, width))
    )
    return Sample(sample.image[rows, columns], sample.target[rows, columns], sample.name)


def labelled(network: JointNetwork, task: Labelset, sample: Sample, device: torch.device) -> Image:
    """A picture with its labels as the network gives them at the moment, in blocks of one strided answer each."""
    stride = network.geometry.stride
    alone = network.eval().only([task.name])
    with torch.inference_mode():
        logits = strided_logits(alone, sample.image, device)[alone.space.slice(task.name)]
    ids = logits.argmax(0).to(torch.uint8).cpu().numpy().repeat(stride, 0).repeat(stride, 1)
    height, width = sample.target.shape
    return overlay(sample.image, ids[:height, :width], task)


KIND = Pixels()
