"""Time and memory of labelling against pixels and labels; memory of loss and metrics."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from densemtmd.bench.clock import one_pass, peak_memory
from densemtmd.bench.networks import a_picture, first_strip, make_network
from densemtmd.bench.told import Told, megabytes
from densemtmd.errors import UserError


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
        dense_to = arguments.dense_to or (4 if device.type == "cpu" else 16)
        for millions in arguments.megapixels[: None if labels == sorted(arguments.labels)[len(arguments.labels) // 2] else 1]:
            height = max(1, round((millions * 0.75e6) ** 0.5))
            image = a_picture(height, max(1, round(millions * 1e6 / height)))
            works: dict[str, Callable[[], object]] = {
                "strided": partial(strided_logits, predictor.networks[0], image, device),
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
