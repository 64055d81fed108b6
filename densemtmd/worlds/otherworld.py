"""The other world, another domain than the streets: another camera, other places, seasons and light; in the layout of Stanford Background.

:func:`ensure_otherworld` writes, beneath one folder, what ``conf/dataset/otherworld.yaml`` expects, and ``truth/``::

    otherworld/images/0000012.jpg
    otherworld/labels/0000012.regions.txt    a number per pixel, a line per row, -1: unknown
    otherworld/horizons.txt                  0000012 320 240 96.4: width, height, row of the horizon in the middle column
    truth/otherworld/0000012.png             the fine classes           truth/classes.json: their names, and what they are called

Shapes: ``H``, ``W`` pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from densemtmd.datasets.config import load_dataset_config
from densemtmd.worlds.countryside import build
from densemtmd.worlds.streets import render
from densemtmd.worlds.textures import Fine
from densemtmd.worlds.world import check_ranges, ensure_world, render_all, smooth, write_classes, write_truth

VERSION = 1
"""Of the world: raise it whenever the same settings give other pictures or labels, so that no cached world is taken for it."""

NAME = "otherworld"
UNKNOWN = -1
QUALITY = 92
"""Of the JPEGs."""

FOREGROUND = "foreground"
"""What stands before the rest: each fine class that has no word in :data:`WORDS`."""

WORDS = {
    Fine.SKY: "sky", Fine.FAR_TREES: "tree", Fine.TREE: "tree", Fine.TRUNK: "tree", Fine.BUSH: "tree", Fine.GRASS: "grass",
    Fine.ROAD: "road", Fine.CYCLE_LANE: "road", Fine.LANE_MARKING: "road", Fine.KERB: "road", Fine.SIDEWALK: "road",
    Fine.BUILDING: "building", Fine.ROOF: "building", Fine.WINDOW: "building", Fine.DOOR: "building", Fine.WATER: "water",
    Fine.MOUNTAIN: "mountain",
}  # fmt: skip
"""What an annotator of Stanford Background calls each fine class."""


@dataclass(frozen=True)
class OtherSettings:
    """Which other world.

    Args:
        images: pictures, each of another place.
        width: of the pictures, pixels.
        height: of the pictures, pixels.
        seed: another seed, another world.

    Raises:
        UserError: a number out of range.
    """

    images: int = 120
    width: int = 320
    height: int = 240
    seed: int = 0

    def __post_init__(self) -> None:
        check_ranges(self, "the other world", images=(3, 100_000), width=(64, 4096), height=(48, 4096), seed=(0, 2**31))


def ensure_otherworld(data_root: str | Path, settings: OtherSettings, workers: int | None = None) -> Path:
    """The folder of an other world, with the folder ``otherworld``; rendered if it is not there, as :func:`.ensure_world` says."""
    name = f"otherworld-{settings.images}x{settings.width}x{settings.height}"
    return ensure_world(
        data_root, settings, workers, name=name, version=VERSION, what="the other world", write=_write_world
    )  # fmt: skip


@cache
def ids() -> np.ndarray:
    """(classes,) uint8: the class id of each fine class, in the labelset of ``conf/dataset/otherworld.yaml``."""
    labels = list(load_dataset_config(NAME).labelset.labels)
    return np.array([labels.index(WORDS.get(fine, FOREGROUND)) for fine in Fine], np.uint8)


def translate(truth: np.ndarray) -> np.ndarray:
    """The right answer: fine classes (H, W) to class ids (H, W) uint8."""
    return ids()[truth]


def _write_world(folder: Path, settings: OtherSettings, workers: int) -> None:
    home = folder / NAME
    for path in (home / "images", home / "labels"):
        path.mkdir(parents=True)
    write_classes(folder, {NAME: [WORDS.get(fine, FOREGROUND) for fine in Fine]})
    numbers = range(settings.images)
    places = [(folder, settings, number) for number in numbers]
    render_all(_write_place, places, settings.images, "rendering the other world", workers)
    horizons = (f"{number:07d} {settings.width} {settings.height} {_horizon(settings, number):.6f}" for number in numbers)
    (home / "horizons.txt").write_text("".join(f"{line}\n" for line in horizons), encoding="utf-8")


def _seeds(settings: OtherSettings, number: int) -> tuple[int, int, int]:
    return settings.seed, 7, number  # a larger world begins like a smaller one; 0 to 6 are the annotators of the streets


def _horizon(settings: OtherSettings, number: int) -> float:
    """The row of the horizon in the middle column, pixels from the top."""
    scene = build(np.random.default_rng(_seeds(settings, number)))
    camera, _, _ = scene.at(0)
    return scene.optics.horizon * settings.height + scene.optics.focal * settings.width * float(np.tan(camera.pitch))


def _write_place(place: tuple[Path, OtherSettings, int]) -> int:
    """Render one picture and write its files; returns how many pictures."""
    folder, settings, number = place
    seeds = _seeds(settings, number)
    scene = build(np.random.default_rng(seeds))
    rng = np.random.default_rng((*seeds, 0))
    picture = render(scene, 0, settings.width, settings.height, rng)
    regions = translate(picture.truth).astype(np.int16)
    blobs = smooth(rng, settings.height, settings.width, 0.02 * settings.width)
    regions[blobs > np.quantile(blobs, 1 - 0.01 * rng.uniform(0, 2))] = UNKNOWN  # as annotators leave gaps
    stem = f"{number:07d}"
    Image.fromarray(picture.image).save(folder / NAME / "images" / f"{stem}.jpg", quality=QUALITY)
    text = "".join(" ".join(map(str, row)) + "\n" for row in regions.tolist())
    (folder / NAME / "labels" / f"{stem}.regions.txt").write_text(text, encoding="ascii")
    write_truth(folder / "truth" / NAME / f"{stem}.png", picture.truth)
    return 1
