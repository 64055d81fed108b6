"""Measure how fast densemtmd is, on this machine and with your data.

    python tools/bench.py label --bfloat16 --out results/bench              labelling every pixel, against other ways to do it
    python tools/bench.py scale --megapixels 1 4 16                         its time and memory against pixels and labels
    python tools/bench.py train stanford --data-root ~/data --target 45     training, against the paper's minibatches of patches
    python tools/bench.py loading stanford camvid --data-root ~/data
    python tools/bench.py tracking stanford --data-root ~/data
    python tools/bench.py render                                            hands in depth pictures, in memory and to disk

What is compared is measured in turns, in one run, and the median of several turns is shown: a machine that is busy with
something else slows down both sides alike. "CPU s" is processor time of all threads, which waiting does not count in. --out DIR
writes what was measured to DIR/<bench>.md and DIR/<bench>.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from densemtmd.commands.cli import make_parser, tool
from densemtmd.errors import UserError
from densemtmd.machine import cores, processor

if TYPE_CHECKING:  # torch and the rest are imported where they are used, so that --help answers at once
    import numpy as np
    from torch import Tensor, nn

    from densemtmd.datasets.folder import Dataset
    from densemtmd.datasets.mixing import Mixture

CONF = Path(__file__).resolve().parents[2] / "conf"
LARGE = 16
"""Cores of the large machine that loading is extrapolated to."""


Text = Sequence["str | Sequence[Sequence[str]]"]
"""Sentences, and tables as rows below their head."""


@dataclass(frozen=True)
class Told:
    """What a bench measured."""

    title: str
    values: dict[str, Any]  # as JSON keeps it
    text: Text              # to read

    def on_screen(self) -> str:
        from densemtmd.report import aligned

        return "\n\n".join([self.title, *(part if isinstance(part, str) else aligned(part) for part in self.text)])

    def as_markdown(self) -> str:
        from densemtmd.report import markdown

        return "\n\n".join([self.title, *(part if isinstance(part, str) else markdown(part[0], part[1:]) for part in self.text)])


def make_arguments() -> argparse.ArgumentParser:
    parser = make_parser(__doc__ or "")
    benches = parser.add_subparsers(dest="bench", required=True, metavar="BENCH")

    def bench(name: str, measure: Callable[[argparse.Namespace], Told], help: str, turns: int = 7) -> Callable[..., Any]:
        """A subcommand with the options that all have; returns its ``add_argument``."""
        one = benches.add_parser(name, help=help, description=(measure.__doc__ or "").splitlines()[0], allow_abbrev=False)
        one.add_argument("--turns", type=int, default=turns, metavar="N", help=f"of which the median counts (default: {turns})")
        one.add_argument("--out", type=Path, metavar="DIR", help="write the tables to DIR/<bench>.md, and all that was measured to .json")
        one.add_argument("--model", default="patchnet", metavar="NAME", help="a file in conf/model/ (default: patchnet)")
        one.add_argument("--device", default="auto", help="auto, cpu, cuda, ...: where the network is (default: auto)")
        one.add_argument("--threads", type=int, metavar="N", help="that compute (default: one per core)")
        one.set_defaults(measure=measure)
        return one.add_argument

    def with_data(add: Callable[..., Any], seconds: float) -> Callable[..., Any]:
        """The options of what trains."""
        add("datasets", nargs="*", default=["stanford"], metavar="DATASET", help="names, or paths of YAMLs (default: stanford)")
        add("--data-root", default="data", metavar="DIR", help="the folder that holds them (default: data)")
        add("--cache", default="auto", metavar="DIR", help="where decoded pictures are kept, auto or none (default: auto)")
        add("--protocol", default="strided", metavar="NAME", help="a file in conf/protocol/ (default: strided)")
        add("--workers", type=int, default=0, metavar="N", help="processes that load (default: 0, a thread)")
        add("--seconds", type=float, default=seconds, metavar="S", help=f"of a turn (default: {seconds:g})")
        return add

    add = bench("label", measure_label, "labelling every pixel, against other ways to do it and the machine's best rate", 3)
    sizes = ["240x320", "375x1242", "1024x2048"]
    add("--sizes", nargs="+", default=sizes, metavar="HxW", help=f"pixels of the pictures (default: {' '.join(sizes)})")
    add("--labels", type=int, default=68, metavar="N", help="outputs of the network (default: 68)")
    add("--checkpoint", metavar="FILE|RUN", help="a trained network (default: --model with random weights)")
    add("--picture", type=Path, metavar="FILE", help="a picture, which is resized (default: coloured noise)")
    add("--bfloat16", action="store_true", help="also in bfloat16, with the share of the pixels whose label changes")
    add = bench("scale", measure_scale, "time and memory of labelling against pixels and labels, memory of loss and metrics", 1)
    add("--megapixels", nargs="+", type=float, default=[0.25, 0.5, 1, 2, 4, 8, 16], metavar="MPX", help="(default: 0.25 to 16)")
    add("--dense-to", type=float, metavar="MPX", help="larger pictures are passed strided alone (default: 4, on a GPU 16)")
    add("--labels", nargs="+", type=int, default=[8, 68, 300], metavar="N", help="(default: 8 68 300)")
    add = with_data(bench("train", measure_train, "training, against the paper's minibatches of patches", 5), 6)
    add("--also", nargs="*", default=["48x48", "16x112"], metavar="CROPSxSIDE", help="other batches of crops (default: 48x48 16x112)")
    add("--target", type=float, default=0, metavar="IOU", help="also the time until validation reaches it (default: 0, do not measure)")
    add("--lr", nargs="*", default=[], metavar="PROTOCOL=LR", help="learning rates, such as strided=0.03 (default: that of --protocol)")
    add("--limit", type=float, default=600, metavar="S", help="seconds after which a training is given up (default: 600)")
    add("--seeds", type=int, default=1, metavar="N", help="trainings of each kind, of which the median counts (default: 1)")
    add("--every", type=float, default=150, metavar="N", help="billions of multiply-adds between validations (default: 150)")
    add("--pictures", type=int, default=20, metavar="N", help="validation pictures (default: 20)")
    with_data(bench("loading", measure_loading, "the share of loading in a training step, and what the loader delivers by itself"), 8)
    with_data(bench("tracking", measure_tracking, "what the record in MLflow costs the training loop"), 21)
    add = bench("render", measure_render, "the hand world: crops in memory, and full pictures to disk", 5)
    add("--crops", type=int, default=200, metavar="N", help="of a turn, of each kind of hand (default: 200)")
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = make_arguments().parse_args(argv)
    if arguments.turns < 1 or (arguments.threads is not None and arguments.threads < 1):
        name = "turns" if arguments.turns < 1 else "threads"
        raise UserError(f"--{name} is {getattr(arguments, name)}, expected at least 1")
    if "seconds" in arguments and (arguments.workers < 0 or not arguments.seconds > 0):
        raise UserError(f"--workers is {arguments.workers} and --seconds {arguments.seconds}, expected at least 0 and more than 0")

    import torch

    threads = torch.get_num_threads()
    with on_threads(arguments.threads or threads):
        told = arguments.measure(arguments)
        about = machine()
    print(told.on_screen())
    if arguments.out:
        from densemtmd.files import atomic_write

        command = " ".join(["python", "tools/bench.py", *(sys.argv[1:] if argv is None else argv)])
        measured = {"bench": arguments.bench, "command": command, "machine": about, **told.values}
        written = {"json": json.dumps(measured, indent=1) + "\n", "md": f"{told.as_markdown()}\n\n{origin(command, about)}\n"}
        for kind, content in written.items():
            with atomic_write(arguments.out / f"{arguments.bench}.{kind}") as temporary:
                temporary.write_text(content, encoding="utf-8")
    return 0


def origin(command: str, about: Mapping[str, Any]) -> str:
    """The line below a table: how it came about."""
    threads = f"{about['threads']} thread{'s' if about['threads'] > 1 else ''} on {about['cores']} cores of {about['processor']}"
    gpu = f", {about['gpu']}" if about["gpu"] else ""
    return f"`{command}`: {about['date']}, {threads}{gpu}, PyTorch {about['torch']}."


def machine() -> dict[str, Any]:
    """What the times depend on."""
    import datetime
    import platform

    import numpy
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"date": datetime.date.today().isoformat(), "cores": cores(), "threads": torch.get_num_threads(), "gpu": gpu,
            "processor": processor(), "system": platform.system(), "python": platform.python_version(), "torch": torch.__version__,
            "numpy": numpy.__version__}  # fmt: skip


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


def megabytes(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.0f} MB"


def one_pass(work: Callable[[], object], device: Any) -> dict[str, Any]:
    """Seconds, processor seconds and MB at the peak of a piece of work."""
    found: list[tuple[float, float]] = []
    memory = peak_memory(lambda: found.append(by_turns({"": work}, 1, device)[0][""]), device)
    return {"seconds": found[0][0], "seconds_cpu": found[0][1], "memory_mb": memory}


# ------------------------------------------------------------------------------------------------------------------------------------
# label


PATCHES = 128
"""Patches at a time, patch by patch; four times so many are answered in a turn."""
SHIFTS = 4
"""Of the stride² shifts of a stitched pass, at most so many are passed in a turn."""


@dataclass(frozen=True)
class Way:
    """One way to label a picture, measured on a part of it."""

    logits: Callable[..., Tensor]  # of a tile and its border, (1, 3, h + P − 1, w + P − 1) -> (C, h, w); of patches, at given places
    run: Callable[[], object]      # labels the part
    part: str                      # which one
    times: float                   # by which its time is multiplied, to be that of the whole picture
    work: float                    # multiply-adds a pixel
    precision: str = "float32"


def measure_label(arguments: argparse.Namespace) -> Told:
    """Labelling every pixel, against other ways to do it and the machine's best rate.

    The dense pass, as ``Predictor`` runs it, against: a patch for each pixel, in PyTorch's own layout and in channels-last; a strided pass
    for each of the stride² shifts, stitched; the dilated rewrite. The last two are in channels-last and go tile by tile as the dense pass
    does. All must answer alike. Each way is timed on the part of the picture that the table names, and its time extrapolated by pixels.
    """
    import torch

    from densemtmd.inference import Predictor

    sizes = [size_of(text) for text in arguments.sizes]
    network, device = make_network(arguments, arguments.labels)
    predictor = Predictor([network], arguments.device)
    network = predictor.networks[0]
    rough = Predictor([network], arguments.device, "bfloat16") if arguments.bfloat16 else None
    told, text, work = [], [], multiply_adds(network)
    for height, width in sizes:
        image = a_picture(height, width, arguments.picture)
        with torch.inference_mode():
            ways = ways_to_label(network, predictor, rough, image, work)
            errors, changed = check_ways(ways, image, predictor)
            rates = {precision: machine_rates(network, device, precision) for precision in {way.precision for way in ways.values()}}
            works = {name: way.run for name, way in ways.items()} | {
                f"rate of {name} in {precision}": rate for precision, some in rates.items() for name, (rate, _) in some.items()
            }
            memory = {name: peak_memory(way.run, device) for name, way in ways.items()}  # which warms up, too
            by_turns(works, 1 if device.type == "cuda" else 0, device)
            turns = by_turns(works, arguments.turns, device)
            whole = one_pass(partial(predictor.all, image), device) if ways["dense"].times > 1 else None
        cost = {precision: {name: count for name, (_, count) in some.items()} for precision, some in rates.items()}
        found = {
            "height": height, "width": width, "bfloat16_changes": changed, "whole": whole, "turns": turns,
            **summary_of_ways(turns, ways, height * width, work["dense"], cost),
        }  # fmt: skip
        for name, row in found["ways"].items():
            row |= {"error": errors.get(name), "memory_mb": memory[name]}
        told.append(found)
        text += text_of_ways(found, device)
    title = f"label: {network} on {device}, median of {arguments.turns} turns; {work['dense'] / 1e6:.3f} million multiply-adds a pixel"
    return Told(title, {"device": str(device), "network": str(network), "multiply_adds": work, "sizes": told}, text)


def summary_of_ways(
    turns: Sequence[Mapping[str, tuple[float, float]]],
    ways: Mapping[str, Way],
    pixels: int,
    work: float,
    cost: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """Medians over turns, by the clock and by processor time: seconds of each way for the whole picture, how many times those of the dense
    pass, and the effective rate (the multiply-adds of the dense form by the seconds) as a share of the machine's best rate.

    Args:
        turns: seconds and processor seconds of the ways, and of ``rate of <name> in <precision>``.
        ways: by their names.
        pixels: of the picture.
        work: multiply-adds a pixel of the dense form.
        cost: precision -> name -> multiply-adds of a measurement of the machine's rate.
    """
    rows: dict[str, dict[str, Any]] = {n: {"counted": way.work / work, "part": way.part, "times": way.times} for n, way in ways.items()}
    told: dict[str, Any] = {"ways": rows}
    for clock, key in enumerate(("", "_cpu")):
        rates = {
            precision: {name: [count / turn[f"rate of {name} in {precision}"][clock] for turn in turns] for name, count in some.items()}
            for precision, some in cost.items()
        }
        best = {precision: [max(each) for each in zip(*some.values(), strict=True)] for precision, some in rates.items()}
        told[f"gflops{key}"] = {p: {name: 2e-9 * median(each) for name, each in some.items()} for p, some in rates.items()}
        told[f"gflops_best{key}"] = {precision: 2e-9 * median(each) for precision, each in best.items()}
        dense = [turn["dense"][clock] * ways["dense"].times for turn in turns]
        for name, row in rows.items():
            seconds = [turn[name][clock] * ways[name].times for turn in turns]
            row[f"seconds{key}"] = median(seconds)
            row[f"ratio{key}"] = median(one / other for one, other in zip(seconds, dense, strict=True))
            row[f"of_best_rate{key}"] = median(
                work * pixels / one / rate for one, rate in zip(seconds, best[ways[name].precision], strict=True)
            )
    return told


def text_of_ways(found: Mapping[str, Any], device: Any) -> list[Any]:
    """What was found at one size, to read. Shares of the best rate are by processor time, which counts cores; on a GPU by the clock."""
    key = "" if device.type == "cuda" else "_cpu"
    rows = [["", "s", "times", "CPU s", "times", "multiply-adds", "of the best rate", "error", "memory", "measured on"]]
    for name, row in found["ways"].items():
        times = [f"{row['seconds']:.4g}", f"{row['ratio']:.2f}", f"{row['seconds_cpu']:.4g}", f"{row['ratio_cpu']:.2f}"]
        error = "" if row["error"] is None else f"{row['error']:.0e}"
        rows.append(
            [name, *times, f"{row['counted']:.2f}", f"{row[f'of_best_rate{key}']:.2f}", error, megabytes(row["memory_mb"]), row["part"]]
        )
    size = f"{found['height']}×{found['width']}"
    rates = [
        f"{found[f'gflops_best{key}'][precision]:.0f} GFLOP/s in {precision} ({', '.join(f'{n} {rate:.0f}' for n, rate in some.items())})"
        for precision, some in sorted(found[f"gflops{key}"].items(), reverse=True)
    ]
    text = [f"**{size}.** The best rate{' of a core' if key else ''}: {'; '.join(rates)}.", rows]
    if (whole := found["whole"]) is not None:
        took = f"{whole['seconds']:.4g} s, {whole['seconds_cpu']:.4g} CPU s"
        text.append(f"The whole picture once, with its labels: {took}, {megabytes(whole['memory_mb'])}.")
    if (changed := found["bfloat16_changes"]) is not None:
        text.append(f"bfloat16 changes the label of {100 * changed:.2f} % of the pixels of a tile (mean over labelsets).")
    return text


def size_of(text: str, option: str = "--sizes", what: str = "rows x columns such as 240x320") -> tuple[int, int]:
    """``240x320`` -> (240, 320)."""
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"{option} has {text!r}, expected {what}")
    return int(parts[0]), int(parts[1])


def make_network(arguments: argparse.Namespace, labels: int) -> tuple[Any, Any]:
    """The network to measure, in eval mode, with batch norms that have seen a picture; and its device."""
    import torch

    from densemtmd import backbones, checkpoint
    from densemtmd.datasets.sample import as_input
    from densemtmd.tasks import Labelset, OutputSpace

    device = checkpoint.device_of(arguments.device)
    if getattr(arguments, "checkpoint", None):
        from densemtmd.inference import Predictor

        networks = Predictor.load(arguments.checkpoint, arguments.device).networks
        if len(networks) > 1:
            raise UserError(f"{arguments.checkpoint} holds {len(networks)} networks, expected one: name the folder of one of them")
        return networks[0], device
    if labels < 1:
        raise UserError(f"--labels is {labels}, expected at least 1")
    torch.manual_seed(0)
    parts = [range(first, min(first + 200, labels)) for first in range(0, labels, 200)]  # a labelset has fewer than 255 labels
    space = OutputSpace([Labelset(f"bench{n}", [f"label{i}" for i in part]) for n, part in enumerate(parts)])
    network = backbones.build(choice("model", arguments.model), space)
    with torch.no_grad():
        network.train()(as_input(torch.from_numpy(a_picture(96, 96).copy()).permute(2, 0, 1)[None]))
    return network.eval().to(device, memory_format=torch.channels_last), device  # type: ignore[call-overload]


def a_picture(height: int, width: int, file: Path | None = None) -> np.ndarray:
    """A picture (H, W, 3) uint8 of that size, of a file or of coloured noise."""
    import numpy as np
    from PIL import Image

    if file is not None:
        from densemtmd.datasets.pictures import read_picture

        return np.asarray(Image.fromarray(read_picture(file)).resize((width, height), Image.Resampling.BILINEAR))
    coarse = np.random.default_rng(0).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR))


def multiply_adds(network: Any) -> dict[str, float]:
    """Multiply-adds a pixel, by hand: each weight once where every layer runs once a pixel, and how often in the other ways.

    Patch by patch a layer of s pixels' stride before it answers at all its positions in a patch; stitched, it runs for each of the
    stride² shifts at a 1/s² of the pixels.
    """
    from densemtmd.dense import densify

    dense, before = densify(network), 1
    counts = {"dense": 0.0, "shift and stitch": 0.0}
    for step in dense._steps:
        weights = getattr(step.layer, "weight", None)
        if weights is not None and weights.ndim > 1:
            counts["dense"] += weights.numel()
            counts["shift and stitch"] += weights.numel() * (dense.stride / before / step.stride) ** 2
        before *= step.stride
    return {**counts, "patch by patch": strided_multiply_adds(network, 1)}


def strided_multiply_adds(network: Any, outputs: int) -> float:
    """Multiply-adds an output of a strided pass over a crop with so many outputs along a side."""
    from densemtmd.dense import densify

    dense, total = densify(network), 0.0
    size = (dense.geometry.pixels(outputs),) * 2
    for step in dense._steps:
        weights = getattr(step.layer, "weight", None)
        size = step.outputs(size)
        if weights is not None and weights.ndim > 1:
            total += weights.numel() * size[0] * size[1]
    return total / outputs**2


def dilated(network: Any) -> nn.Module:
    """The rewrite for every pixel that one would write by hand: stride 1, and behind a stride s all windows dilated by s."""
    import copy

    from torch import nn

    from densemtmd.dense import layers_of

    layers, spread = [], 1
    for _, original in layers_of(network):
        layer = copy.deepcopy(original)
        if isinstance(layer, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
            stride = layer.stride if isinstance(layer.stride, int) else layer.stride[0]
            if spread > 1 and isinstance(layer, nn.AvgPool2d):
                raise UserError("the dilated rewrite knows no average pooling behind a stride: choose another --model")
            if isinstance(layer, nn.Conv2d):
                layer.stride, layer.dilation = (1, 1), (layer.dilation[0] * spread, layer.dilation[1] * spread)
            elif isinstance(layer, nn.MaxPool2d):
                layer.stride, layer.dilation = 1, spread
            spread *= stride
        elif isinstance(layer, nn.ReLU):
            layer.inplace = True
        layers.append(layer)
    return nn.Sequential(*layers).eval()


def ways_to_label(network: Any, predictor: Any, rough: Any, image: np.ndarray, work: Mapping[str, float]) -> dict[str, Way]:
    """The ways to label a picture, by name; the dense pass comes first."""
    import copy

    import torch

    from densemtmd import inference

    device, where = predictor.device, predictor._dense[0].geometry
    rewritten = dilated(network)
    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    height, width = image.shape[:2]
    strip, (rows, columns) = first_strip(image, predictor), first_tile(image, device)
    tile = f"a tile of {rows.stop}×{columns.stop}"
    of_tile = height * width / (rows.stop * columns.stop)
    shifts = [(i, j) for i in range(where.stride) for j in range(where.stride)]
    every = max(1, len(shifts) // SHIFTS)
    random = torch.Generator().manual_seed(0)

    def stitched(x: Tensor, every: int = 1) -> Tensor:
        high, wide = (size - where.patch + 1 for size in x.shape[2:])
        answer = x.new_empty(network.space.channels, high, wide)
        for i, j in shifts[::every]:
            if i < high and j < wide:
                answer[:, i :: where.stride, j :: where.stride] = network(x[:, :, i:, j:])[0]
        return answer

    def patches(x: Tensor, places: Tensor, network: Any, layout: Any) -> Tensor:
        cut = torch.stack([x[0, :, row : row + where.patch, column : column + where.patch] for row, column in places.tolist()])
        return network(cut.contiguous(memory_format=layout)).flatten(1)

    def some(patches: Callable[..., Tensor]) -> None:
        area = slice(0, min(height, 64)), slice(0, min(width, 64))
        x = inference.bordered(image, *area, where, device)
        for _ in range(4):
            patches(x, torch.stack([torch.randint(side.stop, (PATCHES,), generator=random) for side in area], 1))

    def on_tile(label: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        return lambda: label(inference.bordered(image, rows, columns, where, device))

    def on_strip(labeller: Any) -> Callable[[], object]:
        return lambda: [logits.shape for _, _, logits in labeller.logits(strip, network.space.names)]

    def rewrite(x: Tensor) -> Tensor:
        return rewritten(x.contiguous(memory_format=torch.channels_last))[0]

    full, of_strip = "the whole picture", len(image) / len(strip)
    on, share = (f"a strip of {len(strip)} rows", of_strip) if of_strip > 1 else (full, 1.0)
    ways = {"dense": Way(lambda x: predictor._dense[0](x)[0], on_strip(predictor), on, share, work["dense"])}
    for name, net, layout in (("patch by patch", plain, torch.contiguous_format), ("patches, last", network, torch.channels_last)):
        cut = partial(patches, network=net, layout=layout)
        ways[name] = Way(cut, partial(some, cut), f"{4 * PATCHES} patches", height * width / 4 / PATCHES, work["patch by patch"])
    tried = len(shifts[::every])
    ways["shift and stitch"] = Way(
        stitched, on_tile(partial(stitched, every=every)), f"{tried} of {len(shifts)} shifts, {tile if of_tile > 1 else full}",
        of_tile * len(shifts) / tried, work["shift and stitch"],
    )  # fmt: skip
    ways["dilated"] = Way(rewrite, on_tile(rewrite), tile if of_tile > 1 else full, of_tile, work["dense"])
    if rough is not None:
        ways["bfloat16"] = replace(ways["dense"], logits=lambda x: rough._dense[0](x)[0], run=on_strip(rough), precision="bfloat16")
    for name, labeller in (("dense", predictor), ("bfloat16", rough)):
        if name in ways:
            ways[f"{name}, with labels"] = replace(ways[name], run=partial(labeller.all, strip))
    if device.type == "cuda" and rough is not None:
        try:
            replay = captured(rough._dense[0], inference.bordered(image, rows, columns, where, device))
            run = on_tile(lambda x, replay=replay: replay(x)[0].argmax(0).to(torch.uint8).cpu())  # type: ignore[misc]
            ways["bfloat16, CUDA graph"] = Way(
                lambda x: replay(x)[0], run, tile if of_tile > 1 else full, of_tile, work["dense"], "bfloat16"
            )
        except RuntimeError as error:
            print(f"a CUDA graph could not be captured: {error}")
    if device.type == "cpu" and (most := cores()) > torch.get_num_threads():
        for name in ("dense", "dilated"):
            ways[f"{name}, {most} threads"] = replace(ways[name], run=partial(run_on_threads, most, ways[name].run))
    return ways


def run_on_threads(threads: int, work: Callable[[], object]) -> None:
    with on_threads(threads):
        work()


def captured(run: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[Tensor], Tensor]:
    """A function of tensors of one shape on a GPU as a CUDA graph: all of its kernels are launched at once, without Python between them.

    The answer lies in memory of the graph, which the next call overwrites.
    """
    import torch

    given, aside = x.clone(), torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):  # libraries choose their kernels and take their memory before the capture
            run(given)
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        answer = run(given)

    def replay(x: Tensor) -> Tensor:
        given.copy_(x)
        graph.replay()
        return answer

    return replay


def first_tile(image: np.ndarray, device: Any) -> tuple[slice, slice]:
    """The rows and columns of the picture's first tile."""
    from densemtmd import inference

    most = inference.TILE.get(device.type, inference.TILE["cuda"])
    rows, columns = (inference.pieces(size, at_most)[0] for size, at_most in zip(image.shape[:2], most, strict=True))
    return rows, columns


def first_strip(image: np.ndarray, predictor: Any) -> np.ndarray:
    """The picture's first strip of rows, as the predictor's dense pass cuts them."""
    from densemtmd import inference

    height, width = image.shape[:2]
    return image[inference.strips(height, width, predictor.device, inference.grain_of(predictor._dense[0]))[0]]


def check_ways(ways: Mapping[str, Way], image: np.ndarray, predictor: Any) -> tuple[dict[str, float], float | None]:
    """On the picture's first tile: how far each way is from the dilated rewrite, as a share of the range of its logits; and the share of
    the pixels whose label bfloat16 changes.

    Raises:
        RuntimeError: a way answers otherwise.
    """
    import torch

    from densemtmd import inference

    where, space = predictor._dense[0].geometry, predictor.space
    rows, columns = first_tile(image, predictor.device)
    x = inference.bordered(image, rows, columns, where, predictor.device)
    places = torch.stack([torch.randint(n.stop, (PATCHES,), generator=torch.Generator().manual_seed(1)) for n in (rows, columns)], 1)
    short, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False  # a GPU's convolutions, or they keep 10 bits
    try:
        expected = ways["dilated"].logits(x)
        span = expected.max() - expected.min()
        errors, changed, seen = {}, None, {ways["dilated"].logits}
        for name, way in ways.items():
            if way.logits in seen:
                continue
            seen.add(way.logits)
            if "patch" in name:
                difference = way.logits(x, places) - expected[:, places[:, 0], places[:, 1]].T
            else:
                found = way.logits(x)
                difference = found - expected
            errors[name] = float(difference.abs().max() / span)
            if name == "bfloat16":
                each = [(found[space.slice(n)].argmax(0) != expected[space.slice(n)].argmax(0)).float().mean() for n in space.names]
                changed = float(torch.stack(each).mean())
            elif way.precision == "float32" and not errors[name] < 1e-4:
                raise RuntimeError(f"{name} answers otherwise than the dilated network: by {errors[name]:.1e} of the range of its logits")
    finally:
        torch.backends.cudnn.allow_tf32 = short
    return errors, changed


def machine_rates(network: Any, device: Any, precision: str) -> dict[str, tuple[Callable[[], object], float]]:
    """What the machine computes fastest: a product of matrices, and each of the network's larger convolutions by itself on one map, with
    the multiply-adds of each."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    dtype, side = getattr(torch, precision), 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    rates: dict[str, tuple[Callable[[], object], float]] = {"a product of matrices": (lambda: a @ b, float(side**3))}
    outputs = 96 if device.type == "cpu" else 384
    for conv in (module for module in network.modules() if isinstance(module, nn.Conv2d)):
        size = conv.kernel_size[0] if isinstance(conv.kernel_size, tuple) else conv.kernel_size
        if conv.in_channels * conv.out_channels < 512:
            continue
        x = torch.randn(1, conv.in_channels, outputs + size - 1, outputs + size - 1, device=device, dtype=dtype)
        x = x.contiguous(memory_format=torch.channels_last)
        weight, bias = (None if part is None else part.detach().to(dtype) for part in (conv.weight, conv.bias))
        name = f"{size}×{size} {conv.in_channels} to {conv.out_channels}"
        rates[name] = partial(F.conv2d, x, weight, bias), float(conv.weight.numel() * outputs**2)
    return rates


# ------------------------------------------------------------------------------------------------------------------------------------
# scale


def measure_scale(arguments: argparse.Namespace) -> Told:
    """Time and memory of labelling against pixels and labels: linear in pixels, memory bounded by the tile. And that of loss and metrics.

    Pictures of 3 to 4. The memory is that beyond the picture and the network, at the peak: the labels (a byte a pixel and labelset) are in
    it, and, of the strided pass, the logits that it returns. The number of labels in the middle is taken at all sizes, the others at the
    first.
    """
    import torch

    from densemtmd.inference import Predictor, strided_logits

    if min(arguments.megapixels) <= 0 or min(arguments.labels) < 1:
        raise UserError("--megapixels and --labels must be above 0: give other ones")
    rows, losses = [], []
    for labels in arguments.labels:
        network, device = make_network(arguments, labels)
        predictor = Predictor([network], arguments.device)
        where, dense_to = predictor._dense[0].geometry, arguments.dense_to or (4 if device.type == "cpu" else 16)
        for millions in arguments.megapixels[: None if labels == sorted(arguments.labels)[len(arguments.labels) // 2] else 1]:
            height = max(1, round((millions * 0.75e6) ** 0.5))
            image = a_picture(height, max(1, round(millions * 1e6 / height)))
            works: dict[str, Callable[[], object]] = {
                "strided": partial(strided_logits, predictor.networks[0], image, where, device),
            }
            if millions <= dense_to:
                works["dense"] = partial(predictor.all, image)
            with torch.inference_mode():
                predictor.all(first_strip(image, predictor)[:, :64])  # warms up, and makes what strips of this height need once
                turns = [{name: one_pass(work, device) for name, work in works.items()} for _ in range(arguments.turns)]
            row: dict[str, Any] = {"labels": labels, "pixels": image.shape[0] * image.shape[1]}
            for name in works:
                each = [turn[name] for turn in turns]
                row[name] = {key: median(one[key] for one in each) for key in ("seconds", "seconds_cpu")}
                row[name]["memory_mb"] = median(one["memory_mb"] for one in each) if each[0]["memory_mb"] is not None else None
            rows.append(row)
        losses.append(memory_of_loss(labels, device))
    head = ["labels", "Mpx", "dense, s", "CPU s", "memory", "strided, s", "CPU s", "memory"]
    table = [head]
    for row in rows:
        millions, shown = row["pixels"] / 1e6, []
        for name in ("dense", "strided"):
            if one := row.get(name):
                shown += [f"{one['seconds'] / millions:.2f}", f"{one['seconds_cpu'] / millions:.2f}", megabytes(one["memory_mb"])]
            else:
                shown += ["", "", ""]
        table.append([str(row["labels"]), f"{millions:.3f}", *shown])
    of_loss = [["labels", "of the largest labelset", "logits", "loss and its gradient", "without the gradient", "metrics"]]
    for one in losses:
        each = [one[key] for key in ("logits", "loss", "loss_beyond_gradient", "metrics")]
        of_loss.append([str(one["labels"]), str(one["largest"]), *("unknown" if value is None else f"{value:.0f}" for value in each)])
    title = f"scale: {arguments.model} on {device}, median of {arguments.turns} turns; times per million pixels, memory at the peak"
    beyond = "Bytes an output at the peak of the selective loss (float32, forward and backward) and of the metrics, beyond the logits:"
    return Told(title, {"model": arguments.model, "device": str(device), "rows": rows, "losses": losses}, [table, beyond, of_loss])


LOSS_BYTES = 64e6
"""Of the logits of the largest labelset, where the memory of the loss is measured: what is small stays with the allocator, unseen."""


def memory_of_loss(labels: int, device: Any) -> dict[str, Any]:
    """Bytes an output that the selective loss with its gradient, and the confusion matrix, need at their peak beyond the logits."""
    import torch

    from densemtmd.evaluation import confusion
    from densemtmd.losses import selective_cross_entropy
    from densemtmd.tasks import Labelset, OutputSpace

    sizes = [labels // 7 + (n < labels % 7) for n in range(7)] if 68 <= labels < 7 * 254 else [labels]  # as KITTI's seven
    space = OutputSpace([Labelset(f"bench{n}", [f"label{i}" for i in range(size)]) for n, size in enumerate(sizes)])
    largest, crops = max(sizes), 16
    side = max(16, round((LOSS_BYTES / 4 / largest / crops) ** 0.5))
    outputs = crops * side * side
    task = torch.arange(crops, device=device) % len(sizes)
    target = torch.zeros(crops, side, side, dtype=torch.uint8, device=device)
    shape = (crops, labels, side, side)
    logits = torch.zeros(shape, device=device).contiguous(memory_format=torch.channels_last).requires_grad_()

    def learn() -> None:
        logits.grad = None
        selective_cross_entropy(logits, target, task, space).backward()

    def score() -> None:
        with torch.inference_mode():
            confusion(logits.permute(1, 0, 2, 3)[space.slice("bench0")].argmax(0), target, sizes[0])

    loss, metrics = (None if mb is None else mb * 1e6 / outputs for mb in (peak_memory(learn, device), peak_memory(score, device)))
    return {
        "labels": labels, "largest": largest, "outputs": outputs, "logits": 4 * labels, "loss": loss,
        "loss_beyond_gradient": None if loss is None else max(0.0, loss - 4 * labels), "metrics": metrics,
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------------------------------------
# train


@dataclass(frozen=True)
class Kind:
    """One way to train."""

    protocol: str
    precision: str
    changes: Mapping[str, int] = field(default_factory=dict)  # of its crop and batch


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
    """Labelled outputs a second of training with --protocol, against the paper's minibatches, by turns; where the time goes; and with
    --target the time until the validation pictures are answered that well.

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


def step_on(ready: Sequence[Any], learn: Callable[..., object], device: Any, n: int) -> None:
    """The n-th step on batches made before."""
    learn(ready[n % len(ready)].to(device))


def busy_share(one: Learner, device: Any, steps: int = 20) -> float:
    """The share of the time in which a GPU computes or copies, while batches are made ahead and learned from as training does."""
    import torch

    from densemtmd.datasets.mixing import made_ahead

    with closing(made_ahead(one.load, 0)) as batches:  # type: ignore[type-var]
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


class Reached(Exception):
    """The validation score is reached, or too much time has gone: the way out of :func:`densemtmd.training.fit`."""


def measure_target(
    arguments: argparse.Namespace, kinds: Mapping[str, Kind], device: Any
) -> tuple[dict[str, Any], list[Any]]:
    """What each kind of training takes until the validation pictures are answered well enough: as JSON keeps it, and to read."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in kinds}
    for seed in range(arguments.seeds):
        for name, kind in kinds.items():
            runs[name].append(one := time_to_target(arguments, kind, seed, device))
            print(f"{name}, seed {seed}: IoU {one['iou']:.1f} after {one['seconds_cpu']:.0f} CPU s", file=sys.stderr)
    key, bases = "seconds" if device.type == "cuda" else "seconds_cpu", [name for name in kinds if name.startswith("paper")]
    rows = [["", "learning rate", "s", "CPU s", "labelled outputs", "IoU then", *(f"times as fast as {base}" for base in bases)]]
    about = {"iou": arguments.target, "limit_s": arguments.limit, "pictures": arguments.pictures, "every": arguments.every}
    found: dict[str, Any] = {**about, "runs": runs}
    for name, each in runs.items():
        middle = {k: median(one[k] for one in each) for k in ("seconds", "seconds_cpu", "outputs", "iou")}
        times = {base: median(other[key] / one[key] for one, other in zip(each, runs[base], strict=True)) for base in bases}
        missed = sum(not one["reached"] for one in each)
        found[name] = {**middle, "missed": missed, "times": times}
        reached = f"{middle['iou']:.1f}" if not missed else f"{middle['iou']:.1f}, not reached in {missed} of {len(each)}"
        more = {base: "> " * any(not one["reached"] for one in runs[base]) for base in bases}  # they were given up, and took longer
        took = [f"{'> ' * bool(missed)}{middle[k]:.0f}" for k in ("seconds", "seconds_cpu", "outputs")]
        rate = f"{each[0]['lr']:g} of {each[0]['optimizer']}"
        rows.append([name, rate, *took, reached, *(f"{more[base]}{times[base]:.1f}" for base in bases)])
    sentence = (
        f"Training until the IoU of {arguments.pictures} validation pictures of each dataset, scored strided, is {arguments.target:g} for "
        f"the first time, at most {arguments.limit:g} s; median of {arguments.seeds} seeds, constant learning rate, validation not counted:"
    )
    return found, [sentence, rows]


def time_to_target(arguments: argparse.Namespace, kind: Kind, seed: int, device: Any) -> dict[str, Any]:
    """One training until the target is reached, or the time is up: its seconds, processor seconds, outputs and score at that moment."""
    import math
    import tempfile

    from densemtmd import evaluation
    from densemtmd.runs import run as runs
    from densemtmd.training import Budget, State, fit

    training = make_training(arguments, kind, seed)
    settings = replace(training.settings, schedule="constant", warmup=0.0, checkpoint_seconds=math.inf)
    some = {name: runs.spread(samples, arguments.pictures) for name, samples in training.validation.items()}
    labelsets = {name: training.network.space[labelset] for name, labelset in training.labelsets.items()}
    validating = [0.0, 0.0]
    found: dict[str, Any] = {"history": []}

    def validate(network: Any, quick: bool = False) -> dict[str, Any]:
        began = clocks(device)
        matrices = {
            name: evaluation.score_pictures(
                network, labelsets[name].name, samples[: 1 if quick else None], scoring="strided", device=device
            ) for name, samples in some.items()
        }  # fmt: skip
        for clock, (now, before) in enumerate(zip(clocks(device), began, strict=True)):
            validating[clock] += now - before
        return evaluation.report(matrices, labelsets)

    def report(state: State) -> None:
        wall, processor = (now - before - less for now, before, less in zip(clocks(device), began, validating, strict=True))
        iou = state.history[-1]["scores"]["pooled"]["iou"]
        found["history"].append({"seconds": wall, "seconds_cpu": processor, "outputs": state.outputs, "iou": iou})
        if iou >= arguments.target or (wall if device.type == "cuda" else processor) > arguments.limit:
            raise Reached

    every = 1e9 * arguments.every / strided_multiply_adds(training.network, training.mixture.rows)
    began = clocks(device)
    with tempfile.TemporaryDirectory() as folder, suppress(Reached):
        fit(
            training.network, training.mixture, settings, Budget(math.inf, math.inf, every), folder=Path(folder), model={},
            validate=validate, report=report, title=f"{kind.protocol}, {kind.precision}",
        )  # fmt: skip
    last = found["history"][-1]
    return {**found, **last, "optimizer": settings.optimizer, "lr": settings.lr, "reached": last["iou"] >= arguments.target}


# ------------------------------------------------------------------------------------------------------------------------------------
# loading


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
    with closing(made_ahead(mixture.batch, 0, workers=arguments.workers)) as batches:  # type: ignore[type-var]
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
    each = outputs / at_once(mixture.batch, processes, arguments.turns, arguments.seconds / 4)

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


# ------------------------------------------------------------------------------------------------------------------------------------
# tracking


def measure_tracking(arguments: argparse.Namespace) -> Told:
    """The training loop with its record in MLflow (a new SQLite store, with system metrics) and without one, by turns.

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


# ------------------------------------------------------------------------------------------------------------------------------------
# render


def measure_render(arguments: argparse.Namespace) -> Told:
    """Crops of the hand world a second, in memory, and full pictures a second to disk, against the writing of PNGs alone.

    Crops also with two processes at once, each on a core of its own where there are two.
    """
    import tempfile

    import numpy as np
    import torch
    from PIL import Image

    from densemtmd.datasets.hands import nyu
    from densemtmd.datasets.hands.sets import HAND_SETS
    from densemtmd.worlds.hands import render_crops, shoot

    if arguments.crops < 1:
        raise UserError(f"--crops is {arguments.crops}, expected at least 1")
    cpu, frames, random = torch.device("cpu"), 10, np.random.default_rng(0)
    shots = {name: shoot(name, frames, 0, random) for name in HAND_SETS}

    def crop(name: str, _: int = 0) -> None:
        render_crops(HAND_SETS[name], arguments.crops, random)

    def write(name: str, folder: Path) -> None:
        for n, depth in enumerate(shots[name].depth):
            pixels = nyu.pack(depth) if name == "nyu" else depth.astype(np.uint16)
            Image.fromarray(pixels).save(folder / f"{name}{n}.png", compress_level=1)  # as the world is written

    with tempfile.TemporaryDirectory() as place:
        works: dict[str, Callable[[], object]] = {}
        for name in HAND_SETS:
            works[f"{name} crops"] = partial(crop, name)
            works[f"{name} pictures"] = partial(shoot, name, frames, 0, random)
            works[f"{name} PNGs"] = partial(write, name, Path(place))
        by_turns(works, 1, cpu)  # to warm up
        turns = by_turns(works, arguments.turns, cpu)
    processes = min(2, cores())
    head = ["by CPU s, a second", "crops of a core", f"of {processes} cores at once", "pictures", "PNGs alone", "PNGs in pictures"]
    told, rows = {}, [head]
    for name in HAND_SETS:
        together = at_once(partial(crop, name), processes, arguments.turns, 0)
        took = {what: [turn[f"{name} {what}"] for turn in turns] for what in ("crops", "pictures", "PNGs")}
        one: dict[str, float] = {}
        for clock, key in ((1, "_cpu"), (0, "")):
            both = [(shot[clock], png[clock]) for shot, png in zip(took["pictures"], took["PNGs"], strict=True)]
            one[f"crops_per_second{key}"] = arguments.crops / median(each[clock] for each in took["crops"])
            one[f"pictures_per_second{key}"] = frames / median(shot + png for shot, png in both)
            one[f"pngs_per_second{key}"] = frames / median(png for _, png in both)
            one[f"share_of_pngs{key}"] = median(png / (shot + png) for shot, png in both)
        one["crops_per_second_at_once_cpu"] = processes * arguments.crops / together
        told[name] = one
        shown = ("crops_per_second_cpu", "crops_per_second_at_once_cpu", "pictures_per_second_cpu", "pngs_per_second_cpu")
        rows.append([name, *(f"{one[key]:.0f}" for key in shown), f"{100 * one['share_of_pngs_cpu']:.0f} %"])
    title = f"render: hands, crops of 64×64 in memory and full pictures to disk; median of {arguments.turns} turns"
    return Told(title, {"hands": told, "processes": processes, "crops": arguments.crops, "turns": turns}, [rows])


# ------------------------------------------------------------------------------------------------------------------------------------
# what those that train need


@dataclass(frozen=True)
class Training:
    """A network, what it learns from and how, as training has them."""

    network: Any
    mixture: Mixture
    settings: Any
    validation: Mapping[str, Sequence[Any]]  # samples of each dataset
    labelsets: Mapping[str, str]             # the name of that which annotates each dataset
    opening: float                           # seconds until the first batch could be drawn


def make_training(arguments: argparse.Namespace, kind: Kind, seed: int = 0) -> Training:
    """A fresh network, in eval mode, with its data."""
    import torch

    from densemtmd import backbones, checkpoint
    from densemtmd.data import output_space
    from densemtmd.datasets.cache import cache_folder, load_all
    from densemtmd.datasets.mixing import Mixture, Source
    from densemtmd.dense import geometry
    from densemtmd.settings import TrainSettings

    given, compared = (choice("protocol", name).get("train") or {} for name in (kind.protocol, arguments.protocol))
    usual = TrainSettings(**compared)
    given |= {"optimizer": usual.optimizer, "lr": usual.lr, **kind.changes, **learning_rate(arguments, kind.protocol)}
    settings = TrainSettings(**given, precision=kind.precision, workers=arguments.workers, checkpoint_seconds=60.0, patience=0)
    model = choice("model", arguments.model)
    datasets = open_datasets(arguments.datasets, arguments.data_root)
    torch.manual_seed(seed)
    network = backbones.build(model, output_space(datasets))
    network = network.eval().to(checkpoint.device_of(arguments.device), memory_format=torch.channels_last)  # type: ignore[call-overload]
    began = time.perf_counter()
    domains = list(dict.fromkeys(dataset.domain for dataset in datasets))
    sources, validation = [], {}
    for dataset in datasets:
        decoded = load_all(dataset, cache_folder(arguments.cache, Path(arguments.data_root).expanduser()))
        if decoded.note:
            print(decoded.note)
        task, domain = network.space.index(dataset.labelset.name), domains.index(dataset.domain)
        sources.append(Source(dataset.name, task, domain, decoded.splits["train"]))
        validation[dataset.name] = decoded.splits["val"]
    mixture = Mixture(
        sources, geometry(network), crop=settings.crop, batch=settings.batch, flip=settings.flip, colour=settings.colour,
        border=settings.border, mixing=settings.mixing, seed=seed,
    )  # fmt: skip
    labelsets = {dataset.name: dataset.labelset.name for dataset in datasets}
    return Training(network, mixture, settings, validation, labelsets, time.perf_counter() - began)


def learning_rate(arguments: argparse.Namespace, protocol: str) -> dict[str, float]:
    """That which --lr gives a protocol, if it does."""
    given = dict(text.partition("=")[::2] for text in getattr(arguments, "lr", []))
    try:
        return {"lr": float(given[protocol])} if protocol in given else {}
    except ValueError:
        raise UserError(f"--lr gives {protocol} {given[protocol]!r}, expected a number as in {protocol}=0.01") from None


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


def at_once(work: Callable[[int], object], processes: int, turns: int, seconds: float) -> float:
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


if __name__ == "__main__":
    sys.exit(main())
