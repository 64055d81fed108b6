"""What is exported: all that lies between a picture and its labels, as one module.

Shapes: ``N`` pictures, ``H``, ``W`` pixels, ``L`` labels of a labelset, ``C`` channels of another kind of task.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from densemtmd.kind import kind_of
from densemtmd.network import JointNetwork
from densemtmd.tasks import Task

INPUT = "picture"


ANSWERS: dict[str, Callable[[Tensor], Tensor]] = {
    "labels": lambda logits: logits.argmax(1).to(torch.uint8),
    "probabilities": lambda logits: logits.softmax(1),
    "values": lambda values: values.flatten(1),
}
"""What is made of what a network says under one task, (N, channels, H, W)."""


class Output(NamedTuple):
    """One of the answers."""

    what: str   # one of ANSWERS
    task: Task  # under which it is given
    shape: str  # for people
    dtype: str

    @property
    def name(self) -> str:
        """``labels.kundu``, ``probabilities.kundu``, ``values.nyu``."""
        return f"{self.what}.{self.task.name}"


class Graph(nn.Module):
    """From pictures to class ids and, where they are asked for, probabilities, whatever H and W: colour conversion, what is made up beyond
    the border, networks and dataset-wise softmax. Other tasks than labelsets are answered by their values as they are.

    The networks are copied, to the CPU.

    Args:
        networks: as a :class:`densemtmd.inference.Predictor` has them.
        names: the tasks that are answered, in the order of the answers.
        probabilities: those of all labels too.
        floats: pictures are (N, 3, H, W) float32 in [0, 1], rather than (N, H, W, 3) uint8. What is no picture is always float32.
    """

    def __init__(self, networks: Sequence[JointNetwork], names: Sequence[str], probabilities: bool = False, floats: bool = False) -> None:
        super().__init__()
        asked = [copy.deepcopy(n).cpu().eval() for n in networks if set(n.space.names) & set(names)]
        self.networks = [network.only(names) for network in asked]
        self.spaces = [network.space for network in self.networks]
        self.parts = nn.ModuleList(network.traceable() for network in self.networks)
        self.of_pictures = self.spaces[0].of_probabilities
        self.floats = floats or not self.of_pictures
        tasks = {task.name: task for space in self.spaces for task in space.tasks}
        self.outputs = tuple(one for name in names for one in outputs_of(tasks[name], probabilities))
        self.sides = None if self.of_pictures else kind_of(self.spaces[0].kind).shown(self.networks[0], 0)

    @property
    def shape(self) -> str:
        """Of the input, for people."""
        if self.sides is not None:
            return f"(N, {', '.join(map(str, self.sides))}) float32"
        return "(N, 3, H, W) float32, RGB in [0, 1]" if self.floats else "(N, H, W, 3) uint8, RGB"

    def taken(self, pictures: Tensor) -> Tensor:
        """Pictures (N, H, W, 3) uint8 as the graph takes them."""
        return pictures.permute(0, 3, 1, 2).float() / 255 if self.floats else pictures

    def forward(self, picture: Tensor) -> tuple[Tensor, ...]:
        x = picture if self.floats else picture.permute(0, 3, 1, 2).float() / 255
        own: dict[str, Tensor] = {}
        for space, part in zip(self.spaces, self.parts, strict=True):
            answer = part(x)
            own |= {name: answer[:, space.slice(name)] for name in space.names}
        return tuple(ANSWERS[one.what](own[one.task.name]) for one in self.outputs)

    @property
    def normalisation(self) -> list[dict[str, Any]]:
        """What the networks do with colours before their first layers."""
        told: list[Any] = [module.normalisation for part in self.parts for module in part.modules() if hasattr(module, "normalisation")]
        return [one for n, one in enumerate(told) if one not in told[:n]]


def outputs_of(task: Task, probabilities: bool) -> list[Output]:
    """The answers under one task."""
    if not task.of_probabilities:
        return [Output("values", task, f"(N, {task.channels})", "float32")]
    labels = Output("labels", task, "(N, H, W)", "uint8")
    return [labels, Output("probabilities", task, f"(N, {task.channels}, H, W)", "float32")] if probabilities else [labels]
