"""The share of loading in a training step, and what the loader delivers by itself."""

from __future__ import annotations

import argparse
import time
from contextlib import closing
from functools import partial
from statistics import mean, median

from densemtmd.bench.clock import side_by_side, timed
from densemtmd.bench.told import Told
from densemtmd.bench.training import Kind, make_training, step_on
from densemtmd.machine import cores

LARGE = 16
"""Cores of the large machine that loading is extrapolated to."""


def measure_loading(arguments: argparse.Namespace) -> Told:
    """The share of loading in a training step, and the labelled outputs that the loader delivers by itself.

    A step that loads while it learns, as training does, and one on a batch that was made before, by turns; then loading
    alone. What else the machine does disturbs their difference more than it disturbs the processor time.
    """
    from densemtmd.datasets.mixing import made_ahead
    from densemtmd.training import make_optimizer, train_step

    training = make_training(arguments, Kind(arguments.protocol, "auto"))
    network, mixture = training.network, training.mixture
    device = next(network.parameters()).device
    step = partial(train_step, network, make_optimizer(network.train(), training.settings), precision=training.settings.precision)
    ready = [mixture.batch(n) for n in range(8)]
    outputs = mean(batch.labelled for batch in ready)

    turns: list[dict[str, float]] = []
    with closing(made_ahead(mixture.batch, 0, workers=arguments.workers)) as batches:
        waits = []

        def live(_: int) -> None:
            began = time.perf_counter()
            batch = next(batches)
            waits.append(time.perf_counter() - began)
            step(batch.to(device))

        learn = partial(step_on, ready, step, device)
        for turn in range(arguments.turns + 1):
            seconds = arguments.seconds if turn else 0
            waits.clear()
            (live_s, _), (learn_s, learn_cpu_s) = timed((live, learn), seconds, device)
            ((_, load_cpu_s),) = timed((mixture.batch,), seconds / 4, device)
            measured = {"step_loading_s": live_s, "step_ready_s": learn_s, "step_cpu_s": learn_cpu_s, "load_cpu_s": load_cpu_s}
            shares = {"longer": live_s / learn_s - 1, "waiting": mean(waits) / live_s, "work": load_cpu_s / (load_cpu_s + learn_cpu_s)}
            turns.append(measured | shares)
    del turns[0]  # to warm up
    middle = {key: median(turn[key] for turn in turns) for key in turns[0]}
    processes = min(cores(), 2)
    each = outputs / side_by_side(mixture.batch, processes, arguments.turns, arguments.seconds / 4)

    names = [source.name for source in mixture.sources]
    rows = [
        ["", ""],
        ["opening the data", f"{training.opening:.2f} s"],
        ["a step on batches made before", f"{middle['step_ready_s'] * 1e3:.1f} ms, {outputs:.0f} labelled outputs"],
        ["a step that loads", f"{middle['step_loading_s'] * 1e3:.1f} ms, by turns {100 * middle['longer']:+.1f} %"],
        ["of it, waiting for the batch", f"{100 * middle['waiting']:.1f} %"],
        ["loading in all processor time", f"{100 * middle['work']:.1f} %"],
        ["loading alone", f"{middle['load_cpu_s'] * 1e3:.2f} ms of processor time a batch"],
        [f"a core, {processes} loading at once", f"{each / 1e6:.2f} million labelled outputs a second"],
        [f"{LARGE} such cores", f"{each * LARGE / 1e6:.1f} million labelled outputs a second"],
    ]
    values = {
        "datasets": names, "model": arguments.model, "protocol": arguments.protocol, "device": str(device), "workers": arguments.workers,
        "opening_s": training.opening, "outputs_per_step": outputs, **middle, "outputs_per_second_per_core": each,
        "outputs_per_second_of_16_cores": each * LARGE, "turns": turns,
    }  # fmt: skip
    title = f"loading {', '.join(names)}: {arguments.model} on {device}, {arguments.protocol}, median of {arguments.turns} turns"
    return Told(title, values, [rows])
