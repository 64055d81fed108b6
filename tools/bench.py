"""Measure how fast densemtmd is, on this machine and with your data.

    python tools/bench.py label --sizes 240x320 375x1242 --bfloat16        labelling every pixel, against other ways to do it
    python tools/bench.py scale --megapixels 1 4 16                        its time and memory against pixels and labels
    python tools/bench.py train stanford --data-root ~/data                training, against the paper's minibatches of patches
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from densemtmd.cli import make_parser, tool
from densemtmd.errors import UserError

if TYPE_CHECKING:  # torch and the rest are imported where they are used, so that --help answers at once
    import numpy as np
    from torch import Tensor, nn

    from densemtmd.datasets.folder import Dataset
    from densemtmd.datasets.mixing import Mixture

CONF = Path(__file__).resolve().parents[1] / "conf"
LARGE = 16
"""Cores of the large machine that loading is extrapolated to."""


def make_arguments() -> argparse.ArgumentParser:
    parser = make_parser(__doc__ or "")
    benches = parser.add_subparsers(dest="bench", required=True, metavar="BENCH")

    def bench(name: str, measure: Callable[[argparse.Namespace], dict[str, Any]], help: str, turns: int = 7) -> Callable[..., Any]:
        """A subcommand with the options that all have; returns its ``add_argument``."""
        one = benches.add_parser(name, help=help, description=(measure.__doc__ or "").splitlines()[0], allow_abbrev=False)
        one.add_argument("--turns", type=int, default=turns, metavar="N", help=f"of which the median counts (default: {turns})")
        one.add_argument("--json", type=Path, metavar="FILE", help="also write what was measured to a file")
        one.add_argument("--model", default="patchnet", metavar="NAME", help="a file in conf/model/ (default: patchnet)")
        one.add_argument("--device", default="auto", help="auto, cpu, cuda, ...: where the network is (default: auto)")
        one.set_defaults(measure=measure)
        return one.add_argument

    def with_data(add: Callable[..., Any], seconds: float) -> None:
        """The options of what trains."""
        add("datasets", nargs="*", default=["stanford"], metavar="DATASET", help="names, or paths of YAMLs (default: stanford)")
        add("--data-root", default="data", metavar="DIR", help="the folder that holds them (default: data)")
        add("--cache", default="auto", metavar="DIR", help="where decoded pictures are kept, auto or none (default: auto)")
        add("--protocol", default="strided", metavar="NAME", help="a file in conf/protocol/ (default: strided)")
        add("--workers", type=int, default=0, metavar="N", help="processes that load (default: 0, a thread)")
        add("--seconds", type=float, default=seconds, metavar="S", help=f"of a turn (default: {seconds:g})")

    add = bench("label", measure_label, "labelling every pixel, against other ways to do it and the machine's best rate", 5)
    add("--sizes", nargs="+", default=["240x320"], metavar="HxW", help="pixels of the pictures (default: 240x320)")
    add("--labels", type=int, default=68, metavar="N", help="outputs of the network (default: 68)")
    add("--checkpoint", metavar="FILE|RUN", help="a trained network (default: --model with random weights)")
    add("--picture", type=Path, metavar="FILE", help="a picture, which is resized (default: coloured noise)")
    add("--bfloat16", action="store_true", help="also in bfloat16, with the share of the pixels whose label changes")
    add = bench("scale", measure_scale, "time and memory of labelling against pixels and labels", 3)
    add("--megapixels", nargs="+", type=float, metavar="MPX", help="(default: 1 2 4 8 16, on a CPU 0.125 0.25 0.5)")
    add("--labels", nargs="+", type=int, default=[8, 68, 300], metavar="N", help="(default: 8 68 300)")
    with_data(bench("train", measure_train, "training, against the paper's minibatches of patches", 5), 6)
    with_data(bench("loading", measure_loading, "the share of loading in a training step, and what the loader delivers by itself"), 8)
    with_data(bench("tracking", measure_tracking, "what the record in MLflow costs the training loop"), 21)
    return parser


@tool
def main(argv: Sequence[str] | None = None) -> int:
    arguments = make_arguments().parse_args(argv)
    if arguments.turns < 1:
        raise UserError(f"--turns is {arguments.turns}, expected at least 1")
    if "seconds" in arguments and (arguments.workers < 0 or not arguments.seconds > 0):
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


def by_turns(works: Mapping[str, Callable[[], object]], turns: int, device: Any) -> list[dict[str, tuple[float, float]]]:
    """Seconds and processor seconds (of all threads) of each piece of work, in each of so many turns; one more before warms up."""
    import torch

    measured = []
    for _ in range(turns + 1):
        turn = {}
        for name, work in works.items():
            wall, processor = time.perf_counter(), time.process_time()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            turn[name] = time.perf_counter() - wall, time.process_time() - processor
        measured.append(turn)
    return measured[1:]


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


# ------------------------------------------------------------------------------------------------------------------------------------
# label


PATCHES = 128
"""Patches at a time, patch by patch."""
SAMPLED = ("patch by patch", "patches, last")
"""Ways that answer a random part of the pixels; their times are extrapolated to all."""


def measure_label(arguments: argparse.Namespace) -> dict[str, Any]:
    """Labelling every pixel, against other ways to do it and the machine's best rate.

    The dense pass, as ``Predictor`` runs it, against: a patch for each pixel (a random part of them, extrapolated), in PyTorch's own layout
    and in channels-last; a strided pass for each of the stride² shifts, stitched; the dilated rewrite. The last two are in channels-last
    and go tile by tile as the dense pass does. All must answer alike.
    """
    import torch

    from densemtmd.inference import Predictor

    sizes = [size_of(text) for text in arguments.sizes]
    network, device = make_network(arguments, arguments.labels)
    predictor = Predictor([network], arguments.device)
    network = predictor.networks[0]
    rough = Predictor([network], arguments.device, "bfloat16") if arguments.bfloat16 else None
    work = multiply_adds(network)
    print(f"label: {network} on {device}; median of {arguments.turns} turns; {work['dense'] / 1e6:.3f} million multiply-adds a pixel")
    told = []
    for height, width in sizes:
        image = a_picture(height, width, arguments.picture)
        ways, answers = ways_to_label(network, predictor, rough, image)
        with torch.inference_mode():
            errors, changed = check_ways(answers, image, predictor)
            rates = machine_rates(network, device)
            works = {**ways, **{f"rate of {name}": rate for name, (rate, _) in rates.items()}}
            turns = by_turns(works, arguments.turns, device)
            memory = {name: peak_memory(way, device) for name, way in ways.items()}
        found = {
            "height": height, "width": width, "bfloat16_changes": changed, "turns": turns,
            **summary_of_ways(turns, list(ways), height * width, work, {name: count for name, (_, count) in rates.items()}),
        }  # fmt: skip
        for name, row in found["ways"].items():
            row |= {"error": errors.get(name), "memory_mb": memory.get(name)}
        show_ways(found)
        told.append(found)
    return {"device": str(device), "network": str(network), "multiply_adds": work, "patches": 4 * PATCHES, "sizes": told}


def summary_of_ways(
    turns: Sequence[Mapping[str, tuple[float, float]]],
    ways: Sequence[str],
    pixels: int,
    work: Mapping[str, float],
    cost: Mapping[str, float],
) -> dict[str, Any]:
    """Medians over turns, by the clock and by processor time: seconds of each way for the whole picture, how many times those of the dense
    pass, and the effective rate (the multiply-adds of the dense form by the seconds) as a share of the machine's best rate.

    Args:
        turns: seconds and processor seconds of the ways, and of ``rate of <name>``.
        ways: their names.
        pixels: of the picture.
        work: multiply-adds a pixel of the ways; a way without is the dense form's.
        cost: name -> multiply-adds of a measurement of the machine's rate.
    """
    rows: dict[str, dict[str, Any]] = {name: {"counted": work.get(name, work["dense"]) / work["dense"]} for name in ways}
    told: dict[str, Any] = {"ways": rows}
    for clock, key in enumerate(("", "_cpu")):
        seconds = [{n: turn[n][clock] * (pixels / 4 / PATCHES if n in SAMPLED else 1) for n in ways} for turn in turns]
        best = [max(count / turn[f"rate of {name}"][clock] for name, count in cost.items()) for turn in turns]
        told[f"gflops_best{key}"] = 2e-9 * median(best)
        told[f"gflops{key}"] = {n: 2e-9 * median(count / turn[f"rate of {n}"][clock] for turn in turns) for n, count in cost.items()}
        for name, row in rows.items():
            row[f"seconds{key}"] = median(one[name] for one in seconds)
            row[f"ratio{key}"] = median(one[name] / one["dense"] for one in seconds)
            row[f"of_best_rate{key}"] = median(work["dense"] * pixels / one[name] / rate for one, rate in zip(seconds, best, strict=True))
    return told


def show_ways(found: Mapping[str, Any]) -> None:
    """Print what was found at one size."""
    print(
        f"\n{found['height']}x{found['width']}: the machine's best rate is {found['gflops_best']:.0f} GFLOP/s, "
        f"{found['gflops_best_cpu']:.0f} a core by processor time, of"
    )
    print(f"  {', '.join(f'{name} {rate:.0f}' for name, rate in found['gflops_cpu'].items())}")
    print(f"{'':16}  {'seconds':>8} {'times':>6}  {'CPU s':>8} {'times':>6}  {'counted':>7}  {'of best rate':>12}  {'error':>6}  memory")
    for name, row in found["ways"].items():
        error = "" if row["error"] is None else f"{row['error']:.0e}"
        times = f"{row['seconds']:8.3f} {row['ratio']:6.2f}  {row['seconds_cpu']:8.3f} {row['ratio_cpu']:6.2f}"
        rates = f"{row['of_best_rate']:4.2f}, CPU {row['of_best_rate_cpu']:4.2f}"
        print(f"{name:16}  {times}  {row['counted']:7.2f}  {rates}  {error:>6}  {megabytes(row['memory_mb'])}")
    if (changed := found["bfloat16_changes"]) is not None:
        print(f"bfloat16 changes the label of {100 * changed:.2f} % of the pixels of a tile (mean over labelsets)")


def size_of(text: str) -> tuple[int, int]:
    """``240x320`` -> (240, 320)."""
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"--sizes has {text!r}, expected rows x columns such as 240x320")
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
    return {**counts, **dict.fromkeys(SAMPLED, strided_multiply_adds(network, 1))}


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


def ways_to_label(
    network: Any, predictor: Any, rough: Any, image: np.ndarray
) -> tuple[dict[str, Callable[[], object]], dict[str, Callable[[Tensor], Tensor]]]:
    """The ways to label a picture, and each of them on one tile with its border: (1, 3, h + P − 1, w + P − 1) -> (C, h, w) logits."""
    import copy

    import torch

    from densemtmd import inference

    device, where = predictor.device, predictor._dense[0].geometry
    rewritten = dilated(network)
    height, width = image.shape[:2]
    random = torch.Generator().manual_seed(0)

    def stitched(x: Tensor) -> Tensor:
        rows, columns = (size - where.patch + 1 for size in x.shape[2:])
        answer = x.new_empty(network.space.channels, rows, columns)
        for i in range(min(rows, where.stride)):
            for j in range(min(columns, where.stride)):
                answer[:, i :: where.stride, j :: where.stride] = network(x[:, :, i:, j:])[0]
        return answer

    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)

    def patches(x: Tensor, places: Tensor, network: Any = plain, layout: Any = torch.contiguous_format) -> Tensor:
        cut = torch.stack([x[0, :, row : row + where.patch, column : column + where.patch] for row, column in places.tolist()])
        return network(cut.contiguous(memory_format=layout)).flatten(1)

    patches_last = partial(patches, network=network, layout=torch.channels_last)

    def tile_by_tile(label: Callable[[Tensor], Tensor]) -> None:
        most = inference.TILE.get(device.type, inference.TILE["cuda"])
        for rows in inference.pieces(height, most[0]):
            for columns in inference.pieces(width, most[1]):
                label(inference.bordered(image, rows, columns, where, device))

    def some(patches: Callable[[Tensor, Tensor], Tensor]) -> None:
        rows, columns = slice(0, min(height, 64)), slice(0, min(width, 64))
        x = inference.bordered(image, rows, columns, where, device)
        for _ in range(4):
            patches(x, torch.stack([torch.randint(n, (PATCHES,), generator=random) for n in (rows.stop, columns.stop)], 1))

    def all_of(labeller: Any) -> Callable[[], object]:
        return lambda: [logits.shape for _, _, logits in labeller.logits(image, network.space.names)]

    answers: dict[str, Callable[..., Tensor]] = {
        "dense": lambda x: predictor._dense[0](x)[0],
        "shift and stitch": stitched,
        "dilated": lambda x: rewritten(x.contiguous(memory_format=torch.channels_last))[0],
        "patch by patch": patches,
        "patches, last": patches_last,
    }
    ways: dict[str, Callable[[], object]] = {
        "dense": all_of(predictor),
        "patch by patch": partial(some, patches),
        "patches, last": partial(some, patches_last),
        "shift and stitch": lambda: tile_by_tile(stitched),
        "dilated": lambda: tile_by_tile(answers["dilated"]),
    }
    if rough is not None:
        answers["dense, bfloat16"], ways["dense, bfloat16"] = lambda x: rough._dense[0](x)[0], all_of(rough)
    return ways, answers


def check_ways(answers: Mapping[str, Callable[..., Tensor]], image: np.ndarray, predictor: Any) -> tuple[dict[str, float], float | None]:
    """On the picture's first tile: how far each way is from the dilated rewrite, as a share of the range of its logits; and the share of
    the pixels whose label bfloat16 changes.

    Raises:
        RuntimeError: a way answers otherwise.
    """
    import torch

    from densemtmd import inference

    where, space = predictor._dense[0].geometry, predictor.space
    most = inference.TILE.get(predictor.device.type, inference.TILE["cuda"])
    rows, columns = (inference.pieces(size, at_most)[0] for size, at_most in zip(image.shape[:2], most, strict=True))
    x = inference.bordered(image, rows, columns, where, predictor.device)
    expected = answers["dilated"](x)
    span = expected.max() - expected.min()
    places = torch.stack([torch.randint(n.stop, (PATCHES,), generator=torch.Generator().manual_seed(1)) for n in (rows, columns)], 1)
    errors, changed = {}, None
    for name, label in answers.items():
        if name in SAMPLED:
            difference = label(x, places) - expected[:, places[:, 0], places[:, 1]].T
        else:
            found = label(x)
            difference = found - expected
        errors[name] = float(difference.abs().max() / span)
        if name == "dense, bfloat16":
            each = [(found[space.slice(n)].argmax(0) != expected[space.slice(n)].argmax(0)).float().mean() for n in space.names]
            changed = float(torch.stack(each).mean())
        elif not errors[name] < 1e-4:
            raise RuntimeError(f"{name} answers otherwise than the dilated network: by {errors[name]:.1e} of the range of its logits")
    del errors["dilated"]
    return errors, changed


def machine_rates(network: Any, device: Any) -> dict[str, tuple[Callable[[], object], float]]:
    """What the machine computes fastest: a product of matrices, and each of the network's larger convolutions by itself on one map, with
    the multiply-adds of each."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    side = 1024 if device.type == "cpu" else 8192
    a, b = (torch.randn(side, side, device=device) for _ in range(2))
    rates: dict[str, tuple[Callable[[], object], float]] = {"sgemm": (lambda: a @ b, float(side**3))}
    outputs = 96 if device.type == "cpu" else 384
    for conv in (module for module in network.modules() if isinstance(module, nn.Conv2d)):
        size = conv.kernel_size[0] if isinstance(conv.kernel_size, tuple) else conv.kernel_size
        if conv.in_channels * conv.out_channels < 512:
            continue
        x = torch.randn(1, conv.in_channels, outputs + size - 1, outputs + size - 1, device=device)
        x = x.contiguous(memory_format=torch.channels_last)
        name = f"{size}x{size} {conv.in_channels} to {conv.out_channels}"
        rates[name] = (lambda x=x, conv=conv: F.conv2d(x, conv.weight, conv.bias), float(conv.weight.numel() * outputs**2))
    return rates


# ------------------------------------------------------------------------------------------------------------------------------------
# scale


def measure_scale(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time and memory of labelling against pixels and labels: linear in pixels, memory bounded by the tile.

    Pictures of 3 to 4. The memory is that beyond the picture and the network, at the peak: the labels (a byte a pixel and labelset) are in
    it, and, of the strided pass, the logits that it returns.
    """
    import torch

    from densemtmd.inference import Predictor, strided_logits

    if min(arguments.megapixels or [1]) <= 0 or min(arguments.labels) < 1:
        raise UserError("--megapixels and --labels must be above 0: give other ones")
    rows = []
    with torch.inference_mode():
        for labels in arguments.labels:
            network, device = make_network(arguments, labels)
            predictor = Predictor([network], arguments.device)
            where = predictor._dense[0].geometry
            several = arguments.megapixels or ([0.125, 0.25, 0.5] if device.type == "cpu" else [1, 2, 4, 8, 16])
            for millions in several if labels == sorted(arguments.labels)[len(arguments.labels) // 2] else several[:1]:
                height = max(1, round((millions * 0.75e6) ** 0.5))
                image = a_picture(height, max(1, round(millions * 1e6 / height)))
                works = {
                    "dense": lambda image=image, predictor=predictor: predictor.all(image),
                    "strided": lambda i=image, p=predictor, w=where: strided_logits(p.networks[0], i, w, p.device),
                }
                turns = by_turns(works, arguments.turns, device)
                row: dict[str, Any] = {"labels": labels, "pixels": image.shape[0] * image.shape[1]}
                for name, run in works.items():
                    row[name] = {
                        "seconds": median(turn[name][0] for turn in turns),
                        "seconds_cpu": median(turn[name][1] for turn in turns),
                        "memory_mb": peak_memory(run, device),
                    }
                rows.append(row)
    print(f"scale: {arguments.model} on {device}, median of {arguments.turns} turns; per million pixels")
    print(f"{'labels':>6}  {'Mpx':>6}  {'dense s':>8}  {'CPU s':>7}  {'memory':>8}  {'strided s':>9}  {'CPU s':>7}  {'memory':>8}")
    for row in rows:
        millions = row["pixels"] / 1e6
        shown = [
            f"{one['seconds'] / millions:{wide}.2f}  {one['seconds_cpu'] / millions:7.2f}  {megabytes(one['memory_mb']):>8}"
            for one, wide in ((row["dense"], 8), (row["strided"], 9))
        ]
        print(f"{row['labels']:6}  {millions:6.3f}  {'  '.join(shown)}")
    return {"model": arguments.model, "device": str(device), "rows": rows}


# ------------------------------------------------------------------------------------------------------------------------------------
# train


def measure_train(arguments: argparse.Namespace) -> dict[str, Any]:
    """Labelled outputs a second of training with --protocol, against the paper's minibatches, by turns, and where the time goes.

    Both with the same network and optimiser, on batches made before; cutting them is measured beside it.
    """
    from densemtmd.tasks import VOID
    from densemtmd.training import make_optimizer, precision_on, train_step

    protocols = {"paper": "paper", arguments.protocol: arguments.protocol}
    if len(protocols) == 1:
        raise UserError("--protocol is paper, expected what it is compared with, such as strided")
    works: dict[str, Callable[[int], object]] = {}
    outputs: dict[str, float] = {}
    counted: dict[str, float] = {}
    loaders: dict[str, Mixture] = {}
    for name in protocols:
        network, mixture, settings, _ = make_training(argparse.Namespace(**{**vars(arguments), "protocol": name}))
        device = next(network.parameters()).device
        optimizer = make_optimizer(network.train(), settings)
        ready = [mixture.batch(n) for n in range(8)]
        outputs[name] = sum(int((batch.target != VOID).sum()) for batch in ready) / len(ready)
        counted[name] = strided_multiply_adds(network.eval(), mixture.rows)
        network.train()
        loaders[name], precision = mixture, precision_on(device, settings.precision)

        works[name] = partial(step_on, ready, partial(train_step, network, optimizer, precision=precision), device)
    turns: list[dict[str, Any]] = []
    for turn in range(arguments.turns + 1):
        one: dict[str, Any] = {}
        for name, learn in works.items():
            one[name] = parts_of_a_step(learn, loaders[name].batch, arguments.seconds / 2 if turn else 0, device)
            one[name]["outputs_per_second"] = outputs[name] / one[name]["step_s"]
        (_, paper), (_, own) = one.items()
        one["ratio"] = own["outputs_per_second"] / paper["outputs_per_second"]
        one["ratio_cpu"] = (outputs[arguments.protocol] / own["step_cpu_s"]) / (outputs["paper"] / paper["step_cpu_s"])
        turns.append(one)
    del turns[0]  # to warm up
    ratio, ratio_cpu = (median(turn[key] for turn in turns) for key in ("ratio", "ratio_cpu"))
    told: dict[str, Any] = {"ratio": ratio, "ratio_cpu": ratio_cpu, "counted": counted["paper"] / counted[arguments.protocol]}
    times = f"{ratio:.1f} times those of paper; by processor time {ratio_cpu:.1f}, by multiply-adds {told['counted']:.1f} times"
    rows = [("outputs a second", times)]
    for name in protocols:
        middle = {key: median(turn[name][key] for turn in turns) for key in turns[0][name]}
        total = sum(middle[part] for part in PARTS)
        shares = {part: middle[part] / total for part in PARTS}
        told[name] = {**middle, "outputs_per_step": outputs[name], "multiply_adds": counted[name], "shares": shares}
        each, step = middle["outputs_per_second"], middle["step_s"] * 1e3
        rows.append((name, f"{each:.0f} labelled outputs a second, {outputs[name]:.0f} in {step:.0f} ms"))
        rows.append(("", ", ".join(f"{part} {100 * share:.1f} %" for part, share in shares.items())))
    print(f"train {', '.join(arguments.datasets)}: {arguments.model} on {device}, {precision}, median of {arguments.turns} turns")
    show(rows)
    return {"datasets": arguments.datasets, "model": arguments.model, "device": str(device), "precision": precision, **told, "turns": turns}


def step_on(ready: Sequence[Any], learn: Callable[..., object], device: Any, n: int) -> None:
    """The n-th step on batches made before."""
    learn(ready[n % len(ready)].to(device))


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

    with stopwatch(torch.Tensor, "backward", step, "backward", clock), stopwatch(torch.optim.SGD, "step", step, "optimizer", clock):
        ((step_s, step_cpu_s),) = timed((counted(learn, step),), seconds, device)
    with stopwatch(mixing, "cut", batch, "cut", time.process_time):
        ((_, load_cpu_s),) = timed((counted(load, batch),), seconds / 4, device)
    backward, optimizer, augmentation = step["backward"] / step["steps"], step["optimizer"] / step["steps"], batch["cut"] / batch["steps"]
    return {
        "step_s": step_s, "step_cpu_s": step_cpu_s, "loading": load_cpu_s - augmentation, "augmentation": augmentation,
        "forward": (step_s if device.type == "cuda" else step_cpu_s) - backward - optimizer, "backward": backward, "optimizer": optimizer,
    }  # fmt: skip


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
    from densemtmd.data import output_space
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
