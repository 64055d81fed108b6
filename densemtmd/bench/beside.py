"""Networks beside the patch network's fast form: labelling pictures under all of street7's labelsets."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from statistics import median

from densemtmd.bench.clock import by_turns, peak_memory
from densemtmd.bench.networks import a_picture, make_network, size_of
from densemtmd.bench.told import Told, megabytes

STREET7 = ("he", "kundu", "ladicky", "ros", "sengupta", "xu", "zhang")
"""The datasets of ``data=street7``, each with a labelset of its own: 68 labels."""

PATCH = "patchnet"


def measure_beside(arguments: argparse.Namespace) -> Told:
    """Networks as :class:`densemtmd.Predictor` runs them, beside the patch network's fast form, by turns in one run.

    Each labels whole pictures under all seven labelsets of the street world, and under one of them alone.
    """
    from densemtmd.datasets.config import load_dataset_config
    from densemtmd.inference import Predictor
    from densemtmd.tasks import OutputSpace

    space = OutputSpace([load_dataset_config(name).task for name in STREET7])
    predictors, told, text = {}, [], []
    for name in dict.fromkeys([PATCH, *arguments.model]):
        given = argparse.Namespace(**{**vars(arguments), "model": name, "checkpoint": None})
        network, device = make_network(given, space.channels, space)
        predictors[name] = Predictor([network], arguments.device)
    for height, width in map(size_of, arguments.sizes):
        image = a_picture(height, width, arguments.picture)
        named: dict[str, Callable[[], object]] = {f"{name} all": partial(one.all, image) for name, one in predictors.items()}
        named |= {f"{name} one": partial(one.all, image, STREET7[:1]) for name, one in predictors.items()}
        memory = {name: peak_memory(work, device) for name, work in named.items()}  # which warms up, too
        by_turns(named, 1, device)
        turns = by_turns(named, arguments.turns, device)
        rows = {}
        for name, one in predictors.items():
            each = {key: [[turn[f"{name} {key}"][clock] for turn in turns] for clock in (0, 1)] for key in ("all", "one")}
            patch = [[turn[f"{PATCH} all"][clock] for turn in turns] for clock in (0, 1)]
            rows[name] = {
                "parameters": one.networks[0].parameter_count,
                "seconds": median(each["all"][0]), "seconds_cpu": median(each["all"][1]),
                "times": median(p / own for p, own in zip(patch[0], each["all"][0], strict=True)),
                "times_cpu": median(p / own for p, own in zip(patch[1], each["all"][1], strict=True)),
                "one_labelset_seconds_cpu": median(each["one"][1]), "memory_mb": memory[f"{name} all"],
            }  # fmt: skip
        told.append({"height": height, "width": width, "networks": rows, "turns": turns})
        table = [["", "parameters", "s", "times as fast", "CPU s", "times as fast", "one labelset, CPU s", "memory"]]
        for name, row in rows.items():
            times = [f"{row[f'seconds{clock}']:.3f}" for clock in ("", "_cpu")], [f"{row[f'times{clock}']:.1f}" for clock in ("", "_cpu")]
            alone = [f"{row['one_labelset_seconds_cpu']:.3f}", megabytes(row["memory_mb"])]
            both = [cell for pair in zip(*times, strict=True) for cell in pair]
            table.append([name, f"{row['parameters'] / 1e6:.2f} million", *both, *alone])
        text += [f"**{height}×{width}.** All pixels, and the labels of all seven labelsets:", table]
    title = (
        f"label: networks beside the patch network's fast form, {space.channels} labels of {len(STREET7)} labelsets, on {device}, "
        f"median of {arguments.turns} turns"
    )
    return Told(title, {"device": str(device), "labels": space.channels, "sizes": told}, text)
