"""Kept maps of a frozen trunk: made once, found again, made anew where anything is wrong with them."""

import os

import numpy as np
import pytest
import torch
from test_encoder_decoder import SMALL, SPACE
from toy import needs_backbones, write_toy

from densemtmd.backbones.frozen import Hypercolumn
from densemtmd.datasets.config import load_dataset_config
from densemtmd.datasets.folder import load_split, open_dataset
from densemtmd.datasets.maps import KeptMaps, file_of
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

    seen, forward = [], Trunk.forward
    monkeypatch.setattr(Trunk, "forward", lambda self, x: (seen.append(tuple(x.shape[-2:])), forward(self, x))[1])
    return seen


def pictures(calls):
    """Without the ones by which a trunk is folded."""
    return sum(size == (40, 52) for size in calls)


def test_they_are_what_the_trunk_gives_and_are_made_once(data, network, tmp_path, calls):
    dataset, samples = data
    folder = tmp_path / "kept"
    made = KeptMaps(dataset, folder).of(network, samples)
    assert pictures(calls) == len(samples) == 4
    for maps, sample in zip(made, samples, strict=True):
        expected = network.trunk(as_input(torch.from_numpy(sample.image).permute(2, 0, 1)[None]))[0].permute(1, 2, 0)
        assert maps.dtype == np.float16 and maps.shape == (5, 7, network.trunk.channels)
        torch.testing.assert_close(torch.from_numpy(maps).float(), expected, rtol=2e-3, atol=2e-3)
    calls.clear()
    again = KeptMaps(dataset, folder).of(network, [*reversed(samples)])
    assert not pictures(calls) and all((a == b).all() for a, b in zip(again, reversed(made), strict=True))
    other = KeptMaps(dataset, folder)
    other.of(network, load_split(dataset, "test"))  # those of another split lie beside them
    assert pictures(calls) == 2 and len(list(folder.glob("*/*.npy"))) == 6
    again[0][:] = 0  # what is written into them is nobody else's
    assert (KeptMaps(dataset, folder).of(network, samples[-1:])[0] == made[-1]).all() and made[-1].any()


def test_another_trunk_has_others(data, network, tmp_path, calls):
    dataset, samples = data
    folder = tmp_path / "kept"
    KeptMaps(dataset, folder).of(network, samples)
    for other in (make(seed=1), make(strides=[8, 4, 16]), make(grid=4), make(scales=[1, 2])):
        calls.clear()
        assert KeptMaps(dataset, folder).of(other, samples)[0].shape[2] == other.trunk.channels
        assert pictures(calls) == 4
    assert len(list(folder.iterdir())) == 5
    calls.clear()
    same = make(hidden=7, dropout=0.5)  # another head
    KeptMaps(dataset, folder).of(same, samples)
    assert not pictures(calls)


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "other type", "other shape", "archive", "pickled"])
def test_what_is_damaged_is_made_anew(data, network, tmp_path, calls, damage):
    dataset, samples = data
    made = [maps.copy() for maps in KeptMaps(dataset, tmp_path / "kept").of(network, samples)]
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
        np.save(path, made[0].astype(np.float32))
    elif damage == "other shape":
        np.save(path, made[0][:-1])
    elif damage == "archive":
        with path.open("wb") as file:
            np.savez(file, made[0])
    else:
        np.save(path, np.array([{}], object), allow_pickle=True)
    (folder / ".half-written.npy").write_bytes(content[:100])
    calls.clear()
    again = KeptMaps(dataset, tmp_path / "kept").of(network, samples)
    assert pictures(calls) == 1 and all((a == b).all() for a, b in zip(again, made, strict=True))
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
