"""What a frozen trunk gives of pictures, kept on disk beside the decoded pictures: computed once for all runs, strategies and labelsets.

Each picture has a file of its own, mapped into memory: the trunk's maps as they are, in half precision. A coarse map is small, so that a
fine grid costs no more than a coarse one; what a cell of the grid shows is read between the maps' cells when it is asked for. The files lie
in a folder of the trunk's, whose name tells its settings and weights; a file's name tells the picture's path, size and time of the last
change. So folds, shares and datasets that derive from one source all use the same files, and a build that is killed goes on where it was.

Shapes: ``H``, ``W`` pixels of a picture, ``h``, ``w`` cells of the trunk's grid, ``M`` channels of its maps.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from densemtmd import parallel
from densemtmd.datasets.folder import Dataset, Item
from densemtmd.datasets.sample import Sample, as_input
from densemtmd.files import WriteError, atomic_write
from densemtmd.network import JointNetwork, Trunk
from densemtmd.progress import followed, say

FORMAT = "densemtmd maps, 2"
"""The number rises with every change of the files, of how pictures are decoded or of what a trunk makes of them."""

SUFFIX = ".maps"

LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Maps:
    """A trunk's maps of one picture."""

    parts: Sequence[np.ndarray]  # (rows, columns, channels) float16 each
    finer: Sequence[float]       # of each, how many cells of the grid lie along one of its own
    grid: tuple[int, int]        # h, w

    @property
    def channels(self) -> int:
        """M."""
        return sum(part.shape[2] for part in self.parts)

    def strip(self, rows: slice, device: torch.device) -> Tensor:
        """(1, M, rows, w) float32: some of the grid's rows."""
        columns, sides = self.grid[1], []
        for part, finer in zip(self.parts, self.finer, strict=True):
            if finer == 1:
                sides.append(torch.from_numpy(part[rows, :columns]).to(device).float())
                continue
            upper, down = between(np.arange(rows.start, rows.stop), finer, part.shape[0])
            left, along = between(np.arange(columns), finer, part.shape[1])
            first, bottom, right = upper[0], part.shape[0] - 1, part.shape[1] - 1
            seen = torch.from_numpy(part[first : upper[-1] + 2]).to(device).float()
            seen = torch.lerp(seen[upper - first], seen[np.minimum(upper + 1, bottom) - first], down.to(device)[:, None, None])
            sides.append(torch.lerp(seen[:, left], seen[:, np.minimum(left + 1, right)], along.to(device)[:, None]))
        return torch.cat(sides, 2).permute(2, 0, 1)[None]


def cells_of(maps: Sequence[Maps], rows: np.ndarray, columns: np.ndarray) -> Tensor:
    """A cell of the grid of each of N pictures: (N, M) float32, what their trunk's maps show at its middle.

    Args:
        maps: of each picture, all of one trunk.
        rows, columns: (N,), of the cell.
    """
    sides = []
    for k, finer in enumerate(maps[0].finer):
        parts = [one.parts[k] for one in maps]
        heights, widths, channels = np.array([part.shape for part in parts]).T
        if finer == 1:
            places = zip(parts, rows.tolist(), columns.tolist(), strict=True)
            sides.append(torch.from_numpy(np.stack([part[row, column] for part, row, column in places])).float())
            continue
        (upper, down), (left, along) = between(rows, finer, heights), between(columns, finer, widths)
        seen = np.empty((len(maps), 2, 2, channels[0]), np.float16)
        for n, (part, row, column) in enumerate(zip(parts, upper.tolist(), left.tolist(), strict=True)):
            seen[n] = part[row : row + 2, column : column + 2]  # a map of one row or column is that row or column twice
        corners = torch.from_numpy(seen).float()
        both = torch.lerp(corners[:, 0], corners[:, 1], down[:, None, None])
        sides.append(torch.lerp(both[:, 0], both[:, 1], along[:, None]))
    return torch.cat(sides, 1)


def between(cells: np.ndarray, finer: float, size: int | np.ndarray) -> tuple[np.ndarray, Tensor]:
    """Where the middles of a grid's cells lie along one side of a map: the first of the two of its cells that they lie between, and how far
    from the first to the second, as a share, float32. Beyond the outermost middles there is nothing to read but the outermost cells.

    Args:
        cells: of the grid, their numbers along that side.
        finer: how many of the grid's cells lie along one of the map's.
        size: of the map; one for all cells, or one for each.
    """
    place = np.clip((cells + 0.5) / finer - 0.5, 0, np.subtract(size, 1))
    first = np.minimum(place.astype(np.int64), np.maximum(np.subtract(size, 2), 0))
    return first, torch.from_numpy((place - first).astype(np.float32))


class KeptMaps:
    """The maps of one dataset's pictures.

    Args:
        dataset: whose pictures.
        folder: where caches lie; None: they are kept in memory, for as long as this object lives.
    """

    def __init__(self, dataset: Dataset, folder: Path | None) -> None:
        self.dataset, self.folder = dataset, folder
        self.items = {item.key: item for split in dataset.splits.values() for item in split}
        self.opened: dict[tuple[str, str], Maps] = {}

    def of(self, network: JointNetwork, samples: Sequence[Sample]) -> list[Maps]:
        """The maps of some of the pictures as a network's trunk gives them; those that are not there are made.

        Those of a trunk that began at random are kept in memory alone: no later run will ask for them.

        Args:
            network: with a trunk.
            samples: of the dataset.
        """
        trunk = network.trunk
        assert trunk is not None
        key = trunk.identity()
        folder = None if self.folder is None or network.pretrained is None else self.folder / f"{name_of(key)}{SUFFIX}"
        if folder is not None and not folder.is_dir():
            tell_others(folder)
        allow_files(len(self.opened) + len(samples))
        wanting = self._unopened(samples, trunk, key, folder)
        if folder is not None and parallel.size() > 1:  # each process makes some of them, which the others open
            names = parallel.of_first(lambda: [sample.name for sample in wanting])
            own = set(names[parallel.rank() :: parallel.size()])
            self._make([sample for sample in wanting if sample.name in own], network, key, folder)
            parallel.sums([0])  # all are there
            wanting = self._unopened(samples, trunk, key, folder)
        if wanting:
            self._make(wanting, network, key, folder)
        return [self.opened[key, sample.name] for sample in samples]

    def _unopened(self, samples: Sequence[Sample], trunk: Trunk, key: str, folder: Path | None) -> list[Sample]:
        """Opens the maps of the pictures that are there, and gives the others."""
        wanting = []
        for sample in samples:
            if (key, sample.name) in self.opened:
                continue
            found = None if folder is None else opened(folder / file_of(self.items[sample.name]), sample, trunk)
            if found is None:
                wanting.append(sample)
            else:
                self.opened[key, sample.name] = found
        return wanting

    def _make(self, samples: Sequence[Sample], network: JointNetwork, key: str, folder: Path | None) -> None:
        trunk = network.quick_trunk()
        assert trunk is not None
        device = next(network.parameters()).device
        before: dict[str, list[Path]] = {}
        if folder is not None:
            for path in folder.glob("[!.]*.npy"):
                before.setdefault(path.name.partition("-")[0], []).append(path)
        with torch.inference_mode():
            for sample in followed(samples, f"features of {self.dataset.name}"):
                maps = trunk.maps(as_input(torch.from_numpy(sample.image).to(device).permute(2, 0, 1)[None]))
                made = torch.cat([one[0].clamp(-LARGEST, LARGEST).half().permute(1, 2, 0).flatten() for one in maps]).cpu().numpy()
                found = None
                if folder is not None:
                    path = folder / file_of(self.items[sample.name])
                    try:
                        with atomic_write(path) as temporary:
                            np.save(temporary, made)
                    except WriteError as error:
                        say(f"{self.dataset.name}: features are kept in memory, for this run alone: {error}")
                        folder = None
                    else:
                        for old in before.get(path.name.partition("-")[0], []):
                            if old != path:
                                with suppress(OSError):  # another process may be faster
                                    old.unlink()
                        found = opened(path, sample, trunk)
                self.opened[key, sample.name] = found or laid_out(made, sample, trunk)


SPARE = 200
"""Files that a process may want to open besides."""


def allow_files(number: int) -> None:
    """Lets the process have so many files mapped at once, as far as the system does: each counts as an open one, and the usual limit is
    1024."""
    with suppress(ImportError, ValueError, OSError):
        import resource  # not on Windows, which has no such limit

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = number + SPARE
        if soft < wanted and soft != resource.RLIM_INFINITY:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def tell_others(folder: Path) -> None:
    """Says how much disk the features of other trunks take, which nothing removes: another run may want them."""
    with suppress(OSError):  # another process may remove them meanwhile
        sizes = {}
        for path in folder.parent.glob(f"[!.]*{SUFFIX}"):
            if path != folder and path.is_dir():
                with os.scandir(path) as files:
                    sizes[path] = sum(file.stat().st_size for file in files)
        if sizes:
            oldest = min(sizes, key=lambda path: path.stat().st_mtime)  # when a picture's were made last
            trunks = f"{len(sizes)} other trunk{'s' * (len(sizes) > 1)}"
            say(
                f"{folder.parent} also keeps the features of {trunks}, {sum(sizes.values()) / 1e9:.2f} GB: a folder *{SUFFIX} that no run "
                f"needs any more can be removed, such as {oldest.name}, the oldest ({sizes[oldest] / 1e9:.2f} GB)"
            )


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


def laid_out(numbers: np.ndarray, sample: Sample, trunk: Trunk) -> Maps:
    """The maps of a picture, of which all numbers are given one after the other."""
    height, width = sample.target.shape
    shapes = trunk.shapes(height, width)
    parts = np.split(numbers, np.cumsum([math.prod(shape) for shape in shapes])[:-1])
    laid = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    return Maps(laid, trunk.finer, (-(-height // trunk.grid), -(-width // trunk.grid)))


def opened(path: Path, sample: Sample, trunk: Trunk) -> Maps | None:
    """A file's maps, mapped (what is written into them changes neither the file nor what others see); None where there is none, or a
    damaged one."""
    try:
        numbers = np.load(path, mmap_mode="c", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    wanted = sum(math.prod(shape) for shape in trunk.shapes(*sample.target.shape))
    if not isinstance(numbers, np.memmap) or numbers.shape != (wanted,) or numbers.dtype != np.float16:
        return None
    return laid_out(np.asarray(numbers), sample, trunk)
