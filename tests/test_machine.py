"""What is said of the machine is what the process may use."""

import os
import subprocess
import sys

import pytest

from densemtmd.machine import cores, processor


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not tell processes where to run")
def test_only_the_cores_that_a_process_may_use_count():
    script = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from densemtmd.machine import cores; print(cores())"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "1\n"
    assert cores() == len(os.sched_getaffinity(0))


def test_without_affinity_all_cores_count(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert cores() == 1


def test_the_processor_has_a_name_of_one_line():
    assert processor() and "\n" not in processor()
