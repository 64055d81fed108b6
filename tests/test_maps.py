"""Kept maps of a frozen trunk: made once, found again, made anew where anything is wrong with them."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from test_encoder_decoder import SMALL, SPACE
from toy import needs_backbones, write_toy

from densemtmd.backbones.frozen import Hypercolumn
from densemtmd.datasets.config import load_dataset_config
from densemtmd.datasets.folder import load_split, open_dataset
from densemtmd.datasets.maps import KeptMaps, cells_of, file_of
from densemtmd.datasets.sample import as_input

needs_backbones()


def make(seed=0, **settings):
    torch.manual_seed(seed)
    network = Hypercolumn(SPACE, **{**SMALL, "strides": [4, 8], **settings}).eval()
    network.pretrained = {"name": "something", "digest": "00", "licence": "mine"}  # else nothing would be kept on disk
    return network


@pytest.fixture(scope="module")
def network():
    return make()


@pytest.fixture
def data(tmp_path):
    dataset = open_dataset(load_dataset_config(write_toy(tmp_path, "squares", "square", 8)), tmp_path)
    return dataset, load_split(dataset, "train")


@pytest.fixture
def calls(monkeypatch):
    """The sizes of the pictures that trunks saw."""
    from densemtmd.backbones.frozen import Trunk

    seen, maps = [], Trunk.maps
    monkeypatch.setattr(Trunk, "maps", lambda self, x: (seen.append(tuple(x.shape[-2:])), maps(self, x))[1])
    return seen


def pictures(calls):
    """Without the ones by which a trunk is folded."""
    return sum(size == (40, 52) for size in calls)


def same(one, other):
    return one.grid == other.grid and all((a == b).all() for a, b in zip(one.parts, other.parts, strict=True))


def on_disk(maps):
    base = maps.parts[0]
    while isinstance(base.base, np.ndarray):
        base = base.base
    return isinstance(base, np.memmap)


def whole(maps):
    """(h, w, M)."""
    return maps.strip(slice(0, maps.grid[0]), torch.device("cpu"))[0].permute(1, 2, 0)


def test_they_are_what_the_trunk_gives_and_are_made_once(data, network, tmp_path, calls):
    dataset, samples = data
    folder = tmp_path / "kept"
    made = KeptMaps(dataset, folder).of(network, samples)
    assert pictures(calls) == len(samples) == 4
    for maps, sample in zip(made, samples, strict=True):
        expected = network.trunk(as_input(torch.from_numpy(sample.image).permute(2, 0, 1)[None]))[0].permute(1, 2, 0)
        assert maps.grid == (5, 7) and maps.channels == network.trunk.channels and all(part.dtype == np.float16 for part in maps.parts)
        torch.testing.assert_close(whole(maps), expected, rtol=2e-3, atol=2e-3)
    calls.clear()
    again = KeptMaps(dataset, folder).of(network, [*reversed(samples)])
    assert not pictures(calls) and all(same(a, b) for a, b in zip(again, reversed(made), strict=True))
    other = KeptMaps(dataset, folder)
    other.of(network, load_split(dataset, "test"))  # those of another split lie beside them
    assert pictures(calls) == 2 and len(list(folder.glob("*/*.npy"))) == 6
    again[0].parts[0][:] = 0  # what is written into them is nobody else's
    assert same(KeptMaps(dataset, folder).of(network, samples[-1:])[0], made[-1]) and made[-1].parts[0].any()


@pytest.mark.parametrize("settings", [{"strides": [4, 8, 32], "grid": 4}, {"scales": [1, 1.5]}, {"scales": [0.5, 2], "grid": 4}])
def test_what_is_read_of_kept_maps_is_what_the_trunk_puts_on_its_grid(data, settings):
    """Strip by strip, and cell by cell, against torch's own interpolation of whole maps."""
    dataset, samples = data
    network = make(**settings)
    expected = [network.trunk(as_input(torch.from_numpy(sample.image).permute(2, 0, 1)[None])) for sample in samples]
    close = 1e-3 * torch.cat(expected).abs().amax((0, 2, 3)) + 1e-5
    made = KeptMaps(dataset, None).of(network, samples)
    for maps, whole in zip(made, expected, strict=True):
        for rows in (slice(0, 3), slice(1, maps.grid[0]), slice(maps.grid[0] - 1, maps.grid[0])):
            strip = maps.strip(rows, torch.device("cpu"))
            assert strip.shape[1:] == (maps.channels, rows.stop - rows.start, maps.grid[1])
            assert ((strip - whole[:, :, rows]).abs() <= close[:, None, None]).all()
    random = np.random.default_rng(0)
    for _ in range(20):
        rows, columns = (random.integers(0, size, len(made)) for size in made[0].grid)
        cells = cells_of(made, rows, columns)
        wanted = torch.stack([whole[0, :, row, column] for whole, row, column in zip(expected, rows, columns, strict=True)])
        assert cells.dtype == torch.float32 and ((cells - wanted).abs() <= close).all()


def test_more_files_are_mapped_than_a_process_may_open(data, network, tmp_path):
    resource = pytest.importorskip("resource")
    dataset, samples = data
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = Path("/proc/self/fd")
    used = len([*opened.iterdir()]) if opened.is_dir() else pytest.skip("this system does not tell")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 2, limits[1]))
        made = KeptMaps(dataset, tmp_path / "kept").of(network, samples)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(made) == 4 and all(on_disk(maps) for maps in made)


def test_what_other_trunks_keep_is_told(data, network, tmp_path, capsys):
    dataset, samples = data
    for other in (network, make(seed=1), make(seed=2)):
        KeptMaps(dataset, tmp_path / "kept").of(other, samples)
    (first, second), kept = capsys.readouterr().out.splitlines(), tmp_path / "kept"
    assert f"{kept} also keeps the features of 1 other trunk, 0.00 GB" in first and "the features of 2 other trunks" in second
    oldest = min(kept.iterdir(), key=lambda path: path.stat().st_mtime)
    assert f"can be removed, such as {oldest.name}, the oldest" in first and oldest.name in second
    KeptMaps(dataset, kept).of(network, samples)
    assert not capsys.readouterr().out  # they are there


def test_another_trunk_has_others(data, network, tmp_path, calls):
    dataset, samples = data
    folder = tmp_path / "kept"
    KeptMaps(dataset, folder).of(network, samples)
    for other in (make(seed=1), make(strides=[8, 4, 16]), make(grid=4), make(scales=[1, 2])):
        calls.clear()
        assert KeptMaps(dataset, folder).of(other, samples)[0].channels == other.trunk.channels
        assert pictures(calls) == 4
    assert len(list(folder.iterdir())) == 5
    calls.clear()
    same = make(hidden=7, dropout=0.5)  # another head
    KeptMaps(dataset, folder).of(same, samples)
    assert not pictures(calls)


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "other type", "other shape", "archive", "pickled"])
def test_what_is_damaged_is_made_anew(data, network, tmp_path, calls, damage):
    dataset, samples = data
    made = KeptMaps(dataset, None).of(network, samples)
    KeptMaps(dataset, tmp_path / "kept").of(network, samples)
    (folder,) = (tmp_path / "kept").iterdir()
    path = folder / file_of(dataset.splits["train"][0])
    content = path.read_bytes()
    if damage == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "garbage":
        path.write_bytes(b"\x93NUMPY\x01\x00\x76\x00{garbage" + content[20:])
    elif damage == "other type":
        np.save(path, np.load(path).astype(np.float32))
    elif damage == "other shape":
        np.save(path, np.load(path)[:-1])
    elif damage == "archive":
        with path.open("wb") as file:
            np.savez(file, made[0].parts[0])
    else:
        np.save(path, np.array([{}], object), allow_pickle=True)
    (folder / ".half-written.npy").write_bytes(content[:100])
    calls.clear()
    again = KeptMaps(dataset, tmp_path / "kept").of(network, samples)
    assert pictures(calls) == 1 and all(same(a, b) for a, b in zip(again, made, strict=True))
    assert path.read_bytes() == content


def test_a_picture_that_changed_gets_new_ones(data, network, tmp_path, calls):
    dataset, samples = data
    KeptMaps(dataset, tmp_path / "kept").of(network, samples)
    image = dataset.splits["train"][1].image
    os.utime(image, ns=(1, 1))
    calls.clear()
    KeptMaps(dataset, tmp_path / "kept").of(network, samples)
    assert pictures(calls) == 1 and len(list((tmp_path / "kept").glob("*/*.npy"))) == 4  # the old ones are gone


def test_without_a_disk_they_are_kept_in_memory(data, network, tmp_path, calls, capsys):
    dataset, samples = data
    (tmp_path / "file").touch()
    for folder in (None, tmp_path / "file"):
        calls.clear()
        kept = KeptMaps(dataset, folder)
        first = kept.of(network, samples)
        assert kept.of(network, samples)[0] is first[0] and pictures(calls) == 4
    assert "squares: features are kept in memory, for this run alone" in capsys.readouterr().out
    fresh = make()
    fresh.pretrained = None  # nobody will meet a random trunk again
    KeptMaps(dataset, tmp_path / "kept").of(fresh, samples)
    assert not (tmp_path / "kept").exists()
