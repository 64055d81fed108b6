"""Steps of training by several processes, as ``torchrun`` starts them, against one."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from densemtmd import parallel
from densemtmd.bench.clock import clocks
from densemtmd.bench.training import Kind, make_training
from densemtmd.errors import UserError

WARM = 3
"""Steps before those that count."""


def measure_processes(arguments: argparse.Namespace, kinds: Mapping[str, Kind]) -> tuple[dict[str, Any], list[Any]]:
    """The same steps of each kind, each of the whole batch, by one process with one thread, by one with --processes threads and by so many
    processes with one thread each, in turns; what was measured, and its table."""
    number = arguments.processes
    ways = {"1 process, 1 thread": (1, 1), f"1 process, {number} threads": (1, number), f"{number} processes": (number, 1)}
    base = next(iter(ways))
    told: dict[str, Any] = {}
    table = [["", "", "a step, ms", "processor time of all, ms", f"times as fast as {base}"]]
    for kind, trained in kinds.items():
        turns = [{way: _started(arguments, trained, *of_way) for way, of_way in ways.items()} for _ in range(arguments.turns)]
        told[kind] = {}
        for way in ways:
            step, processor = (median(turn[way][key] for turn in turns) for key in ("step_s", "cpu_s"))
            times = median(turn[base]["step_s"] / turn[way]["step_s"] for turn in turns)
            told[kind][way] = {"step_s": step, "cpu_s": processor, "times": times, "turns": [turn[way] for turn in turns]}
            table.append([kind if way == base else "", way, f"{1e3 * step:.0f}", f"{1e3 * processor:.0f}", f"{times:.2f}"])
    return told, ["Steps by several processes, which share each batch:", table]


def _started(arguments: argparse.Namespace, kind: Kind, processes: int, threads: int) -> dict[str, float]:
    """What :func:`steps` finds in so many processes."""
    wanted = ("datasets", "data_root", "cache", "protocol", "workers", "seconds", "model", "device", "lr")
    given = {name: value for name, value in vars(arguments).items() if name in wanted}
    told = json.dumps({"arguments": given, "kind": asdict(kind)}, default=str)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", __name__, told]
    done = subprocess.run(run, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)}, check=False)
    if done.returncode:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        said = [line for line in lines if "rror: " in line] or lines[-1:] or ["it said nothing"]
        raise UserError(f"--processes {arguments.processes}: torchrun ended with {done.returncode}: {said[0]}")
    return json.loads(done.stdout.splitlines()[-1])


def steps(given: Mapping[str, Any]) -> None:
    """Some seconds of training; the first process prints the seconds of a step, and of the processor in all processes."""
    import torch

    from densemtmd.training import Learner, kind_criterion, make_optimizer, train_step

    arguments, kind = argparse.Namespace(**given["arguments"]), Kind(**given["kind"])
    training = make_training(arguments, kind)
    network, mixture = training.network.train(), training.mixture
    device = next(network.parameters()).device
    own = parallel.positions(mixture.batch_size, 1)
    ready = [mixture.batch(n, None if own is None else torch.cat(own)).to(device) for n in range(8)]
    optimizer = make_optimizer(network, training.settings)
    learner = Learner(network, kind.precision, kind_criterion(network), 0)
    with parallel.as_one(network, training.settings.sync_norms):
        shared = parallel.shared(learner)

        def seconds(count: int) -> tuple[float, float]:
            parallel.sums([0])  # all begin at once
            began, used = clocks(device)
            for n in range(count):
                train_step(network, optimizer, ready[n % len(ready)], kind.precision, learner=shared or learner)
            ended, spent = clocks(device)
            return (ended - began) / count, parallel.sums([spent - used])[0] / count

        each = seconds(WARM)[0]
        count = parallel.sums([math.ceil(arguments.seconds / each) if parallel.rank() == 0 else 0])[0]
        step, processor = seconds(int(count))
    if parallel.rank() == 0:
        print(json.dumps({"step_s": step, "cpu_s": processor, "steps": count}))


def main(argv: Sequence[str] | None = None) -> int:
    given = json.loads((sys.argv[1:] if argv is None else argv)[0])
    with parallel.joined() as first:
        if not first:
            return parallel.serve()
        with parallel.together(steps, given):
            steps(given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
