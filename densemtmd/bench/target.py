"""The time of a training until its validation pictures are answered well enough."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from densemtmd.bench.clock import clocks
from densemtmd.bench.networks import strided_multiply_adds
from densemtmd.bench.training import Kind, make_training


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
    from densemtmd.datasets.folder import spread
    from densemtmd.training import Budget, State, fit

    training = make_training(arguments, kind, seed)
    settings = replace(training.settings, schedule="constant", warmup=0.0, checkpoint_seconds=math.inf)
    some = {name: spread(samples, arguments.pictures) for name, samples in training.validation.items()}
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
            validate=validate, after_epoch=report, title=f"{kind.protocol}, {kind.precision}",
        )  # fmt: skip
    last = found["history"][-1]
    return {**found, **last, "optimizer": settings.optimizer, "lr": settings.lr, "reached": last["iou"] >= arguments.target}
