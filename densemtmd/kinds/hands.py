"""Keypoints of hands in depth pictures (section 4.4).

Shapes: ``N`` hands, ``J`` keypoints. What is found of hands are the errors (N, J, 2) of their keypoints, in mm and px; a tally (..., 3, 1)
of them holds the sums of mm and px, each a mean over a hand's keypoints, and the number of hands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL.Image import Image

from densemtmd import keypoints, poses
from densemtmd.datasets.config import DEFAULT_SPLIT, Codes, DatasetConfig, _mapping, _text
from densemtmd.datasets.folder import Dataset, Loaded, few_pictures, spread
from densemtmd.datasets.hands.augment import Augmentation
from densemtmd.datasets.hands.dataset import Hands, as_listed, load_hands, open_hands
from densemtmd.datasets.hands.mixing import HandMixture, HandSource, as_seen
from densemtmd.datasets.hands.sets import HAND_SETS, HandSet, hand_set
from densemtmd.datasets.pairing import find_folder
from densemtmd.datasets.sample import Batch, Batches
from densemtmd.draw import tables
from densemtmd.draw.figures import within_figure
from densemtmd.draw.skeletons import crop_skeleton
from densemtmd.errors import UserError
from densemtmd.kind import Across, Kind, Measure
from densemtmd.losses import selective_l2
from densemtmd.network import JointNetwork
from densemtmd.parallel import shared_out
from densemtmd.progress import Progress, note
from densemtmd.settings import HandsSettings, RunSettings, ScoreSettings
from densemtmd.tasks import KeypointSet, OutputSpace, Task
from densemtmd.truth import hand_truth

KEYS = ("name", "domain", "folder", "encoding", "centres", "where")
"""Of the YAML of a dataset of hands."""

OVERFIT = 10.0
"""The mean error that an overfitted network must leave at most on its few batches, mm: about a fifth of that of always answering the mean
pose."""


class Keypoints(Kind):
    name = "hands"
    task = KeypointSet
    encodings = tuple(HAND_SETS)
    model = "handnet"
    shows = "hands in depth"
    measures = (
        Measure(
            "mm", "mm", "mm of mean error", "mean 3D error, validation, mm", digits=2, less_is_better=True, paper="3d_mm",
            full="mean error in mm",
        ),
        Measure(
            "px", "px", "px of mean error", "mean 2D error, validation, px", digits=2, less_is_better=True, paper="2d_px",
            full="mean error in px",
        ),
    )  # fmt: skip
    chief = measures[0]
    settings = ("hands",)

    def config(self, data: dict[str, Any], path: Path) -> DatasetConfig:
        return parse(data, path)

    def open(self, config: DatasetConfig, data_root: Path, **how: Any) -> Dataset:
        found = open_hands(config, find_folder(config, data_root), how.get("domain") or config.domain)
        return found if how.get("listed") is None else as_listed(found, how["listed"])

    def load(
        self, datasets: Sequence[Dataset], network: JointNetwork, settings: RunSettings, cache: Path | None, at_most: int = 0
    ) -> dict[str, Loaded]:
        margin = augmentation(settings.hands).margin
        return {d.name: cropped(few_pictures(d, at_most), cache, poses.size_of(network), margin) for d in datasets}

    def outputs_of(self, data: Loaded, network: JointNetwork) -> int:
        return len(data.pictures["train"])

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
    ) -> HandMixture:
        space = network.space
        sources = [
            HandSource(d.name, space.index(d.dataset.task.name), domains.index(d.dataset.domain) if domains else 0, d.pictures[split])
            for d in data
        ]
        return HandMixture(
            sources, space, size=poses.size_of(network), batch=settings.train.batch, mixing=mixing,
            augmentation=augmentation(settings.hands), unit=settings.hands.loss, equilibrium=equilibrium, seed=seed,
        )  # fmt: skip

    def shown(self, network: JointNetwork, crop: int) -> tuple[int, int, int]:
        return 1, poses.size_of(network), poses.size_of(network)

    def loss(self, outputs: torch.Tensor, batch: Batch, space: OutputSpace) -> torch.Tensor:
        known = batch.target.isfinite()
        return selective_l2(outputs, batch.target.nan_to_num(), known, batch.task, space, batch.weight)

    def fitted(self, network: JointNetwork, mixture: Batches, batches: int, data: Sequence[Loaded], device: torch.device) -> dict[str, Any]:
        assert isinstance(mixture, HandMixture)
        found = poses.fitted(network, mixture, batches, {d.name: annotator(d.dataset) for d in data}, device)
        return keypoints.report(found, {d.name: keypoints_of(d.dataset.task) for d in data})

    def learned(self, scored: Mapping[str, Any]) -> str | None:
        mm = scored["pooled"]["mm"]
        return None if mm <= OVERFIT else f"the keypoints of {{of}} are {mm:.1f} mm off{{after}}, expected at most {OVERFIT:.0f} mm"

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
        hands: Hands = data.pictures[split]

        def of_some(numbers: Sequence[int]) -> np.ndarray:
            errors = poses.errors_of(network, data.dataset.task.name, hands.take(numbers), annotator(data.dataset), device, tick)
            return np.stack([errors.mm, errors.px], -1)

        return shared_out(of_some, spread(range(len(hands)), at_most))

    def for_scoring(self, dataset: Dataset, split: str, network: JointNetwork, cache: Path | None) -> Loaded:
        return cropped(replace(dataset, splits={split: dataset.splits[split]}), cache, poses.size_of(network), 1.0)

    def across(self, networks: Sequence[JointNetwork], datasets: Sequence[Dataset], split: str, how: ScoreSettings, **where: Any) -> Across:
        if unknown := [d.name for d in datasets if not hand_truth(d, split, [])]:
            raise UserError(
                f"of the hands of {', '.join(unknown)} no more is known than the dataset annotates, expected those of the hand world: give "
                "--data hands"
            )
        errors: dict[str, dict[str, keypoints.Errors]] = {}
        loaded = [self.for_scoring(dataset, split, networks[0], None).pictures[split] for dataset in datasets]
        pictures, tasks = sum(map(len, loaded)), sum(len(network.space.names) for network in networks)
        with Progress("scoring across annotators", tasks * pictures, "answers") as progress:
            for dataset, hands in zip(datasets, loaded, strict=True):
                truth = hand_truth(dataset, split, hands.keys)
                progress.part = dataset.name
                found = poses.errors_across(networks, hands, truth, annotator(dataset), where["device"], progress.tick)
                for task, error in found.items():
                    errors.setdefault(task, {})[dataset.name] = error
        scored = keypoints.cross_report(errors, {name: who.keypoints.keypoints for name, who in HAND_SETS.items()})
        return Across(scored, tables.cross_errors_table(scored), tables.cross_errors_markdown(scored), pictures)

    def report(self, found: Mapping[str, np.ndarray], tasks: Mapping[str, Task]) -> dict[str, Any]:
        errors = {name: keypoints.Errors(one[..., 0], one[..., 1]) for name, one in found.items()}
        return keypoints.report(errors, {name: keypoints_of(task) for name, task in tasks.items()})

    def arrays(self, name: str, found: np.ndarray) -> dict[str, np.ndarray]:
        return {f"{name}/mm": found[..., 0], f"{name}/px": found[..., 1]}

    def stored(self, arrays: Mapping[str, np.ndarray], name: str, about: Mapping[str, Any]) -> np.ndarray:
        found, count = np.stack([arrays[f"{name}/mm"], arrays[f"{name}/px"]], -1), len(about["keypoints"])
        if found.ndim != 3 or found.shape[1] != count or not len(found) or not (found >= 0).all():
            raise ValueError(f"it holds numbers of shape {found.shape} for {name}, not errors of {count} keypoints")
        return found

    def tally(self, found: np.ndarray) -> np.ndarray:
        return np.concatenate([found.mean(1), np.ones((len(found), 1))], 1)[..., None]

    def pooled(self, tallies: Sequence[np.ndarray]) -> np.ndarray:
        """px of several datasets is NaN, as their pictures differ in resolution."""
        mm, px, frames = np.moveaxis(np.concatenate(tallies, -1).astype(float), -2, 0)
        means = np.stack([mm.sum(-1), px.sum(-1) if len(tallies) == 1 else np.full(px.shape[:-1], np.nan)], -1)
        return means / frames.sum(-1)[..., None]

    def asked(self, found: np.ndarray) -> np.ndarray:
        """The keypoints are always the same ones."""
        return np.ones(found.shape)

    def parts(self, about: Mapping[str, Any]) -> list[str]:
        return list(about["keypoints"])

    def table(self, scored: Mapping[str, Any]) -> str:
        return tables.errors_table(scored)

    def details(self, scored: Mapping[str, Any]) -> str:
        return tables.keypoints_table(scored)

    def markdown(self, scored: Mapping[str, Any]) -> str:
        return tables.errors_markdown(scored)

    def figures(self, found: Mapping[str, np.ndarray], tasks: Mapping[str, Task], folder: Path) -> None:
        within_figure({name: errors[..., 0] for name, errors in found.items()}, folder / "within.png")

    def drawn(self, network: JointNetwork, data: Loaded, at_most: int, device: torch.device) -> list[tuple[str, Image]]:
        hands: Hands = data.pictures["val"]
        some = hands.take(spread(range(len(hands)), at_most))
        images = as_seen(some, poses.size_of(network))
        found = poses.answers(network, data.dataset.task.name, images, device)
        who = annotator(data.dataset)
        return [(key, crop_skeleton(image, one, who)) for key, image, one in zip(some.keys, images, found, strict=True)]

    def measured(self, scored: Mapping[str, Any], split: str) -> str:
        return f"Mean errors of keypoints on the {split} frames"

    def protocol(self, train: Mapping[str, Any], model: str) -> str:
        return f"batches of {train['batch']} hands"

    def next_step(self, folder: Path) -> str:
        return f"find hands with it:\n  python tools/infer.py DEPTH.png --keypoints all --checkpoint {folder}"


def parse(data: Mapping[str, Any], path: Path) -> DatasetConfig:
    """A dataset of hands, from the content of its YAML: its files say all else."""
    data = {key: value for key, value in _mapping(data, KEYS, str(path)).items() if value is not None}
    if "name" not in data:
        raise UserError(f"{path} has no key 'name', which every dataset needs")
    name = _text(data["name"], "name", path)
    centres = _mapping(data.get("centres", {}), ("train", "test"), f"{path}: centres")
    return DatasetConfig(
        name=name,
        domain=_text(data.get("domain", name), "domain", path),
        folder=_text(data.get("folder", name), "folder", path),
        images=(), labels=(), key=None, encoding=data["encoding"], mat_key=None,
        task=hand_set(data["encoding"]).keypoints,
        codes=Codes((), (), False, None),
        sequence=None, together=(), split=DEFAULT_SPLIT, splits={}, exclude=(), known=(),
        where=_text(data["where"], "where", path) if "where" in data else None,
        derive=None,
        path=path,
        centres={split: _text(file, "centres", path) for split, file in centres.items()},
    )  # fmt: skip


def keypoints_of(task: Task) -> Sequence[str]:
    """The names of a task's keypoints."""
    assert isinstance(task, KeypointSet)
    return task.keypoints


def annotator(dataset: Dataset) -> HandSet:
    """Who annotated a dataset: its camera and its keypoints."""
    return hand_set(dataset.config.encoding)


def augmentation(hands: HandsSettings) -> Augmentation:
    """How hands are turned, scaled and moved."""
    return Augmentation(hands.rotate, hands.scale, hands.shift)


def cropped(dataset: Dataset, cache: Path | None, size: int, margin: float) -> Loaded:
    """A dataset of hands with its crops, ``size`` pixels wide, those to train on as much wider as augmentation wants them; without the
    frames that show no hand."""
    hands = load_hands(dataset, cache, size, margin)
    keys = {split: set(some.keys) for split, some in hands.items()}
    splits = {split: tuple(item for item in items if item.key in keys[split]) for split, items in dataset.splits.items()}
    for line in [*dataset.notes, *(some.note for some in hands.values() if some.note)]:
        note(line)
    return Loaded(replace(dataset, splits=splits), hands)


KIND = Keypoints()
