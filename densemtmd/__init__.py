"""densemtmd: one network from several datasets, each labelled by other people with other labels.

>>> from densemtmd import Labelset, OutputSpace
>>> OutputSpace([Labelset("cars", ["car", "other"]), Labelset("people", ["person", "other"])]).channels
4
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from densemtmd.dense import densify
    from densemtmd.inference import Predictor
    from densemtmd.tasks import KeypointSet, Labelset, OutputSpace

__version__ = "0.1.0"
__all__ = ["KeypointSet", "Labelset", "OutputSpace", "Predictor", "densify"]


def __getattr__(name: str) -> object:
    """The public names, imported when they are first asked for: torch takes a second, and ``tools/… --help`` should
    not."""
    from importlib import import_module

    rooms = {"densify": "dense", "Predictor": "inference", "KeypointSet": "tasks", "Labelset": "tasks", "OutputSpace": "tasks"}
    if name not in rooms:
        raise AttributeError(f"module 'densemtmd' has no attribute {name!r}")
    return getattr(import_module(f"densemtmd.{rooms[name]}"), name)
