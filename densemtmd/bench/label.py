"""Labelling every pixel, against other ways to do it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any

from densemtmd.bench.beside import measure_beside
from densemtmd.bench.clock import by_turns, on_threads, one_pass, peak_memory
from densemtmd.bench.networks import a_picture, choice, first_strip, first_tile, labeller_of, make_network, multiply_adds, size_of
from densemtmd.bench.told import Told, megabytes
from densemtmd.errors import UserError
from densemtmd.machine import cores

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn


PATCHES = 128
"""Patches at a time, patch by patch; four times so many are answered in a turn."""
SIDES = {"cpu": 1024}
"""Of the matrices by whose product a device's best rate is seen; 8192 on a GPU."""
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

    if len(arguments.model) > 1 or (arguments.model != ["patchnet"] and choice("model", *arguments.model)["name"] != "patchnet"):
        return measure_beside(arguments)
    sizes = [size_of(text) for text in arguments.sizes]
    network, device = make_network(argparse.Namespace(**{**vars(arguments), "model": arguments.model[0]}), arguments.labels)
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


def dilated(network: Any) -> nn.Module:
    """The rewrite for every pixel that one would write by hand: stride 1, and behind a stride s all windows dilated by s."""
    import copy

    from torch import nn

    from densemtmd.stack import layers_of

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

    device, where = predictor.device, predictor.networks[0].geometry
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
        x = inference.seen_for(image, *area, where, device)[0]
        for _ in range(4):
            patches(x, torch.stack([torch.randint(side.stop, (PATCHES,), generator=random) for side in area], 1))

    def on_tile(label: Callable[[Tensor], Tensor]) -> Callable[[], object]:
        return lambda: label(inference.seen_for(image, rows, columns, where, device)[0])

    def on_strip(labeller: Any) -> Callable[[], object]:
        return lambda: [logits.shape for _, _, _, logits in labeller.logits(strip, network.space.names)]

    def rewrite(x: Tensor) -> Tensor:
        return rewritten(x.contiguous(memory_format=torch.channels_last))[0]

    full, of_strip = "the whole picture", len(image) / len(strip)
    on, share = (f"a strip of {len(strip)} rows", of_strip) if of_strip > 1 else (full, 1.0)
    ways = {"dense": Way(lambda x: labeller_of(predictor)(x)[0], on_strip(predictor), on, share, work["dense"])}
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
        ways["bfloat16"] = replace(ways["dense"], logits=lambda x: labeller_of(rough)(x)[0], run=on_strip(rough), precision="bfloat16")
    for name, labeller in (("dense", predictor), ("bfloat16", rough)):
        if name in ways:
            ways[f"{name}, with labels"] = replace(ways[name], run=partial(labeller.all, strip))
    if device.type == "cuda" and rough is not None:
        try:
            replay = captured(labeller_of(rough), inference.seen_for(image, rows, columns, where, device)[0])
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


def check_ways(ways: Mapping[str, Way], image: np.ndarray, predictor: Any) -> tuple[dict[str, float], float | None]:
    """On the picture's first tile: how far each way is from the dilated rewrite, as a share of the range of its logits; and the share of
    the pixels whose label bfloat16 changes.

    Raises:
        RuntimeError: a way answers otherwise.
    """
    import torch

    from densemtmd import inference

    where, space = predictor.networks[0].geometry, predictor.space
    rows, columns = first_tile(image, predictor.device)
    x = inference.seen_for(image, rows, columns, where, predictor.device)[0]
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

    dtype, side = getattr(torch, precision), SIDES.get(device.type, 8192)
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
