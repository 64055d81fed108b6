"""The hand world: crops in memory, and full pictures to disk."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

from densemtmd.bench.clock import by_turns, side_by_side
from densemtmd.bench.told import Told
from densemtmd.errors import UserError
from densemtmd.machine import cores


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
        together = side_by_side(partial(crop, name), processes, arguments.turns, 0)
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
