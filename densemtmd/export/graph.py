"""What is exported: all that lies between a picture and its labels, as one module.

Shapes: ``N`` pictures, ``H``, ``W`` pixels, ``L`` labels of a labelset, ``C`` channels of another kind of task.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from densemtmd.copies import geometry_of_copies, mean_over_copies
from densemtmd.errors import UserError
from densemtmd.geometry import Geometry
from densemtmd.kind import kind_of
from densemtmd.merging import Merged
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
    the border, copies of pictures, networks, dataset-wise softmax and the fusion of several labelsets. Other tasks than labelsets are
    answered by their values as they are.

    The networks are copied, to the CPU.

    Args:
        networks: as a :class:`densemtmd.inference.Predictor` has them.
        names: the tasks that are answered, in the order of the answers.
        probabilities: those of all labels too.
        floats: pictures are (N, 3, H, W) float32 in [0, 1], rather than (N, H, W, 3) uint8. What is no picture is always float32.
        mirror, scales: the copies of a picture over which probabilities are averaged, as a Predictor has them.
        merged: the merged labelset that is answered; ``names`` are those that it is made of.

    Raises:
        UserError: probabilities, copies or a merged labelset are asked for of networks that label no pictures.
    """

    def __init__(
        self,
        networks: Sequence[JointNetwork],
        names: Sequence[str],
        probabilities: bool = False,
        floats: bool = False,
        mirror: bool = False,
        scales: Sequence[float] = (1.0,),
        merged: Merged | None = None,
    ) -> None:
        super().__init__()
        asked = [copy.deepcopy(n).cpu().eval() for n in networks if set(n.space.names) & set(names)]
        self.networks = [network.only(names) for network in asked]
        self.spaces = [network.space for network in self.networks]
        self.parts = nn.ModuleList(network.traceable() for network in self.networks)
        self.of_pictures = self.spaces[0].of_probabilities
        self.floats = floats or not self.of_pictures
        self.mirror, self.scales, self.merged = mirror, list(scales), merged
        if not self.of_pictures and (probabilities or merged or self.copies):
            raise UserError(
                "probabilities, merged labelsets and copies of pictures are for networks that label pictures, but this one answers other "
                "tasks: leave them out"
            )
        tasks = {task.name: task for space in self.spaces for task in space.tasks}
        answered = [tasks[name] for name in names] if merged is None else [merged.labelset]
        self.outputs = tuple(one for task in answered for one in outputs_of(task, probabilities))
        self.sides = None if self.of_pictures else kind_of(self.spaces[0].kind).shown(self.networks[0], 0)

    @property
    def copies(self) -> bool:
        """Whether it answers with the mean over several copies of a picture, or one that is enlarged."""
        return self.mirror or self.scales != [1.0]

    @property
    def context(self) -> int:
        """Pixels on each side that an answer depends on, or noticeably depends on."""
        return max(one.context + max(one.border) for one in self._geometries)

    @property
    def multiple(self) -> int:
        """Pixels; parts of a picture begin best at multiples of so many."""
        return math.lcm(*(one.multiple for one in self._geometries))

    @property
    def _geometries(self) -> list[Geometry]:
        own = [network.geometry for network in self.networks]
        return [geometry_of_copies(one, self.scales) for one in own] if self.copies else own

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
        for network, space, part in zip(self.networks, self.spaces, self.parts, strict=True):
            multiple = network.geometry.multiple
            answer = mean_over_copies(part, x, space, self.mirror, self.scales, multiple) if self.copies else part(x)
            own |= {name: answer[:, space.slice(name)] for name in space.names}
        if self.merged is not None:
            fused = self.merged.fuse({name: own[name].softmax(1).transpose(0, 1) for name in self.merged.groups}).transpose(0, 1)
            own = {self.merged.labelset.name: fused.clamp(min=torch.finfo(fused.dtype).tiny).log()}  # logits whose softmax it is
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
