"""Labelling pictures on a Ray cluster (the extra ``[ray]``): what :func:`densemtmd.labelling.labelled` does, done by actors of Ray's.

Each actor holds the network. It gets some pictures at a time and labels them as a call on one machine does, into a folder that all machines
share. Where an actor dies, Ray starts it anew, and its pictures are done by whoever is free; those that it had finished are known by their
notes and passed over.

``RAY_ADDRESS`` names the cluster (``auto``: the one that this machine belongs to; ``ray job submit`` sets it). Without it a Ray of this
machine alone is started, which nothing outside can reach, and ends with the call.
"""

from __future__ import annotations

import os
import secrets
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from densemtmd.errors import UserError
from densemtmd.inference import Predictor
from densemtmd.labelling import Done, File, Order, labelled
from densemtmd.machine import cores

AT_ONCE = 16
"""Pictures that an actor gets at a time, at most."""

TRIES = 3
"""How often a picture may be with an actor that dies."""


RESTARTS = 10
"""How often an actor is started anew, so that one that cannot live ends; where its machine was taken away does not count."""


class _Worker:
    """An actor: a network, and what labels with it."""

    def __init__(self, checkpoint: Path, order: Order, device: str, way: tuple[str, bool, list[float]], threads: int) -> None:
        torch.set_num_threads(threads)
        self.predictor = Predictor.load(checkpoint, device, *way)
        self.order, self.threads = order, threads

    def begin(self) -> None:
        """Ends when the actor is there."""

    def label(self, files: Sequence[File]) -> list[Done]:
        return list(labelled(self.predictor, files, self.order, self.threads))


def labelled_by_ray(
    predictor: Predictor, files: Sequence[File], order: Order, checkpoint: Path, device: str = "auto", actors: int | None = None
) -> Iterator[Done]:
    """Labels files by the actors of a Ray cluster, an engine of :func:`densemtmd.labelling.label_pictures`.

    Args:
        predictor: as the actors load theirs.
        files: in folders that all machines share.
        order: what is asked for of each.
        checkpoint: the predictor's, or a run's folder, there too.
        device: where the actors compute; ``auto``: on a GPU each, where the cluster has some.
        actors: how many; None: one for each GPU, or where there is none for each core.

    Raises:
        UserError: Ray is not installed, or no cluster found, or no actor could begin.
        WriteError: an answer cannot be written.
    """
    if find_spec("ray") is None:
        raise UserError("--engine ray needs Ray, which is not installed: python -m pip install 'densemtmd[ray]'")
    files = [File(file.name, file.path.absolute(), tuple(target.absolute() for target in file.targets)) for file in files]
    order = replace(order, out=order.out.absolute())
    with _ray() as ray:
        there = ray.cluster_resources()
        gpus, cpus = int(there.get("GPU", 0)) * (not device.startswith("cpu")), max(1, int(there.get("CPU", 1)))
        actors = min(actors or gpus or cpus, max(1, len(files)))
        worker = ray.remote(num_cpus=1, num_gpus=min(1, gpus), max_restarts=RESTARTS)(_Worker)
        way = predictor.precision, predictor.mirror, predictor.scales
        each = checkpoint.absolute(), order, device, way, max(1, cpus // actors)
        yield from _dispatched(ray, [worker.remote(*each) for _ in range(actors)], files)


def _dispatched(ray: Any, workers: Sequence[Any], files: Sequence[File]) -> Iterator[Done]:
    """What the actors make of the files, in any order. One that dies is waited for anew, and gets no picture before it is there."""
    each = min(AT_ONCE, max(1, len(files) // (4 * len(workers))))
    todo = deque(list(range(first, min(first + each, len(files)))) for first in range(0, len(files), each))
    tries = [0] * len(files)

    def called(worker: Any) -> Any:
        return worker.begin.options(max_task_retries=-1).remote()

    running: dict[Any, tuple[Any, list[int]]] = {called(worker): (worker, []) for worker in workers}
    idle: list[Any] = []
    left = len(files)
    while left:
        while idle and todo:
            worker, some = idle.pop(), todo.popleft()
            running[worker.label.remote([files[n] for n in some])] = worker, some
        (answer,), _ = ray.wait(list(running))
        worker, some = running.pop(answer)
        try:
            found = ray.get(answer) or []
        except ray.exceptions.RayTaskError as error:  # what went wrong there goes wrong here
            raise error.cause from None
        except ray.exceptions.RayError as error:  # the actor has died
            if not some:
                if not running and not idle:
                    raise UserError(f"no actor of Ray could begin: {str(error).strip().splitlines()[-1]}") from error
                continue
            for n in some:
                tries[n] += 1
            todo.extend([n] for n in some if tries[n] < TRIES)  # alone: one of them may be the reason
            found = [Done(files[n], failure=f"{files[n].path} cannot be labelled: {tries[n]} actors of Ray died of it, see Ray's logs")
                     for n in some if tries[n] >= TRIES]  # fmt: skip
            running[called(worker)] = worker, []
        else:
            idle.append(worker)
        left -= len(found)
        yield from found


@contextmanager
def _ray() -> Iterator[Any]:
    """Ray, connected to a cluster, or to one of its own for as long as the block.

    Raises:
        UserError: no cluster at ``RAY_ADDRESS``.
    """
    named = os.environ.get("RAY_ADDRESS")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if not named:  # Ray reads these when it is imported
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # on Linux too: all of it listens on loopback alone
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # other people of this machine
    import ray

    if ray.is_initialized():
        yield ray
        return
    ends = signal.getsignal(signal.SIGTERM)
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        try:
            if named:
                ray.init(named, **quiet)
            else:
                own = {"worker_niceness": 0}  # as if this process worked: by default they wait for everybody else
                ray.init("local", num_cpus=cores(), include_dashboard=False, _temp_dir=folder, _system_config=own, **quiet)
        except Exception as error:  # a plain one where its processes need too long to begin
            what = f"the Ray cluster of RAY_ADDRESS={named} cannot be reached" if named else "Ray cannot be started"
            raise UserError(f"{what}: {str(error).strip().splitlines()[0]}") from error
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, ends)  # Ray's own would show where in C++ the process stood
        try:
            yield ray
        finally:
            ray.shutdown()
