"""What several tests share: small datasets on disk that a small network learns in seconds (grey pictures with a bright square or
disc somewhere), a small network whose answers are no accident, folders of finished runs whose confusion matrices are made up, and the
look of an error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from densemtmd import Labelset, OutputSpace
from densemtmd.backbones import build
from densemtmd.backbones.torchvision_cpu import import_smp
from densemtmd.datasets.folder import Dataset
from densemtmd.errors import UserError
from densemtmd.evaluation import report
from densemtmd.network import JointNetwork

MODEL = {"name": "patchnet", "widths": [4, 6, 8], "hidden": 10}


def write_toy(root: Path, name: str, shape: str, pictures: int = 12, size: tuple[int, int] = (40, 52), seed: int = 0) -> Path:
    """A dataset of ``pictures`` pictures whose labels tell one ``shape`` (square or disc) from the rest; returns its YAML."""
    random = np.random.default_rng([seed, len(shape)])
    (root / name / "images").mkdir(parents=True)
    (root / name / "labels").mkdir()
    rows, columns = np.mgrid[: size[0], : size[1]]
    for n in range(pictures):
        picture = random.integers(60, 120, (*size, 3)).astype(np.uint8)
        labels = np.zeros(size, np.uint8)
        for kind, colour in (("square", (230, 40, 40)), ("disc", (40, 40, 230))):
            y, x = random.integers(6, size[0] - 6), random.integers(6, size[1] - 6)
            distance = np.maximum(abs(rows - y), abs(columns - x)) if kind == "square" else np.hypot(rows - y, columns - x)
            picture[distance < 8] = colour
            labels[distance < 8] = kind == shape
        labels[:2] = 255
        Image.fromarray(picture).save(root / name / "images" / f"{n:03}.png")
        Image.fromarray(labels).save(root / name / "labels" / f"{n:03}.png")
    file = root / f"{name}.yaml"
    file.write_text(
        yaml.safe_dump(
            {
                "name": name,
                "images": "images/*.png",
                "labels": "labels/*.png",
                "encoding": "index",
                "labelset": ["other", shape],
                "void": [255],
                "split": {"fractions": {"train": 0.5, "val": 0.25, "test": 0.25}, "seed": 0},
            }
        )
    )
    return file


def write_run(
    folder: Path, strategy: str, seed: int, matrices: dict[str, np.ndarray], *,
    sequences=None, train=None, scoring="strided", split="test", stages=None, training=None, domains=None, **config,
) -> Path:  # fmt: skip
    """The folder of a finished run, without its network.

    Args:
        folder: to make.
        strategy: its name.
        seed: of the run.
        matrices: of each dataset (N, L, L) counts.
        sequences: of each dataset (N,) the video that each picture is of; without it the file is that of an older run.
        train: settings that differ from the defaults.
        scoring: dense or strided.
        split: whose pictures were scored.
        stages: of the strategy; by default one network for all datasets.
        training: of each network its steps, passes and whether it stopped early; without it the run is an older one, which does not say so.
        domains: how well a fresh classifier tells domains apart by the features of a network, and chance, percent.
        config: further keys of ``config.yaml``.
    """
    folder.mkdir(parents=True)
    labelsets = {name: Labelset(name, [f"label{i}" for i in range(m.shape[1])]) for name, m in matrices.items()}
    way = {"scoring": scoring, "interior": False, "split": split}
    if training is not None:
        way["training"] = {name: dict(zip(("steps", "passes", "stopped_early"), one, strict=True)) for name, one in training.items()}
    if domains is not None:
        way["domains"] = {strategy: dict(zip(("accuracy", "chance"), domains, strict=True))}
    (folder / "scores.json").write_text(json.dumps({**report(matrices, labelsets), **way}))
    plan = {"name": strategy, "stages": stages or [{"name": strategy, "datasets": "all"}]}
    settings = {"strategy": plan, "seed": seed, "train": {"epochs": None, "outputs": 2_000_000, **(train or {})}, **config}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    videos = {f"{name}/sequences": list(of) for name, of in (sequences or {}).items()}
    np.savez_compressed(folder / "per_image.npz", **matrices, **videos)
    return folder


def small_network(*labelsets: Labelset, seed: int = 0) -> JointNetwork:
    """A PatchNet, built from ``MODEL``, whose every convolution and every batch-norm statistic is random."""
    torch.manual_seed(seed)
    network = build(MODEL, OutputSpace(labelsets))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return network.eval()


def keys(dataset: Dataset) -> dict[str, list[str]]:
    """Which pictures are in each split."""
    return {split: [item.key for item in items] for split, items in dataset.splits.items()}


def needs_backbones() -> None:
    """Skips a whole file of tests where the libraries of pretrained encoders are not installed."""
    try:
        import_smp()
    except UserError as error:
        pytest.skip(str(error), allow_module_level=True)


@contextmanager
def refused(*words: object) -> Iterator[pytest.ExceptionInfo[UserError]]:
    """The block raises a UserError of one sentence with these words."""
    with pytest.raises(UserError) as caught:
        yield caught
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700
    for word in words:
        assert str(word) in message, f"{word!r} is not in: {message}"


def undraw(monkeypatch: pytest.MonkeyPatch, *figures: str) -> None:
    """Runs draw no figures, or not these, which take most of the time of a small one: in every room that has the function by its name."""
    for room in ("runs.run", "kinds.pixels"):  # which would keep what it finds when it is imported meanwhile
        import_module(f"densemtmd.{room}")
    for name, module in list(sys.modules.items()):
        for figure in figures or ("curves_figure", "confusion_figure"):
            if name.startswith("densemtmd.") and hasattr(module, figure):
                monkeypatch.setattr(module, figure, lambda *_: None)
