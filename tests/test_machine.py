"""What is said of the machine is what the process may use."""

import os
import subprocess
import sys
import time

import numpy as np
import pytest

from densemtmd.datasets.sample import Sample
from densemtmd.machine import AHEAD_BYTES, ahead, array_bytes, cores, processor


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


@pytest.mark.parametrize("size, most", [(10, 9), (AHEAD_BYTES // 3, 4), (2 * AHEAD_BYTES, 2)])
def test_what_is_made_ahead_is_in_order_and_bounded_in_bytes(monkeypatch, size, most):
    """However slow whoever takes it: with two threads nine small results, or as few large ones as there is room for, and the one taken."""
    monkeypatch.setattr("densemtmd.machine.array_bytes", lambda value: size)
    begun, seen = [], []
    for n in ahead(lambda n: begun.append(n) or n, range(40), threads=2):
        seen.append(n)
        time.sleep(0.002)
        assert len(begun) - len(seen) < most
    assert seen == [*range(40)] == sorted(begun)


def test_an_error_of_what_is_made_ahead_comes_in_its_place():
    work = ahead(lambda n: 1 // (n - 3), range(6))
    assert [next(work) for _ in range(3)] == [-1, -1, -1]
    with pytest.raises(ZeroDivisionError):
        next(work)


def test_threads_that_would_find_no_memory_are_not_waited_for(monkeypatch):
    monkeypatch.setattr("densemtmd.machine.ROOM", 2**55)
    with pytest.raises(MemoryError):
        next(ahead(str, "abc"))


def test_the_bytes_of_arrays():
    image = np.zeros((4, 5, 3), np.uint8)
    assert array_bytes(image) == 60 and array_bytes((image, b"abc", [image])) == 120 and array_bytes(None) == 0
    assert array_bytes(Sample(image, image[..., 0], "name")) == 80
