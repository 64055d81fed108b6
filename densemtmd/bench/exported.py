"""A network beside the files that are written of it: their size, what they take for a picture, what they score."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from densemtmd.bench.clock import by_turns
from densemtmd.bench.networks import a_picture, size_of
from densemtmd.bench.told import Told

if TYPE_CHECKING:
    from densemtmd.export.quantised import Cost
    from densemtmd.export.writing import Run


def measure_exported(arguments: argparse.Namespace) -> Told:
    """A trained network and its ONNX files in full precision and in 8 bits, by onnxruntime and by OpenVINO: time, size, IoU.

    The 8 bits are calibrated on validation pictures of the dataset, what is scored are its test pictures.
    """
    import torch

    from densemtmd.errors import UserError
    from densemtmd.export.graph import Graph
    from densemtmd.export.quantised import calibrating, cost_on_data, quantise
    from densemtmd.export.writing import check_packages, opened, write
    from densemtmd.inference import Predictor
    from densemtmd.runs.scoring import chosen

    for form in ("onnx", "openvino"):
        check_packages(form)
    device = torch.device("cpu")
    predictor = Predictor.load(arguments.checkpoint, "cpu")
    datasets, _ = chosen(arguments.checkpoint, arguments.dataset, arguments.data_root)
    known = [dataset for dataset in datasets if dataset.task.name in predictor.space.names]
    if len(known) != 1:
        raise UserError(f"{arguments.dataset} has {len(known)} datasets whose labelset the network knows, expected one")
    if missing := [split for split in ("val", "test") if not known[0].splits.get(split)]:
        raise UserError(
            f"{known[0].name} has no {' and no '.join(missing)} pictures: name a dataset with val pictures, which calibrate, and with test "
            "pictures, which are scored"
        )
    name, threads = known[0].task.name, torch.get_num_threads()
    graph, image = Graph(predictor.networks, [name]), a_picture(*size_of(arguments.size, "--size"), arguments.picture)
    with TemporaryDirectory() as folder:
        full, eight = Path(folder) / "network.onnx", Path(folder) / "network.int8.onnx"
        write(graph, predictor, full)
        calibrated = calibrating(graph, known)
        quantise(graph, full, eight, calibrated)
        sizes = {"full": full.stat().st_size / 1e6, "eight": eight.stat().st_size / 1e6}
        runs: dict[str, Run] = {
            f"{bits}, {form}": opened(file, form, threads)
            for bits, file in (("full", full), ("eight", eight)) for form in ("onnx", "openvino")
        }  # fmt: skip
        base = runs["full, onnx"]
        costs: Mapping[str, Cost] = {
            way: cost_on_data(graph, base, run, known, at_most=arguments.pictures)[0] for way, run in runs.items() if "eight" in way
        }
        works: dict[str, Any] = {"network": lambda: predictor(image, name)}
        works |= {way: (lambda run=run: run(image[None])) for way, run in runs.items()}
        by_turns(works, 2, device)
        turns = by_turns(works, arguments.turns, device)
    seconds, used = ({way: median(turn[way][clock] for turn in turns) for way in works} for clock in (0, 1))
    iou = next(iter(costs.values())).iou
    assert iou is not None
    scored = {"full, onnx": iou[0]} | {way: cost.iou[1] for way, cost in costs.items() if cost.iou is not None}
    titles = {"network": "Predictor, PyTorch", "full, onnx": "ONNX, onnxruntime", "full, openvino": "ONNX, OpenVINO",
              "eight, onnx": "ONNX in 8 bits, onnxruntime", "eight, openvino": "ONNX in 8 bits, OpenVINO"}  # fmt: skip
    rows = [["", "MB", "s a picture", "CPU s", f"IoU, {known[0].name}", "pixels of another label"]]
    for way, title in titles.items():
        size = f"{sizes[way.partition(',')[0]]:.1f}" if way in runs else ""
        changed = f"{costs[way].changed:.2f} %" if way in costs else ""
        rows.append([title, size, f"{seconds[way]:.3f}", f"{used[way]:.3f}", f"{scored[way]:.2f}" if way in scored else "", changed])
    number = next(iter(costs.values())).pictures
    sentence = (
        f"The time is that of a picture of {arguments.size} under the {graph.outputs[0].task.channels} labels of {name}, the median of "
        f"{arguments.turns} turns; the 8 bits are calibrated on {len(calibrated)} validation pictures of {known[0].name}, IoU is that of "
        f"{number} of its test pictures."
    )
    values = {
        "checkpoint": arguments.checkpoint.name, "dataset": arguments.dataset, "size": arguments.size, "turns": turns, "seconds": seconds,
        "seconds_cpu": used, "mb": sizes, "iou": scored,
        "changed": {way: cost.changed for way, cost in costs.items()}, "pictures": number, "calibrated": len(calibrated),
    }  # fmt: skip
    title = f"{arguments.checkpoint.name} exported, on {threads} thread{'s' * (threads > 1)}: {graph.networks[0]}"
    return Told(title, values, [sentence, rows])
