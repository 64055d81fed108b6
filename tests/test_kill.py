"""A training that is killed without warning, again and again, ends with the weights of the undisturbed one."""

import contextlib
import json
import math
import multiprocessing
import os
import random
import signal
import sys
from pathlib import Path

import psutil
import pytest
import torch
from toy import undraw, write_toy

from densemtmd import Predictor, checkpoint, composing
from densemtmd.commands import train
from densemtmd.runs import run as runs

KILLS = int(os.environ.get("DENSEMTMD_KILLS", "5"))
"""More of them, for a longer look: DENSEMTMD_KILLS=100 pytest tests/test_kill.py"""


def in_a_process(arguments):
    """The training tool in a process of its own, forked: the imports are there already, so it can be killed at any of its moments."""

    def work():
        os.setsid()
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 (ends with the process)
        os._exit(train.main(arguments))

    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def finished(process, seconds):
    """Waits until the process has had so many seconds of processor time, on a busy machine as on an idle one, and kills it with SIGKILL
    if it has not ended by then. True if it has ended well."""
    one = psutil.Process(process.pid)
    while process.exitcode is None:
        process.join(0.005)
        with contextlib.suppress(psutil.NoSuchProcess):
            if sum(one.cpu_times()[:2]) > seconds:
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                return False
    assert process.exitcode == 0
    return True


def processor_time():
    """Of the processes that were waited for, in seconds."""
    times = os.times()
    return times.children_user + times.children_system


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_random_moments(tmp_path, monkeypatch):
    files = [str(write_toy(tmp_path, name, shape)) for name, shape in (("squares", "square"), ("discs", "disc"))]
    common = [
        "data=own", "model=patchnet", f"data.datasets=[{','.join(files)}]", f"data_root={tmp_path}", "tracking=none",
        "model.widths=[4,6,8]", "model.hidden=8", "train.crop=24", "train.batch=4",
        "train.epochs=null", "train.outputs=6000", "train.epoch_outputs=1500", "train.checkpoint_seconds=0",
    ]  # fmt: skip
    runs.check(composing.compose(common))  # which imports what is imported late
    if KILLS < 20:  # figures would take most of the time
        undraw(monkeypatch)
    before = processor_time()
    assert finished(in_a_process([*common, f"runs={tmp_path / 'whole'}"]), math.inf)
    whole_seconds = processor_time() - before
    (whole,) = (tmp_path / "whole").iterdir()
    expected = Predictor.load(whole).networks[0].state_dict()
    chance = random.Random(0)
    kills = attempts = 0
    while kills < KILLS:
        attempts += 1
        home = tmp_path / f"killed{attempts}"
        arguments = [*common, f"runs={home}"]
        while True:
            if finished(in_a_process(arguments), chance.uniform(0.05, 0.95) * whole_seconds if kills < KILLS else math.inf):
                break
            kills += 1
            folders = list(home.glob("*")) if home.exists() else []
            if folders and (folders[0] / "config.yaml").exists():
                arguments = [f"resume={folders[0]}"]
                for file in folders[0].glob("*.safetensors"):  # whole, whenever the kill came
                    if not file.name.startswith("."):
                        checkpoint.load(file)
            else:  # killed before it had begun
                arguments = [*common, f"runs={home}{kills}"]
                home = Path(f"{home}{kills}")
        (run,) = home.iterdir()
        assert not list(run.rglob(".*")) and not list(run.rglob("lock.json")), "a killed writer's files are left"
        resumed = Predictor.load(run).networks[0].state_dict()
        assert all(torch.equal(tensor, resumed[name]) for name, tensor in expected.items())
        assert json.loads((run / "scores.json").read_text()) == json.loads((whole / "scores.json").read_text())
