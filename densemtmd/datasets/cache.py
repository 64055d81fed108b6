"""Decoded pictures and labels on disk: decoded once, and read by every later run crop by crop.

A dataset has one file: the bytes of its pictures one after the other, then those of their labels, then an index. It is
mapped into memory, so that a crop reads the parts of the file that it lies in, and processes that use it share one copy
in memory. It is written under a temporary name first: a build that is killed leaves nothing that is taken for a cache, and two
that run at once do the work twice, no more. Its name tells the files that it was made from (path, size and time of the
last change) and the settings that it depends on: when any of that changes, another file is made and this one removed. A split
of the dataset that leaves other pictures out has a file of its own.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import PIL

from densemtmd.datasets.duplicates import fingerprint
from densemtmd.datasets.folder import Dataset
from densemtmd.datasets.sample import Item, Sample
from densemtmd.files import WriteError, atomic_write
from densemtmd.machine import ahead
from densemtmd.progress import followed

FORMAT = "densemtmd decoded pictures, 3"
"""Stands at the end of each file. The number rises with every change of the files or of how pictures are decoded."""

SUFFIX = ".decoded"
ABANDONED = 3600.0
"""Seconds after which a temporary file that nobody writes to is taken for the remains of a killed build."""


def cache_folder(choice: str, data_root: str | Path) -> Path | None:
    """The folder that a setting names: ``auto`` is ``.cache`` in the data root, beside the data; ``none`` is no cache.

    >>> cache_folder("auto", "data").as_posix(), cache_folder("none", "data")
    ('data/.cache', None)
    """
    if choice == "none":
        return None
    return Path(data_root) / ".cache" if choice == "auto" else Path(choice).expanduser()


@dataclass(frozen=True)
class Decoded:
    """All pictures of a dataset."""

    splits: Mapping[str, list[Sample]]  # in the order of their keys
    prints: Mapping[str, bytes]         # by key: what :mod:`densemtmd.datasets.duplicates` recognises a picture by
    note: str | None                    # why they are not kept on disk, if they should have been
    identity: str | None                # of what they were decoded from: changes when any of the files does; None: not asked for


def load_all(dataset: Dataset, folder: str | Path | None) -> Decoded:
    """All pictures of a dataset: mapped from its cache, which is built where it is not there.

    The arrays of a cache may be written to, which changes neither the file nor what others see.

    Args:
        dataset: an open dataset.
        folder: where caches lie; None: decode into memory, keep nothing.

    Raises:
        UserError: what :meth:`Dataset.load` raises.
    """
    folder = None if folder is None else Path(folder)
    items = sorted({item for split in dataset.splits.values() for item in split}, key=lambda item: item.key)

    def decode() -> Iterable[tuple[Sample, bytes]]:
        return followed(ahead(load, items), f"decoding {dataset.name}", len(items))

    def load(item: Item) -> tuple[Sample, bytes]:
        sample = dataset.load(item)
        return sample, fingerprint(sample.image)

    entries, note, identity = None, None, None
    if folder is not None and items:
        origin = _origin(dataset, items)
        identity = _digest(origin)
        path = folder / f"{_prefix(origin)}-{identity[:16]}{SUFFIX}"
        entries = _mapped(path, items)
        if entries is None:
            try:
                _build(path, decode(), origin)
                entries = _mapped(path, items)
            except WriteError as error:
                note = f"{dataset.name} is decoded into memory, for this run alone: {error}"
    by_key = {sample.name: (sample, print) for sample, print in (decode() if entries is None else entries)}
    splits = {split: [by_key[item.key][0] for item in of_it] for split, of_it in dataset.splits.items()}
    return Decoded(splits, {key: print for key, (_, print) in by_key.items()}, note, identity)


def _origin(dataset: Dataset, items: Sequence[Item]) -> dict[str, Any]:
    """All that a cache depends on, as JSON holds it: the dataset, where it lies, the settings, the files."""
    config = dataset.config
    return {
        "dataset": dataset.name,
        "folder": str(dataset.folder.resolve()),
        "settings": [FORMAT, PIL.__version__, config.encoding, config.mat_key, repr(config.codes)],
        "files": [[item.key, _identity(item.image), _identity(item.labels)] for item in items],
    }


def _prefix(origin: Mapping[str, Any]) -> str:
    """How the names of all caches of one dataset in one place begin."""
    return f"{origin['dataset']}-{_digest(origin['folder'])[:8]}"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _identity(path: Path) -> list[str | int]:
    """What changes when a file does. One that is gone is left to the reader, which says so."""
    name = os.path.join(os.getcwd(), path)  # noqa: PTH109, PTH118 (paths of 100,000 files take Path several times as long)
    try:
        stat = os.stat(name)  # noqa: PTH116
    except OSError:
        return [name]
    return [name, stat.st_size, stat.st_mtime_ns]


def _build(path: Path, entries: Iterable[tuple[Sample, bytes]], origin: Mapping[str, Any]) -> None:
    """Write a cache whole or not at all, and clear away what it replaces."""
    pictures = []
    with atomic_write(path) as temporary, temporary.open("wb") as file, TemporaryFile(dir=path.parent) as labels:
        for sample, print in entries:
            pictures.append([sample.name, *sample.target.shape, print.hex()])
            file.write(np.ascontiguousarray(sample.image).data)
            labels.write(np.ascontiguousarray(sample.target).data)
        labels.seek(0)
        shutil.copyfileobj(labels, file)
        content = json.dumps({"origin": origin, "pictures": pictures}).encode()
        file.write(content)
        file.write(len(content).to_bytes(8, "little"))
        file.write(FORMAT.encode())
    for other in path.parent.glob(f"*{SUFFIX}"):
        with suppress(OSError):  # another process may be faster
            if other.name.startswith("."):
                outdated = time.time() - other.stat().st_mtime > ABANDONED
            else:
                outdated = other != path and other.name.rsplit("-", 1)[0] == _prefix(origin) and _outdated(other, origin)
            if outdated:
                other.unlink()  # whoever has it mapped keeps it until they end


def _outdated(path: Path, origin: Mapping[str, Any]) -> bool:
    """Whether a cache of the same dataset can no longer be used: the settings are others now, or some of its files."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapping:
            old = _index(mapping)[0]["origin"]
        files = [identity for _, *pair in old["files"] for identity in pair]
        return old["settings"] != origin["settings"] or any(_identity(Path(identity[0])) != identity for identity in files)
    except (ValueError, TypeError, KeyError, IndexError):
        return True


def _index(mapping: mmap.mmap) -> tuple[dict[str, Any], int]:
    """What stands at the end of a cache (what it was made from, and its pictures), and where that begins.

    Raises:
        ValueError: it is none, or a damaged one.
    """
    tail = len(FORMAT.encode())
    if mapping[-tail:] != FORMAT.encode():
        raise ValueError(f"expected {FORMAT}")
    end = len(mapping) - tail - 8
    start = end - int.from_bytes(mapping[end : end + 8], "little")
    return json.loads(mapping[start:end]), start


def _mapped(path: Path, items: Sequence[Item]) -> list[tuple[Sample, bytes]] | None:
    """The samples of a cache, in the order of the items, their arrays views of the file, and their prints; None where there is none, or
    a damaged one."""
    try:
        with path.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # copy on write: the file is never changed
        found, end = _index(mapping)
        index = [(name, int(height), int(width), bytes.fromhex(print)) for name, height, width, print in found["pictures"]]
        pixels = sum(height * width for _, height, width, _ in index)
        if [name for name, *_ in index] != [item.key for item in items] or 4 * pixels != end:
            return None
        images, labels = np.split(np.frombuffer(mapping, np.uint8, 4 * pixels), [3 * pixels])
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if hasattr(mapping, "madvise"):  # a crop reads its own pages of the pictures, not those that follow; labels are read as a whole
        mapping.madvise(mmap.MADV_RANDOM, 0, 3 * pixels)
    entries, first = [], 0
    for name, height, width, print in index:
        last = first + height * width
        sample = Sample(images[3 * first : 3 * last].reshape(height, width, 3), labels[first:last].reshape(height, width), name)
        entries.append((sample, print))
        first = last
    return entries
