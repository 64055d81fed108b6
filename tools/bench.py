"""Measure how fast densemtmd is, on this machine and with your data.

    python tools/bench.py loading stanford camvid --data-root ~/data --json loading.json
    python tools/bench.py tracking stanford --data-root ~/data

What is compared is measured in turns, in one run, and the median of several turns is shown: a machine that is busy with
something else slows down both sides alike. Times "per core" are processor time, which waiting does not count in.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from densemtmd.cli import make_parser, tool
from densemtmd.errors import UserError

if TYPE_CHECKING:  # torch and the rest are imported where they are used, so that --help answers at once
    from densemtmd.datasets.folder import Dataset
    from densemtmd.datasets.mixing import Mixture

CONF = Path(__file__).resolve().parents[1] / "conf"
LARGE = 16
"""Cores of the large machine that loading is extrapolated to."""


def make_arguments() -> argparse.ArgumentParser:
    parser = make_parser(__doc__ or "")
    benches = parser.add_subparsers(dest="bench", required=True, metavar="BENCH")

    def bench(name: str, measure: Callable[[argparse.Namespace], dict[str, Any]], help: str, seconds: float) -> Callable[..., Any]:
        """A subcommand with the options that all have; returns its ``add_argument``."""
        one = benches.add_parser(name, help=help, description=(measure.__doc__ or "").splitlines()[0], allow_abbrev=False)
        one.add_argument("--turns", type=int, default=7, metavar="N", help="of which the median counts (default: 7)")
        one.add_argument("--json", type=Path, metavar="FILE", help="also write what was measured to a file")
        one.set_defaults(measure=measure)
        add = one.add_argument
        add("datasets", nargs="*", default=["stanford"], metavar="DATASET", help="names, or paths of YAMLs (default: stanford)")
        add("--data-root", default="data", metavar="DIR", help="the folder that holds them (default: data)")
        add("--cache", default="auto", metavar="DIR", help="where decoded pictures are kept, auto or none (default: auto)")
        add("--protocol", default="strided", metavar="NAME", help="a file in conf/protocol/ (default: strided)")
        add("--model", default="patchnet", metavar="NAME", help="a file in conf/model/ (default: patchnet)")
        add("--device", default="auto", help="auto, cpu, cuda, ...: where the network is (default: auto)")
        add("--workers", type=int, default=0, metavar="N", help="processes that load (default: 0, a thread)")
        add("--seconds", type=float, default=seconds, metavar="S", help=f"of a turn (default: {seconds:g})")
        return add

    bench("loading", measure_loading, "the share of loading in a training step, and what the loader delivers by itself", 8)
    bench("tracking", measure_tracking, "what the record in MLflow costs the training loop", 21)
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = make_arguments().parse_args(argv)
    if arguments.turns < 1:
        raise UserError(f"--turns is {arguments.turns}, expected at least 1")
    if arguments.workers < 0 or not arguments.seconds > 0:
        raise UserError(f"--workers is {arguments.workers} and --seconds {arguments.seconds}, expected at least 0 and more than 0")
    measured = {"bench": arguments.bench, "machine": machine(), **arguments.measure(arguments)}
    if arguments.json:
        from densemtmd.files import atomic_write

        with atomic_write(arguments.json) as temporary:
            temporary.write_text(json.dumps(measured, indent=1) + "\n", encoding="utf-8")
    return 0


def machine() -> dict[str, Any]:
    """What the times depend on."""
    import platform

    import numpy
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cores": cores(), "threads": torch.get_num_threads(), "gpu": gpu, "processor": processor(), "system": platform.system(),
            "python": platform.python_version(), "torch": torch.__version__, "numpy": numpy.__version__}  # fmt: skip


def cores() -> int:
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The processor's name, where the system tells."""
    import platform

    about = Path("/proc/cpuinfo")
    names = [line.partition(":")[2].strip() for line in about.read_text().splitlines() if "model name" in line] if about.exists() else []
    return names[0] if names else platform.processor()


def show(rows: Sequence[tuple[str, str]]) -> None:
    """Print a table of two columns."""
    wide = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:{wide}}  {value}")


# ------------------------------------------------------------------------------------------------------------------------------------
# loading


def measure_loading(arguments: argparse.Namespace) -> dict[str, Any]:
    """The share of loading in a training step, and the labelled outputs that the loader delivers by itself.

    A step that loads while it learns, as training does, and one on a batch that was made before, by turns; then loading
    alone. What else the machine does disturbs their difference more than it disturbs the processor time.
    """
    from densemtmd.datasets.mixing import made_ahead
    from densemtmd.tasks import VOID
    from densemtmd.training import make_optimizer, train_step

    network, mixture, settings, opening = make_training(arguments)
    device = next(network.parameters()).device
    optimizer = make_optimizer(network.train(), settings)
    ready = [mixture.batch(n) for n in range(8)]
    outputs = sum(int((batch.target != VOID).sum()) for batch in ready) / len(ready)

    turns: list[dict[str, float]] = []
    with closing(made_ahead(mixture.batch, 0, workers=arguments.workers)) as batches:  # type: ignore[type-var]
        waits = []

        def live(_: int) -> None:
            began = time.perf_counter()
            batch = next(batches)
            waits.append(time.perf_counter() - began)
            train_step(network, optimizer, batch.to(device), settings.precision)

        def learn(n: int) -> None:
            train_step(network, optimizer, ready[n % len(ready)].to(device), settings.precision)

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
    each = outputs / loading_at_once(mixture, processes, arguments.turns, arguments.seconds / 4)

    names = [source.name for source in mixture.sources]
    print(f"loading {', '.join(names)}: {arguments.model} on {device}, {arguments.protocol}, median of {arguments.turns} turns")
    show(
        [
            ("opening the data", f"{opening:.2f} s"),
            ("a step on batches made before", f"{middle['step_ready_s'] * 1e3:.1f} ms, {outputs:.0f} labelled outputs"),
            ("a step that loads", f"{middle['step_loading_s'] * 1e3:.1f} ms, by turns {100 * middle['longer']:+.1f} %"),
            ("of it, waiting for the batch", f"{100 * middle['waiting']:.1f} %"),
            ("loading in all processor time", f"{100 * middle['work']:.1f} %"),
            ("loading alone", f"{middle['load_cpu_s'] * 1e3:.2f} ms of processor time a batch"),
            (f"a core, {processes} loading at once", f"{each / 1e6:.2f} million labelled outputs a second"),
            (f"{LARGE} such cores", f"{each * LARGE / 1e6:.1f} million labelled outputs a second"),
        ]
    )
    return {
        "datasets": names, "model": arguments.model, "protocol": arguments.protocol, "device": str(device), "workers": arguments.workers,
        "opening_s": opening, "outputs_per_step": outputs, **middle, "outputs_per_second_per_core": each,
        "outputs_per_second_of_16_cores": each * LARGE, "turns": turns,
    }  # fmt: skip


def timed(works: Sequence[Callable[[int], object]], seconds: float, device: Any) -> list[tuple[float, float]]:
    """Seconds and processor seconds of one piece of each kind of work, done by turns until so many seconds are over, at least twice."""
    import torch

    count, began, used = 0, time.perf_counter(), [(0.0, 0.0)] * len(works)
    while count < 2 or time.perf_counter() - began < seconds:
        for i, work in enumerate(works):
            wall, processor = time.perf_counter(), time.process_time()
            work(count)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            used[i] = used[i][0] + time.perf_counter() - wall, used[i][1] + time.process_time() - processor
        count += 1
    return [(wall / count, processor / count) for wall, processor in used]


# ------------------------------------------------------------------------------------------------------------------------------------
# tracking


def measure_tracking(arguments: argparse.Namespace) -> dict[str, Any]:
    """The training loop with its record in MLflow (a new SQLite store, with system metrics) and without one, by turns.

    There is no validation in a turn. Beside the difference of the two, which all that the machine does disturbs, the processor time
    that the record takes is measured by itself: in the loop, and in the threads that write.
    """
    import tempfile

    from densemtmd.tracking import open_tracker

    network, mixture, settings, _ = make_training(arguments)
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
    print(f"tracking {', '.join(names)}: {arguments.model} on {device}, {arguments.protocol}, median of {arguments.turns} turns")
    show(
        [
            ("steps without a record", f"{1 / middle['none_step_s']:.2f} a second"),
            ("steps with MLflow", f"{1 / middle['mlflow_step_s']:.2f} a second, by turns {100 * middle['longer']:+.1f} % of time a step"),
            ("processor time of a step", f"{middle['none_step_cpu_s'] * 1e3:.1f} ms, by turns {100 * middle['more_cpu']:+.1f} %"),
            ("of it, the record itself", f"{middle['mlflow_record_cpu_s'] * 1e3:.3f} ms, {100 * middle['work']:.2f} % of the rest"),
        ]
    )
    return {
        "datasets": names, "model": arguments.model, "protocol": arguments.protocol, "device": str(device), "workers": arguments.workers,
        **middle, "turns": turns,
    }  # fmt: skip


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


# ------------------------------------------------------------------------------------------------------------------------------------
# what both need


def make_training(arguments: argparse.Namespace) -> tuple[Any, Mixture, Any, float]:
    """A network, what it learns from and how, as training has them; and the seconds until the first batch could be drawn."""
    import torch

    from densemtmd import backbones, checkpoint
    from densemtmd.runs import output_space
    from densemtmd.training import TrainSettings

    settings = TrainSettings(
        **(choice("protocol", arguments.protocol).get("train") or {}), workers=arguments.workers, checkpoint_seconds=60.0, patience=0
    )
    model = choice("model", arguments.model)
    datasets = open_datasets(arguments.datasets, arguments.data_root)
    torch.manual_seed(0)
    network = backbones.build(model, output_space(datasets))
    network = network.to(checkpoint.device_of(arguments.device), memory_format=torch.channels_last)  # type: ignore[call-overload]
    mixture, opening = make_mixture(datasets, arguments, settings, network)
    return network, mixture, settings, opening


def choice(group: str, name: str) -> dict[str, Any]:
    """A file of ``conf/``, as training reads it."""
    import yaml

    from densemtmd.tasks import nearest

    path = CONF / group / f"{name}.yaml"
    if not path.exists():
        raise UserError(f"unknown {group} {name!r}; {nearest(name, sorted(p.stem for p in path.parent.glob('*.yaml')))}")
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def open_datasets(names: Sequence[str], data_root: str) -> list[Dataset]:
    """The datasets, their files found and split."""
    from densemtmd.datasets.config import load_dataset_config
    from densemtmd.datasets.folder import open_dataset

    return [open_dataset(load_dataset_config(name), Path(data_root).expanduser()) for name in names]


def make_mixture(datasets: Sequence[Dataset], arguments: argparse.Namespace, settings: Any, network: Any) -> tuple[Mixture, float]:
    """What training draws its batches from, and the seconds until it could draw the first."""
    from densemtmd.datasets.cache import cache_folder, load_all
    from densemtmd.datasets.mixing import Mixture, Source
    from densemtmd.dense import geometry

    began = time.perf_counter()
    domains = list(dict.fromkeys(dataset.domain for dataset in datasets))
    sources = []
    for dataset in datasets:
        decoded = load_all(dataset, cache_folder(arguments.cache, Path(arguments.data_root).expanduser()))
        if decoded.note:
            print(decoded.note)
        task, domain = network.space.index(dataset.labelset.name), domains.index(dataset.domain)
        sources.append(Source(dataset.name, task, domain, decoded.splits["train"]))
    mixture = Mixture(
        sources, geometry(network), crop=settings.crop, batch=settings.batch, flip=settings.flip, border=settings.border,
        mixing=settings.mixing, seed=0,
    )  # fmt: skip
    return mixture, time.perf_counter() - began


def loading_at_once(mixture: Mixture, processes: int, turns: int, seconds: float) -> float:
    """Processor seconds of a batch while so many processes load at once, each for some seconds."""
    import multiprocessing

    import torch

    def load(results: Any) -> None:
        results.put(timed((mixture.batch,), seconds, torch.device("cpu"))[0][1])

    if "fork" not in multiprocessing.get_all_start_methods():  # which shares the pictures with the processes
        return timed((mixture.batch,), turns * seconds, torch.device("cpu"))[0][1]
    context, times = multiprocessing.get_context("fork"), []
    for _ in range(turns):
        results: Any = context.SimpleQueue()
        loaders = [context.Process(target=load, args=(results,), daemon=True) for _ in range(processes)]
        for loader in loaders:
            loader.start()
        times += [results.get() for _ in loaders]
        for loader in loaders:
            loader.join()
    return median(times)


if __name__ == "__main__":
    sys.exit(main())
