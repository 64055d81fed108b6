"""Pictures labelled by actors of Ray, some of which die."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from densemtmd import checkpoint, cluster
from densemtmd.backbones import build
from densemtmd.cluster import TRIES, _dispatched
from densemtmd.commands import infer
from densemtmd.errors import UserError
from densemtmd.labelling import Done, File
from densemtmd.tasks import Labelset, OutputSpace

FILES = [File(Path(f"{n}.jpg"), Path(f"/pictures/{n}.jpg"), ()) for n in range(10)]


class RayError(Exception):
    """As Ray calls what it raises."""


class RayTaskError(RayError):
    def __init__(self, cause):
        super().__init__(f"Traceback of {cause!r}")
        self.cause = cause


class Call:
    def __init__(self, work):
        self.remote, self.options = work, lambda max_task_retries: self


class Worker:
    """An actor as Ray shows it: calls give a name, by which what comes of them is asked for."""

    def __init__(self, deadly=(), wrong=(), begins=True):
        self.deadly, self.wrong, self.begins, self.had = set(deadly), wrong, begins, []
        self.begin, self.label = Call(lambda: (self, None)), Call(lambda files: (self, tuple(files)))

    def answer(self, files):
        if files is None:
            if not self.begins:
                raise RayError("The actor died: of this\nValueError: no such network")
            return None
        numbers = [FILES.index(file) for file in files]
        self.had.append(numbers)
        if self.deadly & {*numbers}:
            raise RayError("The actor died")
        if {*self.wrong} & {*numbers}:
            raise RayTaskError(UserError("the disk is full"))
        return [Done(file, [f"{file.name}: sky"]) for file in files]


RAY = SimpleNamespace(
    exceptions=SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError),
    wait=lambda calls: (calls[:1], calls[1:]),
    get=lambda call: call[0].answer(call[1]),
)


def test_who_is_free_does_the_next_and_nobody_does_anything_twice():
    workers = [Worker(), Worker(begins=False), Worker()]
    done = list(_dispatched(RAY, workers, FILES))
    assert sorted(one.file for one in done) == sorted(FILES) and not any(one.failure for one in done)
    assert sorted(n for some in workers[0].had + workers[2].had for n in some) == list(range(10))
    assert workers[0].had and workers[2].had and not workers[1].had


def test_a_picture_that_kills_actors_is_given_up_and_keeps_nobody_else(monkeypatch):
    monkeypatch.setattr(cluster, "AT_ONCE", 4)
    workers = [Worker(deadly=[3])]
    done = list(_dispatched(RAY, workers, FILES))
    assert len(done) == 10 and [one.file for one in done if one.failure] == [FILES[3]]
    (said,) = (one.failure for one in done if one.failure)
    assert said.startswith("/pictures/3.jpg cannot be labelled") and str(TRIES) in said
    assert [some for some in workers[0].had if 3 in some][1:] == [[3]] * (TRIES - 1)


def test_what_goes_wrong_there_goes_wrong_here():
    with pytest.raises(UserError, match=r"^the disk is full$"):
        list(_dispatched(RAY, [Worker(wrong=[5])], FILES))
    with pytest.raises(UserError, match="no actor of Ray could begin: ValueError: no such network"):
        list(_dispatched(RAY, [Worker(begins=False), Worker(begins=False)], FILES))


# ----------------------------------------------------------------------------------------------------------------------
# The command


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A folder of pictures, and a network."""
    monkeypatch.chdir(tmp_path)
    random, model = np.random.default_rng(0), {"name": "patchnet", "widths": [2, 3, 4], "hidden": 5, "dropout": 0.0}
    torch.manual_seed(0)
    network = build(model, OutputSpace([Labelset("kundu", ["sky", "road", "car"]), Labelset("xu", ["ground", "other"])]))
    torch.nn.init.normal_(network.classifier[-1].weight)
    checkpoint.save_network("net.safetensors", network, model)
    Path("photos").mkdir()
    for n in range(60):
        Image.fromarray(random.integers(0, 256, (150, 200, 3)).astype(np.uint8)).save(f"photos/{n}.png")
    Path("photos/60.png").write_text("no picture")
    return ["photos", "--checkpoint", "net.safetensors", "--device", "cpu", "--outputs", "ids,overlay"]


def test_without_ray_a_sentence(pictures, monkeypatch, capsys):
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    assert infer.main([*pictures, "--engine", "ray"]) == 1
    assert "install 'densemtmd[ray]'" in capsys.readouterr().err
    assert infer.main([*pictures, "--engine", "ray", "--keypoints", "all"]) == 1
    assert "leave out one of both" in capsys.readouterr().err


@pytest.mark.timeout(900)
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_an_actor_that_is_killed(pictures, capsys):
    """Another one labels its pictures, as the plain engine does; what was labelled before is passed over; nothing is left of Ray."""
    assert infer.main(["photos/0.png", *pictures[1:], "--out", "by_ray"]) == 0
    call = [sys.executable, Path(__file__).parents[1] / "tools" / "infer.py", *pictures, "--out", "by_ray", "--engine", "ray", "--jobs=2"]
    alone = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=alone) as process:
        family = psutil.Process(process.pid)
        killed, started, addresses = [], [], set()
        while process.poll() is None and not killed:
            time.sleep(0.02)
            if len([*Path("by_ray").glob("*.png")]) > 4:
                started = family.children(recursive=True)
                addresses = {c.laddr.ip for one in [family, *started] for c in one.net_connections("tcp") if c.status == "LISTEN"}
                killed = [one for one in started if "".join(one.cmdline()).startswith("ray::_Worker.label")][:1]
                for one in killed:
                    one.kill()
        said, errors = process.communicate()
    assert process.returncode == 1 and "60 of 61 pictures labelled" in said and "1 of 61 were labelled before" in said, errors
    assert killed and {ip.removeprefix("::ffff:") for ip in addresses} == {"127.0.0.1"}
    assert [line for line in errors.splitlines() if line.startswith("error: ") and "60.png is not a picture" in line]
    assert not psutil.wait_procs(started, timeout=60)[1]

    assert infer.main([*pictures, "--out", "plain"]) == 1
    assert sorted(p.name for p in Path("by_ray").iterdir()) == sorted(p.name for p in Path("plain").iterdir())
    for file in Path("plain").iterdir():
        assert np.array_equal(np.asarray(Image.open(file)), np.asarray(Image.open(Path("by_ray", file.name)))), file.name
    capsys.readouterr()
    assert infer.main([*pictures, "--out", "by_ray"]) == 1
    assert "60 of 61 were labelled before" in capsys.readouterr().out
