"""What a frozen trunk gives of pictures, kept on disk beside the decoded pictures: computed once for all runs, strategies and labelsets.

Each picture has a file of its own, mapped into memory: half-precision numbers, (h, w, M), so that a cell is read in one piece. They lie in
a folder of the trunk's, whose name tells its settings and weights; a file's name tells the picture's path, size and time of the last
change. So folds, shares and datasets that derive from one source all use the same files, and a build that is killed goes on where it was.

Shapes: ``H``, ``W`` pixels of a picture, ``h``, ``w`` cells of the trunk's grid, ``M`` channels of its maps.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from densemtmd.datasets.folder import Dataset, Item
from densemtmd.datasets.sample import Sample, as_input
from densemtmd.files import WriteError, atomic_write
from densemtmd.network import JointNetwork, Trunk

FORMAT = "densemtmd maps, 1"
"""The number rises with every change of the files, of how pictures are decoded or of what a trunk makes of them."""

SUFFIX = ".maps"

LARGEST = float(np.finfo(np.float16).max)

SECONDS = 20.0
"""Where nobody watches a bar, a line says this often how far it is."""


class KeptMaps:
    """The maps of one dataset's pictures.

    Args:
        dataset: whose pictures.
        folder: where caches lie; None: they are kept in memory, for as long as this object lives.
        progress: show how far it is, once it has taken two seconds.
    """

    def __init__(self, dataset: Dataset, folder: Path | None, progress: bool = True) -> None:
        self.dataset, self.folder, self.progress = dataset, folder, progress
        self.items = {item.key: item for split in dataset.splits.values() for item in split}
        self.opened: dict[tuple[str, str], np.ndarray] = {}

    def of(self, network: JointNetwork, samples: Sequence[Sample]) -> list[np.ndarray]:
        """The maps of some of the pictures as a network's trunk gives them, (h, w, M) float16 each; those that are not there are made.

        Those of a trunk that began at random are kept in memory alone: no later run will ask for them.

        Args:
            network: with a trunk.
            samples: of the dataset.
        """
        trunk = network.trunk
        assert trunk is not None
        key = trunk.identity()
        folder = None if self.folder is None or network.pretrained is None else self.folder / f"{name_of(key)}{SUFFIX}"
        wanting = []
        for sample in samples:
            if (key, sample.name) in self.opened:
                continue
            found = None if folder is None else opened(folder / file_of(self.items[sample.name]), shape_of(sample, trunk))
            if found is None:
                wanting.append(sample)
            else:
                self.opened[key, sample.name] = found
        if wanting:
            self._make(wanting, network, key, folder)
        return [self.opened[key, sample.name] for sample in samples]

    def _make(self, samples: Sequence[Sample], network: JointNetwork, key: str, folder: Path | None) -> None:
        trunk = network.quick_trunk()
        assert trunk is not None
        device = next(network.parameters()).device
        before: dict[str, list[Path]] = {}
        if folder is not None:
            for path in folder.glob("[!.]*.npy"):
                before.setdefault(path.name.partition("-")[0], []).append(path)
        bar = Progress(f"features of {self.dataset.name}", len(samples), self.progress)
        with bar, torch.inference_mode():
            for sample in samples:
                maps = trunk(as_input(torch.from_numpy(sample.image).to(device).permute(2, 0, 1)[None]))[0]
                made = maps.clamp(-LARGEST, LARGEST).half().permute(1, 2, 0).contiguous().cpu().numpy()
                if folder is not None:
                    path = folder / file_of(self.items[sample.name])
                    try:
                        with atomic_write(path) as temporary:
                            np.save(temporary, made)
                    except WriteError as error:
                        print(f"{self.dataset.name}: features are kept in memory, for this run alone: {error}")
                        folder = None
                    else:
                        for old in before.get(path.name.partition("-")[0], []):
                            if old != path:
                                with suppress(OSError):  # another process may be faster
                                    old.unlink()
                        found = opened(path, made.shape)
                        made = made if found is None else found
                self.opened[key, sample.name] = made
                bar.tick()


def name_of(identity: str) -> str:
    """Of the folder of a trunk's maps."""
    return _digest([FORMAT, identity])[:16]


def file_of(item: Item) -> str:
    """The name of the file of a picture's maps: its first part tells the picture's path, the second what changes when the file does."""
    try:
        stat = item.image.stat()
        state = [stat.st_size, stat.st_mtime_ns]
    except OSError:  # of a picture that is gone, and decoded already
        state = []
    return f"{_digest(str(item.image.absolute()))[:16]}-{_digest(state)[:16]}.npy"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def shape_of(sample: Sample, trunk: Trunk) -> tuple[int, ...]:
    """(h, w, M) of a picture's maps."""
    return (*(-(-size // trunk.grid) for size in sample.target.shape), trunk.channels)


def opened(path: Path, shape: tuple[int, ...]) -> np.ndarray | None:
    """A file's maps, mapped (what is written into them changes neither the file nor what others see); None where there is none, or a
    damaged one."""
    try:
        maps = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if not isinstance(maps, np.memmap) or maps.shape != shape or maps.dtype != np.float16 or not maps.flags.c_contiguous:
        return None
    return np.asarray(maps)


class Progress:
    """A bar with the time that is left, on a terminal; elsewhere, as in a file, a line now and then.

    Args:
        title: of what.
        total: pictures.
        show: whether to show anything.
    """

    def __init__(self, title: str, total: int, show: bool = True) -> None:
        self.title, self.total, self.done = title, total, 0
        self.watched = sys.stderr.isatty()
        self.show = show
        self.began = self.told = time.monotonic()
        self.bar = tqdm(total=total, desc=title, unit=" pictures", delay=2, leave=False, disable=not show or not self.watched)

    def tick(self) -> None:
        self.done += 1
        self.bar.update(1)
        now = time.monotonic()
        if self.show and not self.watched and now - self.told >= SECONDS and self.done < self.total:
            left = (now - self.began) / self.done * (self.total - self.done)
            print(f"{self.title}: {self.done} of {self.total} pictures, about {left:.0f} s left", flush=True)
            self.told = now

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
