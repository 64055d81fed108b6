"""A file of ONNX in 8 bits, and what that costs.

Weights are rounded to whole numbers once for all, each channel of a convolution on a scale of its own; what goes into the convolutions is
rounded on scales that are read off on *calibration pictures*, which should be like those that will be labelled.

An activation behind a convolution is part of it: what comes out is rounded behind the activation. Rounded before it, the 8 bits would be
spent on what the activation cuts off, and of the 0 to 6 of a ReLU6 few steps would be left.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from densemtmd import evaluation
from densemtmd.datasets.folder import Dataset, few_pictures, load_split, spread
from densemtmd.datasets.pictures import read_picture
from densemtmd.errors import UserError
from densemtmd.export.graph import INPUT, Graph
from densemtmd.export.writing import Run, about, placed
from densemtmd.progress import Progress

ROUNDED = ("Conv", "Relu", "Clip")
"""ONNX's names of the layers that compute in 8 bits; ``Clip`` is ReLU6."""

CALIBRATING = 40
"""Validation pictures of each dataset for calibration, spread evenly, where no pictures are named."""

SCORED = 40
"""Pictures of each dataset on which IoU is measured, spread evenly over its test pictures."""


def quantise(graph: Graph, full: Path, path: Path, pictures: Sequence[Path]) -> None:
    """Writes an ONNX file whose convolutions compute in 8 bits.

    Args:
        graph: which.
        full: its file in full precision.
        path: of the file to write.
        pictures: for calibration.

    Raises:
        UserError: a picture that cannot be read, or the file cannot be written.
    """
    import onnx
    from onnxruntime import quantization

    with placed(path) as temporary, TemporaryDirectory() as folder, Progress("calibrating", len(pictures)) as progress, quiet():
        plain = Path(folder) / path.name
        quantization.shape_inference.quant_pre_process(str(full), str(plain), skip_onnx_shape=True, skip_symbolic_shape=True)

        class Reader(quantization.CalibrationDataReader):
            """Hands out picture after picture, as onnxruntime asks for them."""

            def __init__(self) -> None:
                self.left = taken(graph, pictures)

            def get_next(self) -> dict[str, np.ndarray] | None:
                given = next(self.left, None)
                progress.tick(given is not None)
                return given

        quantization.quantize_static(
            str(plain), str(temporary), Reader(), quant_format=quantization.QuantFormat.QDQ, op_types_to_quantize=[*ROUNDED],
            activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8, per_channel=True,
            reduce_range=True,  # of weights: a sum of two products must fit 16 bits on processors without instructions for 8
        )  # fmt: skip
        model = onnx.load(temporary)
        onnx.helper.set_model_props(model, {**about(graph), "int8": f"convolutions, calibrated on {len(pictures)} pictures"})
        onnx.save(model, temporary)


@contextmanager
def quiet() -> Iterator[None]:
    """Without what onnxruntime's tools have to say to their own authors."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def taken(graph: Graph, pictures: Sequence[Path]) -> Iterator[dict[str, np.ndarray]]:
    """Pictures as the graph's file takes them, one by one."""
    for file in pictures:
        image = torch.from_numpy(read_picture(file))[None]
        yield {INPUT: np.ascontiguousarray(graph.taken(image).numpy())}


@dataclass(frozen=True)
class Cost:
    """What 8 bits change under one labelset."""

    labelset: str
    pictures: int
    changed: float            # percent of the pixels that get another label
    iou: tuple[float, float] | None  # in full precision and in 8 bits, percent, where labels are known

    def __str__(self) -> str:
        scored = "" if self.iou is None else f"IoU {self.iou[0]:.2f} -> {self.iou[1]:.2f} ({self.iou[1] - self.iou[0]:+.2f}), "
        number = f"{self.pictures} picture{'s' * (self.pictures != 1)}"
        return f"{self.labelset}: {scored}{self.changed:.2f} % of the pixels get another label, on {number}"


def cost_on_pictures(graph: Graph, full: Run, eight: Run, pictures: Sequence[Path]) -> list[Cost]:
    """On pictures without labels."""
    names = _labelsets(graph)
    changed, pixels = dict.fromkeys(names, 0), 0
    with Progress("comparing", len(pictures)) as progress:
        for given in taken(graph, pictures):
            one, other = full(given[INPUT]), eight(given[INPUT])
            pixels += one[f"labels.{names[0]}"].size
            for name in names:
                changed[name] += int((one[f"labels.{name}"] != other[f"labels.{name}"]).sum())
            progress.tick()
    return [Cost(name, len(pictures), 100 * changed[name] / pixels, None) for name in names]


def calibrating(graph: Graph, datasets: Sequence[Dataset]) -> list[Path]:
    """Pictures for calibration: validation pictures of the datasets under whose labelsets a graph answers."""
    tasks = {task for space in graph.spaces for task in space.tasks}
    return [item.image for d in datasets if d.task in tasks for item in spread(d.splits.get("val", ()), CALIBRATING)]


def cost_on_data(
    graph: Graph, full: Run, eight: Run, datasets: Sequence[Dataset], split: str = "test", at_most: int = SCORED
) -> list[Cost]:
    """On labelled pictures of datasets, at most so many of each (0: all), under the labelset of each."""
    tasks = [one.task for one in graph.outputs]
    known = [few_pictures(dataset, at_most) for dataset in datasets if dataset.task in tasks and dataset.splits.get(split)]
    found = []
    with Progress("scoring 8 bits", sum(len(dataset.splits[split]) for dataset in known)) as progress:
        for dataset in known:
            name, labels = f"labels.{dataset.task.name}", dataset.task.channels
            counts, changed, pixels = np.zeros((2, labels, labels), np.int64), 0, 0
            for sample in load_split(dataset, split):
                given = np.ascontiguousarray(graph.taken(torch.from_numpy(sample.image)[None]).numpy())
                answers = [torch.from_numpy(run(given)[name][0]) for run in (full, eight)]
                target = torch.from_numpy(sample.target)
                counts += np.stack([evaluation.confusion(answer, target, labels).numpy() for answer in answers])
                changed, pixels = changed + int((answers[0] != answers[1]).sum()), pixels + target.numel()
                progress.tick()
            iou = (evaluation.scores([counts[0]]).iou, evaluation.scores([counts[1]]).iou)
            found.append(Cost(dataset.name, len(dataset.splits[split]), 100 * changed / pixels, iou))
    return found


def _labelsets(graph: Graph) -> list[str]:
    names = [one.task.name for one in graph.outputs if one.what == "labels"]
    if not names:
        raise UserError("--int8 is for networks that label pictures: leave it out")
    return names
