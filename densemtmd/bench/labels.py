"""Very many labels: training and labelling against their number."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

from densemtmd.bench.clock import by_turns, peak_memory
from densemtmd.bench.networks import a_picture, choice, make_network, size_of
from densemtmd.bench.told import Told, megabytes
from densemtmd.errors import UserError


def measure_labels(arguments: argparse.Namespace) -> Told:
    """A step of training, and a picture labelled under all labelsets and under one, of networks of more and more labels, by turns.

    Labelsets are of one size, but for what does not divide. A step is that of the protocol, its batch mixed from all labelsets.
    """
    import torch

    from densemtmd.datasets.sample import Batch
    from densemtmd.inference import Predictor
    from densemtmd.settings import TrainSettings
    from densemtmd.tasks import Labelset, OutputSpace
    from densemtmd.training import make_optimizer, train_step

    height, width = size_of(arguments.size, "--size")
    settings = TrainSettings(**(choice("protocol", arguments.protocol).get("train") or {}))
    works: dict[str, Callable[[], object]] = {}
    sizes: dict[str, Any] = {}
    image = a_picture(height, width)
    device = torch.device("cpu")
    for text in arguments.labels:
        labels, labelsets = size_of(text, "--labels", "labels x labelsets such as 1000x50")
        if labels < labelsets or labels / labelsets > 254:
            raise UserError(f"--labels has {text!r}, expected labelsets of 1 to 254 labels")
        shared = [labels // labelsets + (n < labels % labelsets) for n in range(labelsets)]
        space = OutputSpace([Labelset(f"bench{n}", [f"label{i}" for i in range(size)]) for n, size in enumerate(shared)])
        network, device = make_network(arguments, labels, space)
        predictor = Predictor([network], arguments.device)
        learner, _ = make_network(arguments, labels, space)
        side = learner.geometry.pixels(settings.crop)
        task = torch.arange(settings.batch) % labelsets
        most = torch.tensor(shared)[task]
        batch = Batch(
            image=torch.randint(0, 256, (settings.batch, 3, side, side), dtype=torch.uint8),
            target=(torch.rand(settings.batch, settings.crop, settings.crop) * most[:, None, None]).to(torch.uint8),
            task=task, domain=torch.zeros_like(task), weight=torch.ones(settings.batch),
        ).to(device)  # fmt: skip
        step = partial(train_step, learner.train(), make_optimizer(learner, settings), batch, settings.precision)
        works |= {
            f"{text}: a step": step,
            f"{text}: a picture, all": partial(predictor.all, image),
            f"{text}: a picture, one": partial(predictor, image, space.names[0]),
        }
        sizes[text] = {"labels": labels, "labelsets": labelsets, "memory_mb": peak_memory(step, device)}
    by_turns(works, 1, device)  # warms up
    turns = by_turns(works, arguments.turns, device)
    first = arguments.labels[0]
    table = [["labels", "labelsets", "a step, CPU s", "against the first", "memory", "all labelsets", "one alone", "one against all"]]
    for text, one in sizes.items():
        for key, name in (("step", "a step"), ("all", "a picture, all"), ("one", "a picture, one")):
            one[f"{key}_s"], one[f"{key}_cpu_s"] = (median(turn[f"{text}: {name}"][clock] for turn in turns) for clock in (0, 1))
        one["step_ratio"] = median(turn[f"{text}: a step"][1] / turn[f"{first}: a step"][1] for turn in turns)
        one["one_ratio"] = median(turn[f"{text}: a picture, one"][1] / turn[f"{text}: a picture, all"][1] for turn in turns)
        shown = [f"{one['step_cpu_s']:.3f}", f"{one['step_ratio']:.2f}", megabytes(one["memory_mb"]), f"{one['all_cpu_s']:.3f}"]
        table.append([str(one["labels"]), str(one["labelsets"]), *shown, f"{one['one_cpu_s']:.3f}", f"{one['one_ratio']:.2f}"])
    title = f"labels: {arguments.model} on {device}, pictures of {height}×{width}, median of {arguments.turns} turns"
    return Told(title, {"model": arguments.model, "device": str(device), "size": [height, width], "sizes": sizes, "turns": turns}, [table])
