"""Time and memory of pieces of work: by turns, at their peak, several at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any


@contextmanager
def on_threads(threads: int) -> Iterator[None]:
    """While it lasts, so many threads compute."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def clocks(device: Any) -> tuple[float, float]:
    """Seconds of the clock and of the processor (all threads), when all that was asked of the device is done."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter(), time.process_time()


def by_turns(works: Mapping[str, Callable[[], object]], turns: int, device: Any) -> list[dict[str, tuple[float, float]]]:
    """Seconds and processor seconds of each piece of work, in each of so many turns; warming up is for the caller."""
    measured = []
    for _ in range(turns):
        turn = {}
        for name, work in works.items():
            wall, processor = clocks(device)
            work()
            ended, used = clocks(device)
            turn[name] = ended - wall, used - processor
        measured.append(turn)
    return measured


def peak_memory(work: Callable[[], object], device: Any) -> float | None:
    """MB that a piece of work needs at its peak, beyond what was there before; None where the system does not tell."""
    import ctypes
    import gc

    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def kilobytes(key: str) -> int:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key))

    try:
        ctypes.CDLL(None).malloc_trim(0)  # what was freed, but kept for later
        reset.write_text("5")             # the peak is now
        before = kilobytes("VmRSS:")
        work()
        return max(0, kilobytes("VmHWM:") - before) / 1e3
    except (OSError, AttributeError, TypeError, StopIteration):
        return None


def one_pass(work: Callable[[], object], device: Any) -> dict[str, Any]:
    """Seconds, processor seconds and MB at the peak of a piece of work."""
    found: list[tuple[float, float]] = []
    memory = peak_memory(lambda: found.append(by_turns({"": work}, 1, device)[0][""]), device)
    return {"seconds": found[0][0], "seconds_cpu": found[0][1], "memory_mb": memory}


def timed(works: Sequence[Callable[[int], object]], seconds: float, device: Any) -> list[tuple[float, float]]:
    """Seconds and processor seconds of one piece of each kind of work, done by turns until so many seconds are over, at least twice."""
    count, began, used = 0, time.perf_counter(), [(0.0, 0.0)] * len(works)
    while count < 2 or time.perf_counter() - began < seconds:
        for i, work in enumerate(works):
            wall, processor = clocks(device)
            work(count)
            ended, ran = clocks(device)
            used[i] = used[i][0] + ended - wall, used[i][1] + ran - processor
        count += 1
    return [(wall / count, processor / count) for wall, processor in used]


def side_by_side(work: Callable[[int], object], processes: int, turns: int, seconds: float) -> float:
    """Processor seconds of a piece of work while so many processes do it at once, each for some seconds."""
    import multiprocessing

    import torch

    def repeat(results: Any) -> None:
        results.put(timed((work,), seconds, torch.device("cpu"))[0][1])

    if "fork" not in multiprocessing.get_all_start_methods():  # which shares the data with the processes
        return timed((work,), turns * seconds, torch.device("cpu"))[0][1]
    context, times = multiprocessing.get_context("fork"), []
    for _ in range(turns):
        results: Any = context.SimpleQueue()
        workers = [context.Process(target=repeat, args=(results,), daemon=True) for _ in range(processes)]
        for worker in workers:
            worker.start()
        times += [results.get() for _ in workers]
        for worker in workers:
            worker.join()
    return median(times)
