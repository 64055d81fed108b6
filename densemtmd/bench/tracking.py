"""What the record in MLflow costs the training loop."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from densemtmd.bench.told import Told
from densemtmd.bench.training import Kind, make_training

if TYPE_CHECKING:
    from densemtmd.datasets.mixing import Mixture


def measure_tracking(arguments: argparse.Namespace) -> Told:
    """The training loop with its record in MLflow (a new SQLite store) and without one, by turns.

    There is no validation in a turn. Beside the difference of the two, which all that the machine does disturbs, the processor time
    that the record takes is measured by itself: in the loop, and in the threads that write.
    """
    import tempfile

    from densemtmd.tracking import open_tracker

    training = make_training(arguments, Kind(arguments.protocol, "auto"))
    network, mixture, settings = training.network, training.mixture, training.settings
    names = [source.name for source in mixture.sources]
    turns: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as place:
        for turn in range(arguments.turns + 1):
            measured: dict[str, float] = {}
            for kind in ("none", "mlflow") if turn % 2 else ("mlflow", "none"):
                with open_tracker(kind, "bench", f"turn {turn}", f"sqlite:///{place}/mlflow.db") as tracker:
                    seconds = arguments.seconds if turn else min(2.0, arguments.seconds)
                    found = tracked_loop(network, mixture, settings, tracker, seconds, Path(place) / f"{turn}-{kind}")
                measured |= {f"{kind}_{key}": value for key, value in found.items()}
            longer, more = (measured[f"mlflow_{key}"] / measured[f"none_{key}"] - 1 for key in ("step_s", "step_cpu_s"))
            work = measured["mlflow_record_cpu_s"] / (measured["mlflow_step_cpu_s"] - measured["mlflow_record_cpu_s"])
            turns.append(measured | {"longer": longer, "more_cpu": more, "work": work})
    del turns[0]  # to warm up
    middle = {key: median(turn[key] for turn in turns) for key in turns[0]}

    device = next(network.parameters()).device
    rows = [
        ["", ""],
        ["steps without a record", f"{1 / middle['none_step_s']:.2f} a second"],
        ["steps with MLflow", f"{1 / middle['mlflow_step_s']:.2f} a second, by turns {100 * middle['longer']:+.1f} % of time a step"],
        ["processor time of a step", f"{middle['none_step_cpu_s'] * 1e3:.1f} ms, by turns {100 * middle['more_cpu']:+.1f} %"],
        ["of it, the record itself", f"{middle['mlflow_record_cpu_s'] * 1e3:.3f} ms, {100 * middle['work']:.2f} % of the rest"],
    ]
    values = {
        "datasets": names, "model": arguments.model, "protocol": arguments.protocol, "device": str(device), "workers": arguments.workers,
        **middle, "turns": turns,
    }  # fmt: skip
    title = f"tracking {', '.join(names)}: {arguments.model} on {device}, {arguments.protocol}, median of {arguments.turns} turns"
    return Told(title, values, [rows])


def tracked_loop(network: Any, mixture: Mixture, settings: Any, tracker: Any, seconds: float, folder: Path) -> dict[str, float]:
    """Seconds and processor seconds of a step of the training loop; of the latter, those that the record takes."""
    import math
    import threading

    from densemtmd.training import Budget, fit

    telling = 0.0                                # processor seconds of the loop
    writing: dict[threading.Thread, float] = {}  # and of each thread of the record

    def losses(step: int, values: dict[str, float]) -> None:
        nonlocal telling
        began = time.thread_time()
        tracker.metrics({f"train/{name}": value for name, value in values.items()}, step=step)
        telling += time.thread_time() - began
        look()

    def look() -> None:
        for thread in threading.enumerate():
            if thread.name in ("densemtmd-tracking", "SystemMetricsMonitor") and thread.ident is not None:
                writing[thread] = time.clock_gettime(time.pthread_getcpuclockid(thread.ident))

    look()
    before = sum(writing.values())
    began = time.process_time()
    state = fit(
        network, mixture, settings, Budget(math.inf, seconds, math.inf), folder=folder, model={},
        validate=lambda network, quick=False: {"pooled": {"iou": 0.0, "global": 0.0}}, losses=losses, title=folder.name,
    )  # fmt: skip
    look()
    ended = time.process_time()
    tracker.flush()  # the writer ends with it, and nothing else is at work
    used = time.process_time()
    record = telling + sum(writing.values()) - before + used - ended
    return {"step_s": state.seconds / state.step, "step_cpu_s": (used - began) / state.step, "record_cpu_s": record / state.step}
