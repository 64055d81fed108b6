"""The cache gives what the files give, notices every change, and survives full disks, kills and two builds at once."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from toy import write_toy

from densemtmd.datasets import cache
from densemtmd.datasets.cache import cache_folder, load_all
from densemtmd.datasets.config import load_dataset_config
from densemtmd.datasets.crops import cut
from densemtmd.datasets.duplicates import fingerprint
from densemtmd.datasets.folder import Dataset, load_split, open_dataset
from densemtmd.datasets.sample import Item
from densemtmd.errors import UserError
from densemtmd.geometry import Geometry


def opened(root: Path, name: str = "squares", **changes: Any) -> Dataset:
    path = root / f"{name}.yaml"
    if not path.exists():
        write_toy(root, name, "square")
    if changes:
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))
    return open_dataset(load_dataset_config(path), root)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def same(decoded: cache.Decoded, second: dict) -> bool:
    """Whether the samples are these, in the same order, value by value."""
    first = decoded.splits
    return first.keys() == second.keys() and all(
        len(first[split]) == len(second[split])
        and all(
            x.name == y.name and np.array_equal(x.image, y.image) and np.array_equal(x.target, y.target) and x.image.dtype == y.image.dtype
            for x, y in zip(first[split], second[split], strict=True)
        )
        for split in first
    )


def from_files(dataset: Dataset) -> dict:
    return {split: load_split(dataset, split) for split in dataset.splits}


def test_built_and_mapped_are_the_files(tmp_path, monkeypatch):
    dataset = opened(tmp_path)
    expected = from_files(dataset)
    built = load_all(dataset, tmp_path / "cache")
    assert built.note is None and same(built, expected) and len(files(tmp_path / "cache")) == 1
    assert files(tmp_path / "cache")[0].startswith("squares-")
    monkeypatch.setattr(Dataset, "load", lambda *_: pytest.fail("decoded again"))
    mapped = load_all(opened(tmp_path), tmp_path / "cache")
    assert mapped.note is None and same(mapped, expected) and mapped.prints == built.prints
    sample = expected["train"][0]
    assert mapped.prints[sample.name] == fingerprint(sample.image)


def test_pictures_of_many_sizes(tmp_path):
    write_toy(tmp_path, "squares", "square")
    for n, size in enumerate([(1, 1), (3, 1000), (999, 2)]):
        Image.fromarray(np.full((*size, 3), n, np.uint8)).save(tmp_path / "squares" / "images" / f"00{n}.png")
        Image.fromarray(np.full(size, n % 2, np.uint8)).save(tmp_path / "squares" / "labels" / f"00{n}.png")
    dataset = opened(tmp_path)
    assert same(load_all(dataset, tmp_path / "cache"), from_files(dataset))


def test_samples_are_views_of_one_map_that_may_be_written_to(tmp_path):
    dataset = opened(tmp_path)
    samples = [sample for of_it in load_all(dataset, tmp_path / "cache").splits.values() for sample in of_it]
    bases = {id(base_of(array)) for sample in samples for array in (sample.image, sample.target)}
    assert len(bases) == 1 and len(samples) == 12
    before = samples[0].image.copy()
    samples[0].image[:] = 0
    samples[0].target[:] = 7
    again = {s.name: s for of_it in load_all(dataset, tmp_path / "cache").splits.values() for s in of_it}[samples[0].name]
    assert np.array_equal(again.image, before) and again.target.max() != 7


def base_of(array: np.ndarray) -> object:
    base: Any = array
    while isinstance(base, np.ndarray) and base.base is not None:
        base = base.base
    return base


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux which pages of a file are in memory")
def test_a_crop_reads_its_own_part_of_the_file(tmp_path):
    """Of a picture of 1200×1600 that was not in memory, a crop of 100×100 reads the pages of its rows, not the picture."""
    from mincore import drop_from_memory, pages_in_memory

    def samples():
        random = np.random.default_rng(0)
        for n in range(12):
            image = random.integers(0, 255, (1200, 1600, 3), dtype=np.uint8)
            yield cache.Sample(image, image[:, :, 0] % 5, str(n)), bytes(16)

    path = tmp_path / "big.decoded"
    cache._build(path, samples(), {"dataset": "big", "folder": "", "settings": [], "files": []})
    drop_from_memory(path)
    if pages_in_memory(path, 0, 12 * 1200 * 1600 * 3):
        pytest.skip("this file system keeps its files in memory")
    sample = (cache._mapped(path, [Item(str(n), path, path, "") for n in range(12)]) or [])[3][0]
    image, _ = cut(sample, 600, 700, 14, 14, Geometry(46, 4))
    assert image.copy().shape == (98, 98, 3)
    first = 3 * 1200 * 1600 * 3
    assert 98 <= pages_in_memory(path, first, 1200 * 1600 * 3) <= 2 * 98 + 2  # of 1407; a row has 4800 bytes, a page 4096


def test_where_it_lies(tmp_path):
    assert cache_folder("auto", tmp_path) == tmp_path / ".cache" and cache_folder("none", tmp_path) is None
    assert cache_folder("~/x", tmp_path) == Path.home() / "x"
    dataset = opened(tmp_path)
    samples = load_all(dataset, None)
    assert samples.note is None and same(samples, from_files(dataset)) and not (tmp_path / ".cache").exists()


def test_a_cache_in_the_data_is_no_data(tmp_path):
    """Where the data root is the dataset's own folder, globs for all files beneath it do not find the cache."""
    opened(tmp_path)
    globs = {"images": "**/*", "labels": "**/labels/*", "key": r"([^/]+)\.png$"}
    path = tmp_path / "squares" / "all.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load((tmp_path / "squares.yaml").read_text()) | globs | {"images": "images/**/*"}))
    for _ in range(2):
        dataset = open_dataset(load_dataset_config(path), tmp_path / "squares")
        load_all(dataset, tmp_path / "squares" / "images" / ".cache")
    assert sum(map(len, dataset.splits.values())) == 12


# What it depends on


def touch(root: Path) -> None:
    os.utime(root / "squares" / "images" / "003.png", ns=(1, 1))


def repaint(root: Path) -> None:
    """Other content, the same size and time of change: only the size of the file tells."""
    path = root / "squares" / "labels" / "003.png"
    times = path.stat()
    Image.fromarray(np.arange(40 * 52, dtype=np.uint8).reshape(40, 52) % 2).save(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def remove(root: Path) -> None:
    for folder in ("images", "labels"):
        (root / "squares" / folder / "003.png").unlink()


@pytest.mark.parametrize(
    "change",
    [
        touch, repaint, remove,
        lambda root: opened(root, void=[255, 1], labelset=[{"label": "other", "codes": [0]}, {"label": "square", "codes": [2]}]),
        lambda root: opened(root, labelset=["square", {"label": "other", "codes": "rest"}], void=[255, 3]),
        lambda root: opened(root, void="rest"),
    ],
)  # fmt: skip
def test_every_change_is_noticed(tmp_path, change):
    load_all(opened(tmp_path), tmp_path / "cache")
    before = files(tmp_path / "cache")
    change(tmp_path)
    dataset = opened(tmp_path)
    after = load_all(dataset, tmp_path / "cache")
    assert after.note is None and same(after, from_files(dataset))
    assert len(files(tmp_path / "cache")) == 1 and files(tmp_path / "cache") != before  # the old one is gone


def test_what_does_not_matter_changes_nothing(tmp_path):
    load_all(opened(tmp_path), tmp_path / "cache")
    before = files(tmp_path / "cache")
    labels = [{"label": "ground", "colour": [1, 2, 3]}, "square"]
    for changes in ({"labelset": labels, "domain": "elsewhere"}, {"split": {"fractions": {"train": 0.25, "val": 0.25, "test": 0.5}}}):
        dataset = opened(tmp_path, **changes)
        assert same(load_all(dataset, tmp_path / "cache"), from_files(dataset)) and files(tmp_path / "cache") == before


def test_splits_side_by_side(tmp_path):
    """Two splits that leave other pictures out take no cache from each other; what is outdated goes, of whichever of them."""
    split = {"patterns": {"train": "images/00?.png", "val": "images/010.png", "test": "images/011.png"}}
    splits = {"few": {"patterns": {"train": "images/000.png", "val": "images/001.png", "test": "images/002.png"}}}
    opened(tmp_path, split=split, splits=splits)
    config = load_dataset_config(tmp_path / "squares.yaml")

    def load_both() -> list[str]:
        for name in (None, "few"):
            dataset = open_dataset(config, tmp_path, split=name)
            assert same(load_all(dataset, tmp_path / "cache"), from_files(dataset))
        return files(tmp_path / "cache")

    first = load_both()
    assert len(first) == 2 and load_both() == first
    os.utime(tmp_path / "squares" / "images" / "005.png", ns=(1, 1))  # in one of them
    second = load_both()
    assert len(second) == 2 and len({*first} & {*second}) == 1
    touch(tmp_path)
    os.utime(tmp_path / "squares" / "images" / "002.png", ns=(1, 1))  # in both
    third = load_both()
    assert len(third) == 2 and not {*second} & {*third}


def test_datasets_side_by_side(tmp_path):
    first, second = opened(tmp_path), opened(tmp_path, "boxes")
    elsewhere = opened(tmp_path / "elsewhere")
    for _ in range(2):
        for dataset in (first, second, elsewhere):
            assert same(load_all(dataset, tmp_path / "cache"), from_files(dataset))
    assert len(files(tmp_path / "cache")) == 3


# Accidents


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[:-1], lambda b: b[: len(b) // 2], lambda b: b"x" * 100, lambda b: b[:-40]])
def test_a_damaged_file_is_built_anew(tmp_path, damage):
    dataset = opened(tmp_path)
    load_all(dataset, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    samples = load_all(dataset, tmp_path / "cache")
    assert samples.note is None and same(samples, from_files(dataset)) and file.read_bytes() == whole


@pytest.mark.parametrize("damage", [("003", "004"), ('"pictures"', '"pictores"'), ('[["000"', '[7,["000"'), ('"000", 40', '"000", 41')])
def test_a_damaged_index_is_no_cache(tmp_path, damage):
    """It is JSON still, and speaks of other pictures, or of none."""
    dataset = opened(tmp_path)
    load_all(dataset, tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    whole = file.read_bytes()
    start = whole.rindex(b'"pictures"')
    length = -8 - len(cache.FORMAT)
    index = whole[start:length].replace(damage[0].encode(), damage[1].encode(), 1)
    body = whole[:start] + index
    json_starts = whole.rindex(b'{"origin"')
    file.write_bytes(body + (len(body) - json_starts).to_bytes(8, "little") + cache.FORMAT.encode())
    samples = load_all(dataset, tmp_path / "cache")
    assert samples.note is None and same(samples, from_files(dataset)) and file.read_bytes() == whole


def test_a_full_disk(tmp_path):
    """The system refuses to write more than 20 kB, as a full disk does: a sentence, and the pictures all the same."""
    dataset = opened(tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        samples = load_all(dataset, tmp_path / "cache")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    note = samples.note
    assert note is not None and "\n" not in note
    for word in ("squares is decoded into memory", str(tmp_path / "cache"), "could not be written", "free some space"):
        assert word in note
    assert same(samples, from_files(dataset)) and files(tmp_path / "cache") == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    dataset = opened(tmp_path)
    samples = load_all(dataset, tmp_path / "file" / "cache")
    assert samples.note is not None and str(tmp_path / "file") in samples.note and same(samples, from_files(dataset))


@pytest.mark.parametrize("how", ["cut off", "gone"])
def test_a_broken_picture_stops_the_build(tmp_path, monkeypatch, how):
    dataset = opened(tmp_path)
    path = tmp_path / "squares" / "images" / "007.png"
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-300])
    load, read = Dataset.load, []
    monkeypatch.setattr(Dataset, "load", lambda self, item: (read.append(item.key), load(self, item))[1])
    with pytest.raises(UserError, match=r"007\.png"):
        load_all(dataset, tmp_path / "cache")
    assert files(tmp_path / "cache") == [] and read.count("007") == 1


BUILD = """
import sys, time
from densemtmd.datasets.cache import load_all
from densemtmd.datasets.config import load_dataset_config
from densemtmd.datasets.folder import Dataset, open_dataset
from pathlib import Path

root, seconds = Path(sys.argv[1]), float(sys.argv[2])
load = Dataset.load
Dataset.load = lambda self, item: (time.sleep(seconds), load(self, item))[1]
decoded = load_all(open_dataset(load_dataset_config(root / "squares.yaml"), root), root / "cache")
print(sum(int(s.image.sum()) + int(s.target.sum()) for of_it in decoded.splits.values() for s in of_it), decoded.note)
"""


def start_build(root: Path, seconds: float) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(BUILD), str(root), str(seconds)], stdout=subprocess.PIPE, text=True)


def test_a_killed_build_leaves_nothing_that_counts(tmp_path):
    dataset = opened(tmp_path)
    killed = start_build(tmp_path, 0.2)
    deadline = time.monotonic() + 60
    while not (tmp_path / "cache").is_dir() or not files(tmp_path / "cache"):
        assert time.monotonic() < deadline and killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (remains,) = (tmp_path / "cache").iterdir()
    assert remains.name.startswith(".")
    samples = load_all(dataset, tmp_path / "cache")
    assert samples.note is None and same(samples, from_files(dataset))
    assert len(files(tmp_path / "cache")) == 2  # another build might be writing it: it is removed once nobody has for an hour
    os.utime(remains, (0, 0))
    touch(tmp_path)
    load_all(opened(tmp_path), tmp_path / "cache")
    assert len(files(tmp_path / "cache")) == 1 and not remains.exists()


def test_two_builds_at_once(tmp_path):
    dataset = opened(tmp_path)
    expected = sum(int(s.image.sum()) + int(s.target.sum()) for of_it in from_files(dataset).values() for s in of_it)
    builds = [start_build(tmp_path, 0.05) for _ in range(2)]
    for build in builds:
        printed, _ = build.communicate(timeout=100)
        assert build.returncode == 0 and printed.split() == [str(expected), "None"]
    assert len(files(tmp_path / "cache")) == 1 and same(load_all(dataset, tmp_path / "cache"), from_files(dataset))
