"""Small datasets on disk that a small network learns in seconds, grey pictures with a bright square or disc somewhere; and folders of
finished runs whose confusion matrices are made up."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from densemtmd import Labelset
from densemtmd.evaluation import report


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
    sequences=None, train=None, scoring="strided", stages=None, **config,
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
        stages: of the strategy; by default one network for all datasets.
        config: further keys of ``config.yaml``.
    """
    folder.mkdir(parents=True)
    labelsets = {name: Labelset(name, [f"label{i}" for i in range(m.shape[1])]) for name, m in matrices.items()}
    (folder / "scores.json").write_text(json.dumps({**report(matrices, labelsets), "scoring": scoring, "interior": False}))
    plan = {"name": strategy, "stages": stages or [{"name": strategy, "datasets": "all"}]}
    settings = {"strategy": plan, "seed": seed, "train": {"epochs": None, "outputs": 2_000_000, **(train or {})}, **config}
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    videos = {f"{name}/sequences": list(of) for name, of in (sequences or {}).items()}
    np.savez_compressed(folder / "per_image.npz", **matrices, **videos)
    return folder
