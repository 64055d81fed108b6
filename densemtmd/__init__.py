"""densemtmd: one network from several datasets, each labelled by other people with other labels.

>>> from densemtmd import Labelset, OutputSpace
>>> OutputSpace([Labelset("cars", ["car", "other"]), Labelset("people", ["person", "other"])]).channels
4

What the tools do can be called too:

>>> import densemtmd
>>> run = densemtmd.train(densemtmd.compose(["data=street7", "strategy=jt", "train.minutes=5"]))  # doctest: +SKIP
>>> predictor = densemtmd.Predictor.load(run)  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from densemtmd.composing import compose
    from densemtmd.dense import densify
    from densemtmd.inference import Predictor
    from densemtmd.labelling import label_pictures
    from densemtmd.runs.run import resume
    from densemtmd.runs.run import run as train
    from densemtmd.runs.scoring import evaluate
    from densemtmd.settings import RunSettings
    from densemtmd.tasks import KeypointSet, Labelset, OutputSpace

__version__ = "0.1.0"
__all__ = [
    "KeypointSet", "Labelset", "OutputSpace", "Predictor", "RunSettings", "compose", "densify", "evaluate", "label_pictures", "resume",
    "train",
]  # fmt: skip

ROOMS = {
    "KeypointSet": "tasks.KeypointSet", "Labelset": "tasks.Labelset", "OutputSpace": "tasks.OutputSpace",
    "Predictor": "inference.Predictor", "RunSettings": "settings.RunSettings", "compose": "composing.compose", "densify": "dense.densify",
    "label_pictures": "labelling.label_pictures", "resume": "runs.run.resume", "train": "runs.run.run", "evaluate": "runs.scoring.evaluate",
}  # fmt: skip
"""Where the public names stand."""


def __getattr__(name: str) -> object:
    """The public names, imported when they are first asked for: torch takes a second, and ``tools/… --help`` should
    not."""
    from importlib import import_module

    if name not in ROOMS:
        raise AttributeError(f"module 'densemtmd' has no attribute {name!r}")
    room, _, there = ROOMS[name].rpartition(".")
    return getattr(import_module(f"densemtmd.{room}"), there)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
