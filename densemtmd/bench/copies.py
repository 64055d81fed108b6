"""What several copies of a picture, mirrored and enlarged, cost beside the picture alone."""

from __future__ import annotations

import argparse
from functools import partial
from statistics import median
from typing import Any

from densemtmd.bench.clock import by_turns
from densemtmd.bench.networks import a_picture, make_network, size_of
from densemtmd.bench.told import Told

WAYS: dict[str, dict[str, Any]] = {
    "the picture alone": {},
    "`--mirror`": {"mirror": True},
    "`--scales 1,1.5`": {"scales": (1.0, 1.5)},
    "`--mirror --scales 1,1.5`": {"mirror": True, "scales": (1.0, 1.5)},
}


def measure_copies(arguments: argparse.Namespace) -> Told:
    """Labelling a picture alone, mirrored too, at two sizes, and both: time, by turns.

    Times are medians over turns; how many times those of the picture alone is the median of what each turn says.
    """
    import torch

    from densemtmd.inference import Predictor

    network, device = make_network(arguments, arguments.labels)
    height, width = size_of(arguments.size, "--size")
    image = a_picture(height, width, arguments.picture)
    with torch.inference_mode():
        works = {way: partial(Predictor([network], arguments.device, **own).all, image) for way, own in WAYS.items()}
        by_turns(works, 1, device)
        turns = by_turns(works, arguments.turns, device)
    first = next(iter(WAYS))
    rows: list[list[str]] = [["", "s", "times", "CPU s", "times"]]
    found: dict[str, dict[str, float]] = {}
    for way in WAYS:
        seconds, used = ([turn[way][clock] for turn in turns] for clock in (0, 1))
        times, times_used = ([turn[way][clock] / turn[first][clock] for turn in turns] for clock in (0, 1))
        found[way] = {"seconds": median(seconds), "times": median(times), "seconds_cpu": median(used), "times_cpu": median(times_used)}
        rows.append([way, *(f"{value:.{2 if 'times' in key else 3}f}" for key, value in found[way].items())])
    title = f"copies: {network} on {device}, a picture of {height}×{width}, median of {arguments.turns} turns"
    about = {"device": str(device), "network": str(network), "height": height, "width": width}
    return Told(title, {**about, "turns": turns, "ways": found}, [rows])
