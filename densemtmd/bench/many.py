"""Very many pictures: opening them, looking for copies, scoring them; time and memory against their number."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from densemtmd.bench.clock import one_pass
from densemtmd.bench.networks import make_network, size_of
from densemtmd.bench.told import Told, megabytes
from densemtmd.errors import UserError

COPIES = 100
"""One picture in so many is there twice."""


def measure_many(arguments: argparse.Namespace) -> Told:
    """Time and memory of opening, checking and scoring datasets of more and more pictures: what is linear costs as much a picture.

    The pictures are small, JPEG with PNGs of labels, on this machine's disk; what is measured is what each of them costs beside its pixels.
    """
    size_of(arguments.size, "--size", "rows x columns such as 48x64")
    if min(arguments.pictures) < 10:
        raise UserError(f"--pictures has {min(arguments.pictures)}, expected at least 10")
    rows = [{"pictures": number, "steps": steps_with(arguments, number)} for number in arguments.pictures]
    table = [["", *(f"{row['pictures']} pictures, CPU s" for row in rows), "ms a picture", "against the fewest", "memory"]]
    for name, most in rows[-1]["steps"].items():
        each = [row["steps"][name]["seconds_cpu"] for row in rows]
        a_picture = [seconds / row["pictures"] for seconds, row in zip(each, rows, strict=True)]
        ratio = "" if len(rows) < 2 or not a_picture[0] else f"{a_picture[-1] / a_picture[0]:.2f}"
        table.append([name, *(f"{seconds:.2f}" for seconds in each), f"{1e3 * a_picture[-1]:.3f}", ratio, megabytes(most["memory_mb"])])
    title = f"many: pictures of {arguments.size}, {arguments.model}; ms a picture, and memory beyond what was there before, of the most"
    note = "A tenth of the pictures are tested. Against the fewest: time a picture, 1 where the time is linear in their number."
    return Told(title, {"size": arguments.size, "model": arguments.model, "rows": rows}, [table, note])


def steps_with(arguments: argparse.Namespace, number: int) -> dict[str, dict[str, Any]]:
    """What each step takes with so many pictures."""
    import torch

    from densemtmd.datasets import checks
    from densemtmd.datasets.cache import load_all
    from densemtmd.datasets.config import load_dataset_config
    from densemtmd.datasets.duplicates import Picture, find_copies, fingerprint
    from densemtmd.datasets.folder import open_dataset
    from densemtmd.evaluation import score_pictures
    from densemtmd.tasks import OutputSpace

    (height, width), steps = size_of(arguments.size), {}

    def timed(name: str, work: Callable[..., Any], *given: Any, **named: Any) -> Any:
        found: list[Any] = []
        steps[name] = one_pass(lambda: found.append(work(*given, **named)), torch.device("cpu"))
        return found[0]

    with tempfile.TemporaryDirectory() as place:
        config, cache = load_dataset_config(write_pictures(Path(place), number, height, width)), Path(place) / ".cache"
        dataset = timed("files found and split", open_dataset, config, place)
        timed("decoded", load_all, dataset, cache)
        decoded = timed("opened again", load_all, dataset, cache)
        survey = timed("labels counted", checks.survey_decoded, dataset, decoded)
        groups = timed("copies looked for", checks.copies, [survey], cache)
        if len(groups) != number // COPIES:
            raise UserError(f"{len(groups)} copies were found of {number // COPIES}: something is wrong with looking for them")
        timed("looked for again", checks.copies, [survey], cache)
        scene = fill(np.random.default_rng(1), height, width) // 2  # and frames that differ from it by one here and there
        noise = np.random.default_rng(0).integers(0, 2, (number, height, width, 1), np.uint8)
        print = fingerprint(scene)
        video = [Picture("still", "train", str(n), "one video", print, partial(np.add, scene, one)) for n, one in enumerate(noise)]
        timed("copies in a still video", find_copies, video)
        network, device = make_network(arguments, config.labelset.channels, OutputSpace([config.labelset]))
        test = decoded.splits["test"]
        timed("scored, strided", score_pictures, network, config.labelset.name, test, scoring="strided", device=device)
    return steps


def fill(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A picture (H, W, 3) uint8 of coarse blobs of colour: no two look alike."""
    from PIL import Image

    blobs = Image.fromarray(random.integers(0, 256, (6, 8, 3), np.uint8))
    return np.asarray(blobs.resize((width, height), Image.Resampling.BICUBIC))


def write_pictures(root: Path, number: int, height: int, width: int) -> Path:
    """A dataset of so many pictures, of which some are there twice, saved with another quality; returns its YAML."""
    import yaml
    from PIL import Image

    random = np.random.default_rng(0)
    for folder in ("images", "labels"):
        (root / "bench" / folder).mkdir(parents=True)
    picture = fill(random, height, width)
    for n in range(number):
        copied = n % COPIES == COPIES - 1
        picture = picture if copied else fill(random, height, width)
        key = f"{'val' if n % 10 == 8 else 'test' if n % 10 == 9 else 'train'}{n:07d}"
        Image.fromarray(picture).save(root / "bench" / "images" / f"{key}.jpg", quality=80 if copied else 92)
        labels = np.zeros((height, width), np.uint8)
        labels[: random.integers(1, height)] = 1
        labels[:, : random.integers(1, width)] = 2
        Image.fromarray(labels).save(root / "bench" / "labels" / f"{key}.png", compress_level=1)
    about = {
        "name": "bench", "images": "images/*.jpg", "labels": "labels/*.png", "encoding": "index", "labelset": ["sky", "ground", "house"],
        "split": {"patterns": {part: f"images/{part}*" for part in ("train", "val", "test")}},
    }  # fmt: skip
    (root / "bench.yaml").write_text(yaml.safe_dump(about), encoding="utf-8")
    return root / "bench.yaml"
