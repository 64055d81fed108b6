"""What each annotation asks of the network, and the output space that is the disjoint union of them all.

A *task* is what one kind of annotation asks: a :class:`Labelset` (one label per pixel) or a :class:`KeypointSet` (3D
points of a hand). The :class:`OutputSpace` lays the tasks side by side, one output channel per label of the union of
all labelsets (section 3 of the paper: "one output unit per label in the union of all label sets"). Equal label names of
two labelsets are never merged: what *building* means is the annotator's business.

Shapes: ``C`` channels of the output space, ``K`` tasks, ``J`` keypoints.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from densemtmd.errors import UserError
from densemtmd.palette import Colour, apart, common, completed

VOID = 255
"""The class id of an unlabelled pixel, in every labelset."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The tail of an error about an unknown name: the known ones, and the one that was probably meant."""
    known = list(known)
    close = difflib.get_close_matches(str(name).lower(), [k.lower() for k in known], n=1, cutoff=0.5)
    meant = next((k for k in known if close and k.lower() == close[0]), None)
    return f"known: {', '.join(known) or 'none'}" + (f"; did you mean {meant!r}?" if meant else "")


def check_name(name: object) -> None:
    """Refuses names of tasks that files cannot have: the files of answers and scores are called by them.

    Raises:
        UserError: not a text, nothing, longer than 200 characters, or a slash or an invisible character in it.
    """
    if not isinstance(name, str) or not name.strip() or len(name) > 200 or not name.isprintable() or set(name) & set("/\\"):
        raise UserError(f"a labelset is called {str(name)[:200]!r}, expected a name that files can have: up to 200 characters, no slash")


@dataclass(frozen=True)
class Labelset:
    """The labels of one annotator: every labelled pixel has exactly one of them.

    Args:
        name: what users call it, e.g. ``"kundu"``.
        labels: label names in the order of their class ids 0, 1, ... (2 to 255 of them, all different).
        colours: one (R, G, B) in 0..255 per label; where there is none, or None, one is chosen that is far from the others for all eyes.
            They are how labels are drawn and no part of what a labelset is: labelsets that differ in nothing else are equal.

    Raises:
        UserError: fewer than two labels, more than 255, a name twice, a palette of another length, or a name that files cannot have.

    >>> Labelset("xu", ["sky", "ground", "vegetation", "infrastructure", "movable"]).channels
    5
    """

    name: str
    labels: Sequence[str]
    colours: Sequence[Colour | None] | None = field(default=None, compare=False)
    given: Sequence[Colour | None] = field(default=(), init=False, repr=False, compare=False)  # which of the colours were not chosen here

    kind: ClassVar[str] = "labelset"
    words: ClassVar[str] = "labelset"
    of_probabilities: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_name(self.name)
        labels = tuple(str(label) for label in self.labels)
        if len(labels) < 2:
            raise UserError(
                f"labelset {self.name!r} has {len(labels)} label{'s' * (len(labels) != 1)}, expected at least 2: the softmax over a "
                "single label is always 1, so nothing would be learned; declare the rest of the picture as 'other'"
            )
        if len(labels) > VOID:
            raise UserError(
                f"labelset {self.name!r} has {len(labels)} labels, expected at most {VOID}: class ids are 8 bits, {VOID} is void"
            )
        if twice := sorted({label for label in labels if labels.count(label) > 1}):
            raise UserError(f"labelset {self.name!r} names {', '.join(twice)} more than once: label names must differ")
        wanted = [None] * len(labels) if self.colours is None else [None if c is None else tuple(int(v) for v in c) for c in self.colours]
        if len(wanted) != len(labels):
            raise UserError(f"labelset {self.name!r} has {len(labels)} labels but {len(wanted)} colours: give one (R, G, B) per label")
        if bad := [c for c in wanted if c is not None and (len(c) != 3 or not all(0 <= v <= 255 for v in c))]:
            raise UserError(f"labelset {self.name!r} has the colour {bad[0]}, expected (R, G, B) with values 0..255")
        given = tuple(None if c is None else (c[0], c[1], c[2]) for c in wanted)
        colours = apart(len(labels)) if set(given) == {None} else completed(given)
        object.__setattr__(self, "given", given)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "colours", colours)

    @property
    def channels(self) -> int:
        """Number of output channels: one per label."""
        return len(self.labels)

    @property
    def channel_names(self) -> tuple[str, ...]:
        return tuple(self.labels)

    @property
    def palette(self) -> tuple[Colour, ...]:
        """One (R, G, B) per label."""
        assert self.colours is not None  # set in __post_init__
        return tuple(colour for colour in self.colours if colour is not None)

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, "labels": list(self.labels), "colours": [list(c) for c in self.palette]}


def harmonised(labelsets: Sequence[Labelset], all_of_them: bool = False) -> list[Labelset]:
    """The labelsets, with one colour per name: colours that were chosen become those of labels of the same name elsewhere.

    Args:
        labelsets: to be seen together.
        all_of_them: also colours that were given, so that the same name has the same colour everywhere; the first one given counts.

    >>> a, b = Labelset("a", ["car", "other"], [(64, 0, 128), (0, 0, 0)]), Labelset("b", ["person", "car"])
    >>> harmonised([a, b])[1].palette[1]
    (64, 0, 128)
    """
    shared = common([(labelset.labels, labelset.given) for labelset in labelsets])
    return [
        Labelset(labelset.name, labelset.labels, [
            own if own is not None and not all_of_them else colour for own, colour in zip(labelset.given, colours, strict=True)
        ]) for labelset, colours in zip(labelsets, shared, strict=True)
    ]  # fmt: skip


@dataclass(frozen=True)
class KeypointSet:
    """The keypoints of one annotator: each owns three channels, x, y, z (section 4.4).

    Args:
        name: what users call it, e.g. ``"nyu"``.
        keypoints: the J names, all different.

    Raises:
        UserError: no keypoint, a name twice, or a name that files cannot have.

    >>> KeypointSet("nyu", [f"joint{i}" for i in range(14)]).channels
    42
    """

    name: str
    keypoints: Sequence[str]

    kind: ClassVar[str] = "keypoints"
    words: ClassVar[str] = "keypoint set"
    of_probabilities: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_name(self.name)
        keypoints = tuple(str(k) for k in self.keypoints)
        if not keypoints:
            raise UserError(f"keypoint set {self.name!r} has no keypoint, expected at least 1")
        if twice := sorted({k for k in keypoints if keypoints.count(k) > 1}):
            raise UserError(f"keypoint set {self.name!r} names {', '.join(twice)} more than once: keypoint names must differ")
        object.__setattr__(self, "keypoints", keypoints)

    @property
    def channels(self) -> int:
        """Number of output channels: x, y, z per keypoint."""
        return 3 * len(self.keypoints)

    @property
    def channel_names(self) -> tuple[str, ...]:
        return tuple(f"{k}.{axis}" for k in self.keypoints for axis in "xyz")

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.name, "keypoints": list(self.keypoints)}


class Task(Protocol):
    """What one kind of annotation asks, as :class:`Labelset` and :class:`KeypointSet` do."""

    kind: ClassVar[str]               # of the task, as checkpoints say it
    words: ClassVar[str]              # the same for people
    of_probabilities: ClassVar[bool]  # whether its channels are seen through a softmax, or are coordinates as they are

    @property
    def name(self) -> str: ...

    @property
    def channels(self) -> int:
        """Number of output channels."""
        ...

    @property
    def channel_names(self) -> tuple[str, ...]: ...

    def to_json(self) -> dict[str, Any]:
        """With its kind; the other keys are what its constructor takes."""
        ...


def task_from_json(data: Mapping[str, Any], classes: Iterable[type[Task]] = (Labelset, KeypointSet)) -> Task:
    """The inverse of a task's ``to_json``.

    Raises:
        UserError: a kind that none of the classes is. KeyError, TypeError: not what the class takes.
    """
    about = dict(data)
    kind, known = about.pop("kind"), {one.kind: one for one in classes}
    if kind not in known:
        raise UserError(f"unknown kind of task {kind!r}; {nearest(str(kind), known)}")
    needed = {one.name: about[one.name] for one in fields(known[kind]) if one.default is MISSING}  # type: ignore[arg-type]
    return known[kind](**needed | about)


@dataclass(frozen=True)
class ChannelTables:
    """Who owns which channel, as lookup tables on one device, so that no loop over tasks runs there."""

    owner: Tensor  # (C,) position of the task that owns each channel
    first: Tensor  # (K,) first channel of each task
    size: Tensor  # (K,) number of channels of each task


@dataclass(frozen=True)
class OutputSpace:
    """The disjoint union of tasks: who owns which output channels.

    Args:
        tasks: labelsets, or keypoint sets; one space holds one kind. Their names must differ.

    Raises:
        UserError: no task, a name twice, or kinds mixed.

    >>> space = OutputSpace([Labelset("a", ["car", "other"]), Labelset("b", ["person", "car", "other"])])
    >>> space.channels, space.slice("b"), space.index("b")
    (5, slice(2, 5, None), 1)
    """

    tasks: Sequence[Task]
    _tables: dict[torch.device, ChannelTables] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        tasks = tuple(self.tasks)
        if not tasks:
            raise UserError("an output space needs at least one labelset or keypoint set, got none")
        names = [task.name for task in tasks]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise UserError(f"two tasks of one output space are called {', '.join(twice)}: names must differ")
        if len({task.kind for task in tasks}) > 1:
            raise UserError(
                "an output space holds labelsets or keypoint sets, not both: " + ", ".join(f"{t.name} is a {t.kind}" for t in tasks)
            )
        object.__setattr__(self, "tasks", tasks)

    @property
    def kind(self) -> str:
        """``"labelset"`` or ``"keypoints"``: what every task of this space is."""
        return self.tasks[0].kind

    @property
    def of_probabilities(self) -> bool:
        """Whether each task's channels become probabilities by the dataset-wise softmax (Eq. 1), or are taken as they are."""
        return self.tasks[0].of_probabilities

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.tasks)

    @property
    def channels(self) -> int:
        """C, the number of output channels of the network."""
        return sum(task.channels for task in self.tasks)

    def __len__(self) -> int:
        """K, the number of tasks."""
        return len(self.tasks)

    def __getitem__(self, name: str) -> Task:
        return self.tasks[self.index(name)]

    def index(self, name: str) -> int:
        """Position of a task in the space.

        Raises:
            UserError: no such task; the message lists the known ones and suggests the nearest.
        """
        if name not in self.names:
            raise UserError(f"unknown {self.tasks[0].words} {name!r}; {nearest(name, self.names)}")
        return self.names.index(name)

    def slice(self, name: str) -> slice:
        """The channels of a task."""
        position = self.index(name)
        first = sum(task.channels for task in self.tasks[:position])
        return slice(first, first + self.tasks[position].channels)

    def positions(self, names: Iterable[str]) -> Tensor:
        """The numbers of all channels of some tasks, in the space's order, whatever that of the names; of others nothing."""
        wanted = set(names)
        kept = torch.tensor([task.name in wanted for task in self.tasks])
        return kept.repeat_interleave(torch.tensor([task.channels for task in self.tasks])).nonzero().flatten()

    def tables(self, device: torch.device) -> ChannelTables:
        """The lookup tables on ``device``, made once."""
        if device not in self._tables:
            with torch.inference_mode(False):  # made at inference, they could not be used in training any more
                size = torch.tensor([task.channels for task in self.tasks], device=device)
                owner = torch.repeat_interleave(torch.arange(len(self), device=device), size)
                self._tables[device] = ChannelTables(owner=owner, first=size.cumsum(0) - size, size=size)
        return self._tables[device]

    def to_json(self) -> dict[str, Any]:
        return {"tasks": [task.to_json() for task in self.tasks]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], classes: Iterable[type[Task]] = (Labelset, KeypointSet)) -> OutputSpace:
        """The inverse of :meth:`to_json`; raises what :func:`task_from_json` does."""
        return cls([task_from_json(task, classes) for task in data["tasks"]])
