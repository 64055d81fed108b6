"""How often the intervals of ``tools/compare.py`` hold the truth, on made-up runs whose true difference is known.

Two rows of runs label made-up pictures. A pixel is right with a probability that the picture has of itself, that differs between the rows
by a known effect, and by what chance makes of it: of a seed, of a video, of a picture, and of a seed on a picture.

Shapes: ``N`` pictures, ``S`` seeds, ``L`` labels.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from densemtmd.bench.told import Told
from densemtmd.errors import UserError
from densemtmd.progress import Progress

if TYPE_CHECKING:
    from densemtmd.compare.reading import Run

PRESENT = np.array([1.0, 1.0, 0.6, 0.3])
"""The share of the pictures that show each of the labels: some are rare, as in real labelsets."""

PIXELS = 1000.0
"""Of a label, where it is there."""

RIGHT, HARD, EFFECT = 0.6, 0.08, 0.04
"""The mean share of right pixels of the first row, its standard deviation over pictures, and what the second row has more."""

NODES = 16
"""At which an expectation over seeds is computed."""

MEASURES = ("global", "iou")


@dataclass(frozen=True)
class World:
    """What chance makes of the difference between two rows: standard deviations in points."""

    name: str
    frames: tuple[int, ...]     # of each video
    seeds: float                # from seed to seed
    videos: float               # from video to video
    pictures: float             # from picture to picture of a video
    each: float                 # of a seed on a picture
    datasets: int = 1           # each with such videos of its own; scores are those of all together


WORLDS = (
    World("30 pictures, which dominate", (1,) * 30, seeds=0.2, videos=0, pictures=6, each=1),
    World("30 pictures, seeds dominate", (1,) * 30, seeds=2, videos=0, pictures=1, each=0.5),
    World("30 pictures, and seeds as much", (1,) * 30, seeds=2, videos=0, pictures=6, each=1),
    World("12 pictures, and seeds", (1,) * 12, seeds=2, videos=0, pictures=6, each=1),
    World("12 videos of 4, which dominate", (4,) * 12, seeds=0.2, videos=4, pictures=3, each=1),
    World("12 videos of 4, and seeds", (4,) * 12, seeds=2, videos=4, pictures=3, each=1),
    World("12 videos of 1 to 12, and seeds", tuple(range(1, 13)), seeds=2, videos=4, pictures=3, each=1),
    World("3 videos of 4, and seeds", (4,) * 3, seeds=2, videos=4, pictures=3, each=1),
    World("7 datasets of 3 videos of 4, and seeds", (4,) * 3, seeds=2, videos=4, pictures=3, each=1, datasets=7),
    World("1 video of 48: the truth on it", (48,), seeds=2, videos=4, pictures=3, each=1),
)


def measure_coverage(arguments: argparse.Namespace) -> Told:
    """How often the 95 % intervals of differences hold the true difference, on made-up runs.

    Of every hundred intervals 95 should; the median half of their width says what they cost.
    """
    if arguments.trials < 1 or any(count < 1 for count in arguments.seeds):
        raise UserError(f"--trials is {arguments.trials} and --seeds {arguments.seeds}, expected at least 1")
    cells, worlds = [], WORLDS
    with Progress("comparing", len(worlds) * len(arguments.seeds), "cells") as progress:
        for world in worlds:
            for seeds in arguments.seeds:
                cells += covered(world, seeds, arguments.trials)
                progress.tick()
    tables: list[str | list[list[str]]] = []
    for key, name in zip(MEASURES, ("Global", "IoU"), strict=True):
        rows = [[f"{name}: % that hold the truth (± points)", *(f"{seeds} seed{'s' * (seeds > 1)}" for seeds in arguments.seeds)]]
        for world in worlds:
            own = [cell for cell in cells if (cell["world"], cell["measure"]) == (world.name, key)]
            rows.append([world.name, *(f"{cell['coverage']:.1f} (± {cell['half']:.1f})" for cell in own)])
        tables.append(rows)
    lowest = min(cells, key=lambda cell: cell["coverage"])
    error = 100 * (0.95 * 0.05 / arguments.trials) ** 0.5
    words = (
        f"Of {arguments.trials:,} made-up comparisons each, so that a share of 95 % has a standard error of {error:.1f}; in brackets the "
        f"median half width. The lowest share: {lowest['coverage']:.1f} % ({lowest['measure']}, {lowest['world']}, {lowest['seeds']} "
        "seeds). A picture that is of no video is one by itself."
    )
    return Told("coverage: 95 % intervals of differences, on made-up runs", {"cells": cells, "trials": arguments.trials}, [*tables, words])


def covered(world: World, seeds: int, trials: int) -> list[dict[str, Any]]:
    """How many of some made-up comparisons hold the truth: of each measure a cell of the table."""
    from densemtmd.compare.reading import ALL
    from densemtmd.compare.statistics import differences

    random = np.random.default_rng([seeds, WORLDS.index(world) if world in WORLDS else len(WORLDS)])
    columns = {ALL: tuple(f"d{n}" for n in range(world.datasets))}
    hits = dict.fromkeys(MEASURES, 0)
    halves: dict[str, list[float]] = {key: [] for key in MEASURES}
    for _ in range(trials):
        before, after, truth = comparison(world, seeds, random)
        found = differences(before, after, columns)
        for key in MEASURES:
            one = found[ALL, key]
            hits[key] += one.low <= truth[key] <= one.high
            halves[key].append((one.high - one.low) / 2)
    return [
        {"world": world.name, "seeds": seeds, "measure": key, "coverage": 100 * hits[key] / trials, "half": float(np.median(halves[key]))}
        for key in MEASURES
    ]


def comparison(world: World, seeds: int, random: np.random.Generator) -> tuple[list[Run], list[Run], dict[str, float]]:
    """The runs of two rows, and the true difference of each measure: that of all pictures and seeds that there could be; where there is
    one video, of all seeds on this one."""
    sd = world.seeds / 100 / np.sqrt(2)  # of both rows alike: their difference has the whole
    row_seeds = random.normal(0, sd, (2, seeds))
    found: list[dict[str, np.ndarray]] = [{} for _ in range(2 * seeds)]
    units: dict[str, np.ndarray] = {}
    video = np.repeat(np.arange(len(world.frames)), world.frames)
    for dataset in (f"d{n}" for n in range(world.datasets)):
        true = PIXELS * (random.random((len(video), len(PRESENT))) < PRESENT)  # (N, L)
        hard = RIGHT + random.normal(0, HARD, len(video))
        of_video = random.normal(0, world.videos / 100, len(world.frames))
        liking = EFFECT + of_video[video] + random.normal(0, world.pictures / 100, len(video))
        chance = random.normal(0, world.each / 100 / np.sqrt(2), (2, seeds, len(video)))
        right = np.stack([hard, hard + liking])[:, None] + row_seeds[..., None] + chance  # (2, S, N)
        for run, one in zip(found, right.reshape(-1, len(video)), strict=True):
            run[dataset] = counts(true, one)
        units[dataset] = np.array([f"{dataset}/{n}" for n in video])
    scores = [expected(true, one, sd) for one in (hard, hard + liking)] if len(world.frames) == 1 else [of_all(r, sd) for r in (0, EFFECT)]
    rows = [[made_up(row, seed, found[i * seeds + seed], units) for seed in range(seeds)] for i, row in enumerate(("nf", "jt"))]
    return rows[0], rows[1], dict(zip(MEASURES, (scores[1] - scores[0]).tolist(), strict=True))


def counts(true: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Confusion matrices (N, L, L) of pictures with so many pixels of each label (N, L), of which such a share is right (N,), and the
    rest is taken for the other labels alike."""
    labels = true.shape[1]
    share = np.clip(right, 0, 1)[:, None, None]
    return true[:, :, None] * np.where(np.eye(labels, dtype=bool), share, (1 - share) / (labels - 1))


def expected(true: np.ndarray, right: np.ndarray, sd: float) -> np.ndarray:
    """The measures of a row on such pictures, the mean over all seeds that there could be."""
    from densemtmd.kind import kinds

    kind = kinds()["pixels"]
    nodes, weights = np.polynomial.hermite_e.hermegauss(NODES)
    keys = [measure.key for measure in kind.measures]
    scores = np.stack([kind.pooled([kind.tally(counts(true, right + sd * node)).sum(0)]) for node in nodes])
    return (weights / weights.sum()) @ scores[:, [keys.index(key) for key in MEASURES]]


@cache
def of_all(better: float, sd: float) -> np.ndarray:
    """The measures of a row on all pictures that there could be."""
    return expected(PIXELS * PRESENT[None], np.array([RIGHT + better]), sd)


def made_up(row: str, seed: int, found: dict[str, np.ndarray], units: dict[str, np.ndarray]) -> Run:
    """A run that lies in no folder."""
    from densemtmd.compare.reading import Run

    return Run(Path(), row, {"seed": seed}, {"kind": "pixels", "datasets": {name: {} for name in found}}, found, units)
