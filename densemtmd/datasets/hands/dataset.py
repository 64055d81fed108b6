"""Hands of a dataset as training wants them: opened, located, cropped, and kept so.

Shapes: ``N`` hands, ``J`` keypoints, ``M`` pixels along the side of a crop that is kept.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np

from densemtmd.datasets.config import DatasetConfig
from densemtmd.datasets.folder import Dataset
from densemtmd.datasets.hands import icvl, nyu
from densemtmd.datasets.hands.crop import Cube, look
from densemtmd.datasets.hands.frames import Frames
from densemtmd.datasets.hands.locate import NoHand, locate
from densemtmd.datasets.hands.predictions import read_centres
from densemtmd.datasets.hands.sets import HandSet, hand_set
from densemtmd.datasets.labels import code_table
from densemtmd.datasets.sample import Item
from densemtmd.datasets.splitting import read_keys
from densemtmd.errors import UserError
from densemtmd.files import atomic_write
from densemtmd.machine import ahead
from densemtmd.progress import followed

FORMAT = 2
"""Of the kept crops: raise it whenever they are made otherwise."""

READERS: Mapping[str, ModuleType] = {"nyu": nyu, "icvl": icvl}
VALIDATE = 0.1
"""The share of the training frames, the last ones of the recording, that are validated on: neither dataset names some."""


@dataclass(frozen=True)
class HandDataset(Dataset):
    """A dataset of hands that was found on disk."""

    frames: Mapping[str, Frames]  # of train, val and test

    @property
    def hands(self) -> HandSet:
        return hand_set(self.config.encoding)


@dataclass(frozen=True)
class Hands:
    """Hands that were located and cropped."""

    depth: np.ndarray  # (N, M, M) uint16 mm, 0 where there is no reading: crops of cubes that are `margin` times as wide
    cube: Cube         # (N,) those that the network sees
    xyz: np.ndarray    # (N, J, 3) float64 mm
    margin: float
    keys: tuple[str, ...]
    note: str = ""     # of frames without a hand, one sentence

    def __len__(self) -> int:
        return len(self.keys)

    def take(self, which: Sequence[int] | np.ndarray) -> Hands:
        """The hands of some positions, in that order."""
        some = np.asarray(which, int)
        cube = Cube(self.cube.centre[some], self.cube.side[some])
        return Hands(self.depth[some], cube, self.xyz[some], self.margin, tuple(self.keys[i] for i in some))

    @property
    def kept(self) -> Cube:
        """The cubes of the crops."""
        return Cube(self.cube.centre, self.cube.side * self.margin)


def open_hands(config: DatasetConfig, folder: Path, domain: str) -> HandDataset:
    """Find the frames of a dataset of hands and their labels; no picture is opened yet.

    Raises:
        UserError: what the readers raise, or a picture that is not there.
    """
    reader = READERS[config.encoding]
    train, test = reader.read_frames(folder, "train"), reader.read_frames(folder, "test")
    notes = train.notes + test.notes
    if len(train) < 2:
        raise UserError(f"{config.name} has {len(train)} frame to train and to validate on in {folder}, expected two or more")
    last = len(train) - max(1, round(VALIDATE * len(train)))
    frames = {"train": train.take(np.arange(last)), "val": train.take(np.arange(last, len(train))), "test": test}
    for some in frames.values():
        if not some.pictures[0].is_file():
            raise UserError(f"{some.pictures[0]} does not exist, but it is labelled: expected the pictures of {config.name} there")
    splits = {
        split: tuple(map(Item, some.keys, some.pictures, some.pictures, some.sequences))
        for split, some in frames.items()
    }
    return HandDataset(
        name=config.name, domain=domain, config=config, folder=folder, splits=splits, notes=notes,
        codes=code_table(config), cut=frozenset(), without_labels=(), without_picture=(), frames=frames,
    )  # fmt: skip


def as_listed(dataset: HandDataset, listed: Path) -> HandDataset:
    """The dataset with the frames of each split that an earlier opening found, as the files in a folder list them.

    Raises:
        UserError: a frame in a list is no longer there.
    """
    splits = {}
    for split, items in dataset.splits.items():
        known = {item.key: item for item in items}
        keys = read_keys(dataset.config, listed / f"{split}.txt", split, known, dataset.folder)
        splits[split] = tuple(known[key] for key in keys)
    return replace(dataset, splits=splits)


def load_hands(dataset: Dataset, folder: Path | None, size: int, margin: float) -> dict[str, Hands]:
    """All hands of a dataset, located and cropped; kept in a folder for the next run.

    A frame in which no hand is found teaches nothing: to train and to validate it is left out. Of the test frames none is left out, since
    published errors are means over all of them: there the hand is taken to be where it was in the last frame before, and how far the answer
    is off counts. Both are counted in the hands' ``note``.

    Args:
        dataset: an open dataset.
        folder: where crops are kept; None: nowhere.
        size: of the crops that the network sees, pixels.
        margin: how much wider the crops are that are kept: what augmentation wants.

    Returns:
        Of each split the hands whose keys are in ``dataset.splits``.

    Raises:
        UserError: a picture that cannot be read, or no hand in most of a split's frames.
    """
    assert isinstance(dataset, HandDataset)
    return {split: _load(dataset, split, folder, size, margin) for split in dataset.splits}


def _load(dataset: HandDataset, split: str, folder: Path | None, size: int, margin: float) -> Hands:
    wanted = {item.key for item in dataset.splits[split]}
    frames = dataset.frames[split]
    frames = frames.take(np.flatnonzero([key in wanted for key in frames.keys]))
    centres = _centres(dataset, split, frames)
    pixels = round(size * margin)
    kept = None if folder is None else folder / _name(dataset, split, frames, centres, pixels, margin)
    located = None if kept is None else _kept(kept)
    if located is None:
        located = _read(dataset, frames, centres, pixels, margin, f"cropping {dataset.name} {split}")
        if kept is not None:
            with atomic_write(kept) as temporary:
                np.savez(temporary, **asdict(located))
    hands = Hands(located.depth, Cube(located.centre, frames.cubes), dataset.hands.camera.to_xyz(frames.uvd), margin, frames.keys)
    if not (lost := int((~located.found).sum())):
        return hands
    counted, first = f"{dataset.name}: {lost} of {len(frames)} {split} frames show no hand", f"the first: {located.why}"
    if 2 * lost > len(frames):
        raise UserError(f"{counted}, {first}")
    if split == "test":
        return replace(hands, note=f"{counted}; it is taken to be where it was in the frame before, and the errors count; {first}")
    return replace(hands.take(np.flatnonzero(located.found)), note=f"{counted} and are left out, {first}")


@dataclass(frozen=True)
class _Located:
    """Crops of frames, as they are kept."""

    depth: np.ndarray   # (N, M, M) uint16 mm
    centre: np.ndarray  # (N, 3) float64 mm
    found: np.ndarray   # (N,) bool: where no hand was found, crop and centre are about the place of the frame before
    why: str            # what is wrong with the first of those


def _centres(dataset: HandDataset, split: str, frames: Frames) -> np.ndarray | None:
    """(N, 3) of a file of centres, if the dataset's YAML names one."""
    part = "test" if split == "test" else "train"
    if part not in dataset.config.centres:
        return None
    official = READERS[dataset.config.encoding].read_frames(dataset.folder, part)
    centres = read_centres(dataset.folder / dataset.config.centres[part], len(official))
    place = {key: n for n, key in enumerate(official.keys)}
    return centres[[place[key] for key in frames.keys]]


def _read(dataset: HandDataset, frames: Frames, centres: np.ndarray | None, pixels: int, margin: float, title: str) -> _Located:
    """Frames read, their hands located and cropped."""
    read, camera = READERS[dataset.config.encoding].read_depth, dataset.hands.camera
    numbers = {key: n for n, key in enumerate(frames.keys)}

    def cut(depth: np.ndarray, n: int, centre: np.ndarray) -> np.ndarray:
        return look(depth, camera, Cube(centre, frames.cubes[n] * margin).rays(pixels)).astype(np.uint16)

    def work(item: Item) -> tuple[np.ndarray, np.ndarray] | NoHand:
        n = numbers[item.key]
        depth = read(item.image)
        start = None if centres is None else centres[n]
        try:
            centre = locate(depth, camera, float(frames.cubes[n]), start, str(item.image))
        except NoHand as error:
            return error
        return cut(depth, n, centre), centre

    items = list(map(Item, frames.keys, frames.pictures, frames.pictures, frames.sequences))
    seen = list(followed(ahead(work, items), title, len(items)))
    good = [n for n, one in enumerate(seen) if not isinstance(one, NoHand)]
    whys = [str(one) for one in seen if isinstance(one, NoHand)]
    if not good:
        raise UserError(f"none of the {len(seen)} frames of {dataset.name} shows a hand, the first: {whys[0]}")
    for n, one in enumerate(seen):
        if isinstance(one, NoHand):
            before = seen[max((m for m in good if m < n), default=good[0])]
            assert not isinstance(before, NoHand)
            seen[n] = cut(read(frames.pictures[n]), n, before[1]), before[1]
    depth, centre = (np.stack(values) for values in zip(*seen, strict=True))
    return _Located(depth, centre, np.isin(np.arange(len(seen)), good), whys[0] if whys else "")


def _name(dataset: HandDataset, split: str, frames: Frames, centres: np.ndarray | None, pixels: int, margin: float) -> str:
    """The name under which crops are kept: of all that they depend on."""
    first, last = (frames.pictures[n].stat() for n in (0, -1))
    settings = [
        FORMAT, str(dataset.folder.resolve()), dataset.config.encoding, pixels, margin, first.st_mtime_ns, last.st_mtime_ns,
        None if centres is None else hashlib.sha256(centres.tobytes()).hexdigest(), frames.keys, frames.cubes.tolist(),
    ]  # fmt: skip
    return f"{dataset.name}-{split}-{hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]}.hands.npz"


def _kept(path: Path) -> _Located | None:
    """Kept crops; None where there are none, or damaged ones."""
    try:
        with np.load(path) as stored:
            return _Located(stored["depth"], stored["centre"], stored["found"], str(stored["why"]))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError):
        return None
