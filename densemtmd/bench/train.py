"""Training, against the paper's minibatches of patches, and where the time of a step goes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from statistics import mean, median
from typing import Any

from densemtmd.bench.clock import clocks, timed
from densemtmd.bench.networks import size_of, strided_multiply_adds
from densemtmd.bench.processes import measure_processes
from densemtmd.bench.target import measure_target
from densemtmd.bench.told import Told
from densemtmd.bench.training import Kind, make_training, step_on
from densemtmd.errors import UserError


@dataclass
class Learner:
    """A network in training, and what it learns from."""

    learn: Callable[[int], object]  # the n-th step on batches made before
    step: Callable[[Any], object]   # a step on a batch
    load: Callable[[int], Any]      # makes the n-th batch
    outputs: float                  # labelled ones of a step
    work: float                     # multiply-adds an output
    turns: list[dict[str, float]] = field(default_factory=list)


def measure_train(arguments: argparse.Namespace) -> Told:
    """Labelled outputs a second of training with --protocol, against the paper's minibatches, by turns; where the time goes; with --target
    the time until the validation pictures are answered that well; and with --processes steps that several processes share.

    All with the same network, and the optimiser and learning rate of --protocol. Steps are measured on batches made before, and cutting
    these beside them.
    """
    from densemtmd import checkpoint
    from densemtmd.training import precision_on

    if arguments.protocol == "paper":
        raise UserError("--protocol is paper, expected what it is compared with, such as strided")
    device = checkpoint.device_of(arguments.device)
    usual = precision_on(device, "auto")
    precisions = list(dict.fromkeys(("float32", usual)))
    kinds = {f"{name}, {precision}": Kind(name, precision) for precision in precisions for name in ("paper", arguments.protocol)}
    for text in arguments.also:
        batch, side = size_of(text, "--also", "crops x pixels of a side such as 16x112")
        kinds[f"{batch} crops of {side}×{side}"] = Kind(arguments.protocol, usual, {"batch": batch, "crop": side})
    learners = {name: make_learner(arguments, kind) for name, kind in kinds.items()}
    for turn in range(arguments.turns + 1):
        for one in learners.values():
            parts = parts_of_a_step(one.learn, one.load, arguments.seconds / 2 if turn else 0, device)
            if turn:  # the first warms up
                one.turns.append({**parts, "rate": one.outputs / parts["step_s"], "rate_cpu": one.outputs / parts["step_cpu_s"]})

    bases = [f"paper, {precision}" for precision in precisions]
    own = "rate" if device.type == "cuda" else "rate_cpu"
    told: dict[str, Any] = {}
    rates = [["", "outputs a second", "a CPU second", "a step", *(f"times {base}" for base in bases), "by multiply-adds"]]
    parts_table = [["", *PARTS, *(["device busy"] if device.type == "cuda" else [])]]
    for name, one in learners.items():
        middle = {key: median(turn[key] for turn in one.turns) for key in one.turns[0]}
        shares = {part: middle[part] / sum(middle[part] for part in PARTS) for part in PARTS}
        times = {
            key: {base: median(a[key] / b[key] for a, b in zip(one.turns, learners[base].turns, strict=True)) for base in bases}
            for key in ("rate", "rate_cpu")
        }
        counted, busy = learners[bases[0]].work / one.work, busy_share(one, device) if device.type == "cuda" else None
        told[name] = {**middle, "outputs_per_step": one.outputs, "multiply_adds": one.work, "counted": counted, "shares": shares,
                      "times": times["rate"], "times_cpu": times["rate_cpu"], "busy": busy, "turns": one.turns}  # fmt: skip
        step = f"{one.outputs:.0f} in {1e3 * middle['step_s']:.0f} ms"
        rates.append([name, f"{middle['rate']:.0f}", f"{middle['rate_cpu']:.0f}", step, *(f"{times[own][base]:.1f}" for base in bases),
                      f"{counted:.1f}"])  # fmt: skip
        parts_table.append([name, *(f"{100 * share:.1f} %" for share in [*shares.values(), *([] if busy is None else [busy])])])
    values = {"datasets": arguments.datasets, "model": arguments.model, "device": str(device), "precision": usual, "kinds": told}
    lines = [rates, "Where the time of a step goes:", parts_table]
    if arguments.target:
        del learners
        values["target"], more = measure_target(arguments, kinds, device)
        lines += more
    if arguments.processes > 1:
        theirs = {name: kind for name, kind in kinds.items() if (kind.protocol, kind.precision) == (arguments.protocol, usual)}
        values["processes"], more = measure_processes(arguments, theirs)
        lines += more
    return Told(f"train {', '.join(arguments.datasets)}: {arguments.model} on {device}, median of {arguments.turns} turns", values, lines)


def make_learner(arguments: argparse.Namespace, kind: Kind) -> Learner:
    """A fresh network with what a step of its training needs."""
    from densemtmd.training import make_optimizer, train_step

    training = make_training(arguments, kind)
    network, mixture = training.network, training.mixture
    work = strided_multiply_adds(network, mixture.rows)
    device = next(network.parameters()).device
    step = partial(train_step, network, make_optimizer(network.train(), training.settings), precision=kind.precision)
    ready = [mixture.batch(n) for n in range(8)]
    return Learner(
        partial(step_on, ready, step, device), step, mixture.batch,
        mean(batch.labelled for batch in ready), work,
    )  # fmt: skip


def busy_share(one: Learner, device: Any, steps: int = 20) -> float:
    """The share of the time in which a GPU computes or copies, while batches are made ahead and learned from as training does."""
    import torch

    from densemtmd.datasets.mixing import made_ahead

    with closing(made_ahead(one.load, 0)) as batches:
        one.step(next(batches).to(device))
        began, _ = clocks(device)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            for _ in range(steps):
                one.step(next(batches).to(device))
            ended, _ = clocks(device)
    of_device = [event for event in profile.key_averages() if event.device_type != torch.autograd.DeviceType.CPU]
    return sum(event.self_device_time_total for event in of_device) / 1e6 / (ended - began)  # in microseconds


PARTS = ("loading", "augmentation", "forward", "backward", "optimizer")
"""Of a training step: drawing and stacking the batch, cutting and flipping its crops, the network with its loss, ..."""


@contextmanager
def stopwatch(owner: Any, name: str, spent: dict[str, float], key: str, clock: Callable[[], float]) -> Iterator[None]:
    """While it lasts, the seconds spent in a function of a class or module are added up."""
    original = getattr(owner, name)

    def watched(*args: Any, **kwargs: Any) -> Any:
        began = clock()
        try:
            return original(*args, **kwargs)
        finally:
            spent[key] += clock() - began

    setattr(owner, name, watched)
    try:
        yield
    finally:
        setattr(owner, name, original)


def parts_of_a_step(learn: Callable[[int], object], load: Callable[[int], object], seconds: float, device: Any) -> dict[str, float]:
    """Seconds of a step, and of its parts: on a CPU processor seconds."""
    import torch

    from densemtmd.datasets import mixing

    def clock() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
            return time.perf_counter()
        return time.process_time()

    step, batch = ({"steps": 0.0, "backward": 0.0, "optimizer": 0.0, "cut": 0.0} for _ in range(2))

    def counted(work: Callable[[int], object], spent: dict[str, float]) -> Callable[[int], None]:
        def one(n: int) -> None:
            work(n)
            spent["steps"] += 1

        return one

    with ExitStack() as watches:
        watches.enter_context(stopwatch(torch.Tensor, "backward", step, "backward", clock))
        for optimizers in (torch.optim.SGD, torch.optim.AdamW):
            watches.enter_context(stopwatch(optimizers, "step", step, "optimizer", clock))
        ((step_s, step_cpu_s),) = timed((counted(learn, step),), seconds, device)
    with stopwatch(mixing, "cut", batch, "cut", time.process_time):
        ((_, load_cpu_s),) = timed((counted(load, batch),), seconds / 4, device)
    backward, optimizer, augmentation = step["backward"] / step["steps"], step["optimizer"] / step["steps"], batch["cut"] / batch["steps"]
    return {
        "step_s": step_s, "step_cpu_s": step_cpu_s, "loading": load_cpu_s - augmentation, "augmentation": augmentation,
        "forward": (step_s if device.type == "cuda" else step_cpu_s) - backward - optimizer, "backward": backward, "optimizer": optimizer,
    }  # fmt: skip
