"""Seven annotators of one street world: what each calls the things in it, how carefully each draws, and the files they leave.

Each labels pictures of their own, in the labelset of one of the seven KITTI subsets of section 4.2. The world's fine truth is known at
every pixel and written beside the files, so every labelset's right answer is known on every picture: no real dataset can say that.

:func:`ensure_streets` writes, beneath one folder, a folder per dataset as its ``conf/dataset/*.yaml`` expects it, and ``truth/``::

    he/images/0003_000001.png         he/labels/0003_000001.mat          sequence 3, frame 1
    kundu/images/...                  kundu/labels/....png               and so ladicky, sengupta, xu
    ros/KITTI_SEMANTIC/Training_00/RGB/....png                           and GT_ind; Validation_07 for 3 sequences of 10
    zhang/training/image_02/0003/000001.png    zhang/image_02/trn/0003/000001.mat    run 3; test for 3 runs of 10
    truth/he/0003_000001.png          the fine classes                   truth/classes.json: their names, and what each annotator calls them

Shapes: ``H``, ``W`` pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from densemtmd.datasets.config import Code, DatasetConfig, load_dataset_config
from densemtmd.errors import UserError
from densemtmd.tasks import VOID, nearest
from densemtmd.worlds.scene import build
from densemtmd.worlds.streets import Picture, render
from densemtmd.worlds.textures import Fine
from densemtmd.worlds.world import (
    check_ranges,
    ensure_world,
    render_all,
    smooth,
    write_classes,
    write_mat,
    write_png,
    write_truth,
)

VERSION = 1
"""Of the world: raise it whenever the same settings give other pictures or labels, so that no cached world is taken for it."""

# ------------------------------------------------------------------------------------------------------- what they call things

ANNOTATORS = ("he", "kundu", "ladicky", "ros", "sengupta", "xu", "zhang")

WORDS: dict[Fine, tuple[str | None, ...]] = {
    #                    he          kundu         ladicky       ros           sengupta      xu              zhang
    Fine.SKY:           ("sky",      "sky",        "sky",        "sky",        "sky",        "sky",          "sky"),
    Fine.FAR_TREES:     ("tree",     "vegetation", "tree",       "vegetation", "vegetation", "tree",         "vegetation"),
    Fine.GRASS:         ("grass",    "vegetation", "grass",      "vegetation", "vegetation", "grass",        "vegetation"),
    Fine.ROAD:          ("road",     "road",       "road",       "road",       "road",       "road",         "road"),
    Fine.CYCLE_LANE:    ("road",     "road",       "road",       "sidewalk",   "sidewalk",   "bicyclelane",  "road"),
    Fine.LANE_MARKING:  ("road",     "road",       "road",       "road",       "road",       "lanemarkers",  "road"),
    Fine.KERB:          ("sidewalk", "sidewalk",   "road",       "sidewalk",   "sidewalk",   "sidewalk",     "road"),
    Fine.SIDEWALK:      ("sidewalk", "sidewalk",   "sidewalk",   "sidewalk",   "sidewalk",   "sidewalk",     "sidewalk"),
    Fine.BUILDING:      ("building", "building",   "building",   "building",   "building",   "building",     "building"),
    Fine.ROOF:          ("building", "building",   "building",   "building",   "building",   "building",     "building"),
    Fine.WINDOW:        ("building", "building",   "building",   "building",   "building",   "building",     "building"),
    Fine.DOOR:          ("building", "building",   "building",   "building",   "building",   "building",     "building"),
    Fine.WALL:          ("building", "fence",      "building",   "fence",      "building",   "wall",         "fence"),
    Fine.FENCE:         ("building", "fence",      "fence",      "fence",      "fence",      "fence",        "fence"),
    Fine.BUSH:          ("tree",     "vegetation", "tree",       "vegetation", "vegetation", "othervege",    "vegetation"),
    Fine.TREE:          ("tree",     "vegetation", "tree",       "vegetation", "vegetation", "tree",         "vegetation"),
    Fine.TRUNK:         ("tree",     "vegetation", "tree",       "vegetation", "vegetation", "tree",         "vegetation"),
    Fine.BIN:           ("building", None,         "building",   None,         "building",   "otherinf",     None),
    Fine.CAR:           ("car",      "car",        "car",        "car",        "car",        "car",          "car"),
    Fine.TRUCK:         ("car",      "car",        "car",        "car",        "car",        "truck",        "car"),
    Fine.TRAFFIC_LIGHT: ("building", "sign",       "sign",       "sign",       "sign",       "trafficlight", "signage"),
    Fine.SIGN:          ("building", "sign",       "sign",       "sign",       "sign",       "panel",        "signage"),
    Fine.POLE:          ("building", "pole",       "pole",       "pole",       "pole",       "pole",         "signage"),
    Fine.PEDESTRIAN:    ("person",   "pedestrian", "pedestrian", "pedestrian", "pedestrian", "adult",        "pedestrian"),
    Fine.BIKE_PARKED:   (None,       "cyclist",    "bike",       None,         "bike",       "bicycle",      None),
    Fine.BIKE_RIDDEN:   ("person",   "cyclist",    "bike",       "cyclist",    "bike",       "cyclist",      "cyclist"),
    Fine.RIDER:         ("person",   "cyclist",    "pedestrian", "cyclist",    "pedestrian", "cyclist",      "cyclist"),
    Fine.WATER:         (None,       None,         None,         None,         None,         None,           None),
    Fine.MOUNTAIN:      (None,       None,         None,         None,         None,         None,           None),
}  # fmt: skip
"""What each annotator calls each fine class.

What the paper says of its labelsets (section 4.2) holds here: He has no pole, sign or fence, so they are building; bike and cyclist
differ in extent (for some a cyclist is rider and bike together, for others the bike is the device and its rider a pedestrian); Ladicky
tells grass from tree. Xu names :data:`XU_FINE` classes, which his labelset then puts together.
"""

XU_FINE = (
    "sky", "road", "sidewalk", "bicyclelane", "lanemarkers", "railway", "grass", "tree", "othervege", "building", "wall", "bridge", "pole",
    "panel", "fence", "trafficlight", "otherinf", "car", "truck", "train", "bus", "adult", "children", "cyclist", "bicycle",
    "motocyclist", "motocycle", "animal", "othermov",
)  # fmt: skip
"""Xu's 29 fine classes in the order of their codes 1, 2, ..."""


@dataclass(frozen=True)
class Habits:
    """How carefully an annotator draws."""

    shaky: float    # how far borders are off, about, in pixels of a picture 320 pixels wide
    gaps: float     # share of the picture left out, in blobs
    rim: bool       # leaves the pixels between two labels out
    reach: float    # metres beyond which nothing but sky is labelled
    zenith: float   # share of the picture's height, from the top, that is left out


HABITS = {
    "he": Habits(shaky=1.0, gaps=0.01, rim=False, reach=np.inf, zenith=0.0),
    "kundu": Habits(shaky=0.7, gaps=0.02, rim=False, reach=np.inf, zenith=0.0),
    "ladicky": Habits(shaky=0.5, gaps=0.01, rim=False, reach=np.inf, zenith=0.0),
    "ros": Habits(shaky=0.6, gaps=0.01, rim=True, reach=np.inf, zenith=0.0),
    "sengupta": Habits(shaky=1.1, gaps=0.04, rim=False, reach=np.inf, zenith=0.0),
    "xu": Habits(shaky=0.6, gaps=0.03, rim=False, reach=np.inf, zenith=0.0),
    "zhang": Habits(shaky=0.8, gaps=0.01, rim=False, reach=90.0, zenith=0.06),
}


@dataclass(frozen=True)
class Words:
    """What one annotator calls each fine class; all indexed by fine class."""

    labels: tuple[str | None, ...]  # label of the labelset, None where it has none
    ids: np.ndarray                 # (classes,) uint8: its class id, 255 where it has none
    codes: np.ndarray               # (classes,) uint8, or (classes, 3) where codes are colours: what is written to disk
    void: np.ndarray                # () uint8 or (3,): what is written where nothing is said


@cache
def words(name: str) -> Words:
    """What an annotator calls each fine class.

    Raises:
        UserError: no such annotator.
    """
    if name not in ANNOTATORS:
        raise UserError(f"no annotator of the street world is called {name!r}; {nearest(name, ANNOTATORS)}")
    config = load_dataset_config(name)
    column = ANNOTATORS.index(name)
    void: Code = config.codes.void[0]
    labels: list[str | None] = []
    ids: list[int] = []
    codes: list[Code] = []
    for fine in Fine:
        word = WORDS[fine][column]
        if word is None:
            labels, ids, codes = [*labels, None], [*ids, VOID], [*codes, void]
            continue
        if name == "xu":
            code: Code = XU_FINE.index(word) + 1
            label = next(i for i, known in enumerate(config.codes.labels) if code in known)
        else:
            label = list(config.labelset.labels).index(word)
            code = config.codes.labels[label][0]
        labels, ids, codes = [*labels, config.labelset.labels[label]], [*ids, label], [*codes, code]
    return Words(tuple(labels), np.array(ids, np.uint8), np.array(codes, np.uint8), np.array(void, np.uint8))


def translate(truth: np.ndarray, labelset: str) -> np.ndarray:
    """The right answer of a labelset.

    Args:
        truth: (H, W) uint8, fine classes.
        labelset: one of the seven.

    Returns:
        (H, W) uint8 class ids, 255 where the labelset has no label for what is there.

    Raises:
        UserError: no such labelset.
    """
    return words(labelset).ids[truth]


def annotate(picture: Picture, name: str, rng: np.random.Generator) -> np.ndarray:
    """What an annotator says of a picture: codes as they are written to disk, (H, W) or (H, W, 3) uint8."""
    habits, table = HABITS[name], words(name)
    height, width = picture.truth.shape
    scale = width / 320
    drawn = picture.truth[_shaken(rng, height, width, habits.shaky * scale, 12 * scale)]
    left_out = (picture.depth > habits.reach) & (picture.truth != Fine.SKY)
    left_out[: round(habits.zenith * height)] = True
    blobs = smooth(rng, height, width, 9 * scale)
    left_out |= blobs > np.quantile(blobs, 1 - habits.gaps * rng.uniform(0.5, 1.5))
    if habits.rim:
        ids = table.ids[drawn]
        left_out[:, 1:] |= ids[:, 1:] != ids[:, :-1]
        left_out[1:] |= ids[1:] != ids[:-1]
    codes = table.codes[drawn]
    codes[left_out] = table.void
    return codes


def _shaken(rng: np.random.Generator, height: int, width: int, far: float, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel's label is taken from: rows and columns, (height, width) each, a little beside the pixel."""
    down, right = (np.clip(smooth(rng, height, width, size) * far, -2.5 * far, 2.5 * far) for _ in range(2))
    rows = np.clip(np.rint(np.arange(height)[:, None] + down), 0, height - 1)
    columns = np.clip(np.rint(np.arange(width)[None] + right), 0, width - 1)
    return rows.astype(int), columns.astype(int)


# --------------------------------------------------------------------------------------------------------------------- the files


@dataclass(frozen=True)
class StreetSettings:
    """Which street world.

    Args:
        images: pictures per annotator.
        frames: pictures per sequence: the camera drives down a street, then there is another street.
        width: of the pictures, pixels.
        height: of the pictures, pixels.
        seed: another seed, another world.
        annotators: who labels; each sees the same pictures whoever else does.

    Raises:
        UserError: sizes out of range, fewer than three sequences, or an unknown annotator.
    """

    images: int = 40
    frames: int = 4
    width: int = 320
    height: int = 128
    seed: int = 0
    annotators: tuple[str, ...] = ANNOTATORS

    def __post_init__(self) -> None:
        object.__setattr__(self, "annotators", tuple(self.annotators))
        sizes = {"frames": (1, 100), "width": (64, 4096), "height": (48, 4096), "images": (1, 100_000)}
        check_ranges(self, "the street world", **sizes, seed=(0, 2**31))
        if self.sequences < 3:
            raise UserError(
                f"{self.images} images in sequences of {self.frames} frames make {self.sequences}, expected at least 3 (to train, to "
                f"validate, to test): ask for {2 * self.frames + 1} images or more"
            )
        if not self.annotators:
            raise UserError(f"the street world has no annotator: choose from {', '.join(ANNOTATORS)}")
        for name in self.annotators:
            words(name)

    @property
    def sequences(self) -> int:
        """Streets per annotator."""
        return -(-self.images // self.frames)


def ensure_streets(data_root: str | Path, settings: StreetSettings, workers: int | None = None) -> Path:
    """The folder of a street world, with a folder per annotator; rendered if it is not there, as :func:`.ensure_world` says."""
    name = f"streets-{settings.images}x{settings.width}x{settings.height}"
    return ensure_world(
        data_root, settings, workers, name=name, version=VERSION, what="the street world", write=_write_world
    )  # fmt: skip


def _write_world(folder: Path, settings: StreetSettings, workers: int) -> None:
    write_classes(folder, {name: words(name).labels for name in ANNOTATORS})
    streets = [(folder, settings, name, sequence) for name in settings.annotators for sequence in range(settings.sequences)]
    render_all(_write_street, streets, settings.images * len(settings.annotators), "rendering streets", workers)


def _write_street(street: tuple[Path, StreetSettings, str, int]) -> int:
    """Render one sequence of one annotator and write its files; returns how many pictures."""
    folder, settings, name, sequence = street
    # The seeds do not depend on who else labels, nor on how many pictures there are: a larger world begins like a smaller one.
    seeds = (settings.seed, ANNOTATORS.index(name), sequence)
    scene = build(np.random.default_rng(seeds), settings.frames)
    frames = range(min(settings.frames, settings.images - sequence * settings.frames))
    for frame in frames:
        rng = np.random.default_rng((*seeds, frame))
        picture = render(scene, frame, settings.width, settings.height, rng)
        image, labels = files_of(folder, settings, name, sequence, frame)
        write_png(image, picture.image)
        _write_labels(labels, annotate(picture, name, rng), load_config(name))
        write_truth(folder / "truth" / name / f"{sequence:04d}_{frame:06d}.png", picture.truth)
    return len(frames)


load_config = cache(load_dataset_config)


def files_of(folder: Path, settings: StreetSettings, name: str, sequence: int, frame: int) -> tuple[Path, Path]:
    """Where one picture and its labels lie, as in the real dataset."""
    home, stem = folder / name, f"{sequence:04d}_{frame:06d}"
    test = sequence in _test_sequences(settings, name)
    if name == "ros":
        part = home / "KITTI_SEMANTIC" / ("Validation_07" if test else "Training_00")
        return part / "RGB" / f"{stem}.png", part / "GT_ind" / f"{stem}.png"
    if name == "zhang":
        run, file = f"{sequence:04d}", f"{frame:06d}"
        return home / "training" / "image_02" / run / f"{file}.png", home / "image_02" / ("test" if test else "trn") / run / f"{file}.mat"
    return home / "images" / f"{stem}.png", home / "labels" / f"{stem}{'.mat' if name == 'he' else '.png'}"


def _test_sequences(settings: StreetSettings, name: str) -> set[int]:
    """The 30 % of the sequences that the datasets with a split on disk test on."""
    count = max(1, round(0.3 * settings.sequences))
    order = np.random.default_rng((settings.seed, ANNOTATORS.index(name))).permutation(settings.sequences)
    return set(order[:count].tolist())


def _write_labels(path: Path, codes: np.ndarray, config: DatasetConfig) -> None:
    if config.encoding != "mat":
        write_png(path, codes)
        return
    write_mat(path, {str(config.mat_key): codes})
