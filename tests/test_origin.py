"""What is told of how a result was made: what was measured, and nothing of the machine but its kind."""

import json
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from densemtmd.errors import UserError
from densemtmd.machine import cores, processor
from densemtmd.origin import MADE, Origin, clocks, code, making, origin, origins, told

ONE = Origin("densemtmd train data=a", "2026-01-02 03:04:05", "0123456789", False, "2 cores, some", 100.0, 150.0)


def test_time_is_that_of_the_clock_and_of_the_processor():
    since = clocks()
    before, waited = time.process_time(), time.perf_counter()
    time.sleep(0.2)
    while time.process_time() - before < 0.2:
        pass
    found = origin(["densemtmd"], since)
    assert 0.15 < found.core_seconds <= 0.2 + (time.process_time() - before) and found.seconds >= 0.39
    assert found.seconds <= time.perf_counter() - waited + 0.1
    assert origin(["densemtmd"]).seconds == 0


def test_hardware_is_named_by_its_kind():
    assert origin([]).hardware.startswith(f"{cores()} core") and processor() in origin([]).hardware


def test_the_commit_is_that_of_the_code():
    folder = Path(__file__).parent
    asked = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True)
    if asked.returncode:
        pytest.skip("no repository")
    assert code()[0] == asked.stdout.strip() and origin([]).commit == asked.stdout[:10]


def test_each_process_that_worked_on_a_run_is_told(tmp_path):
    with making(tmp_path, ["densemtmd", "train", "data_root=/home/me/data"], clocks()) as made:
        (killed,) = json.loads((tmp_path / MADE).read_text())  # what a kill would leave
        assert killed["seconds"] == 0 and killed["command"] == "densemtmd train data_root=.../data"
        time.sleep(0.05)
        assert made.now()[0].seconds > 0.04
    with pytest.raises(KeyboardInterrupt), making(tmp_path, ["densemtmd", "train", "resume=runs/a"], clocks()):
        raise KeyboardInterrupt
    first, second = origins(tmp_path)
    assert first.seconds > 0.04 and second.command == "densemtmd train resume=runs/a"
    (tmp_path / MADE).write_text("{}")
    with pytest.raises(UserError, match=r"made.json holds \{\}, expected a list"):
        origins(tmp_path)
    assert origins(tmp_path / "nowhere") == []


def test_the_sentence():
    assert told([ONE]) == (
        "Made by `densemtmd train data=a`, in 2 min 30 s of processor time (1 min 40 s by the clock), on 2 cores, some; commit 0123456789."
    )
    others = [ONE, replace(ONE, command="densemtmd train resume=b", seconds=0, core_seconds=0, changed=True)]
    assert told(others, "Two") == (
        "Two `densemtmd train data=a` and 1 more, in 2 min 30 s of processor time (1 min 40 s by the clock), without that of 1 that were "
        "killed, on 2 cores, some; commit 0123456789, 0123456789 and changes."
    )
    assert told([replace(ONE, commit="")]).endswith("on 2 cores, some.") and told([]) == ""
