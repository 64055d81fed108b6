"""One answer out of several labelsets: a *merged* labelset, whose labels name labels of the labelsets that a network learned.

A YAML says what it is made of::

    name: merged
    labels:
      car: traffic.car                               # a label of one labelset,
      person: [he.person, ros.pedestrian]            # or what any of several labelsets call so
      sky: {labels: [he.sky, ros.sky], colour: [128, 128, 128]}
      background: rest                               # at most once: what is left

**Fusion.** For labelset s, the probability of a merged label m is the sum over the labels of s that m names, g_s(m) = Σ p_s(l) (a group
probability, of the dataset-wise softmax). A labelset that does not name m says nothing about it: what is left, r_s = 1 − Σ_m g_s(m), is the
probability that the pixel is one of the merged labels U_s that s does not name, whichever. The answer is the distribution q that agrees
best with all labelsets that name something, each as far as it speaks::

    q = argmax Σ_s [ Σ_{m named by s} g_s(m) log q(m)  +  r_s log Σ_{m in U_s} q(m) ]

(the least sum of Kullback-Leibler divergences from what each says). Labelsets that name the same labels are averaged; where each names
others, and what they say fits together, each has it its way and ``rest`` is exactly what remains; where they contradict each other, q lies
between. It is found by expectation maximisation, pixel by pixel: q(m) ← mean over s of (g_s(m) where s names m, else r_s·q(m)/q(U_s)).
Where a labelset names all merged labels and yet leaves probability over, that is about nothing that is asked, and does not count.

Shapes: ``L`` labels of one labelset, ``M`` merged labels, ``S`` labelsets that name some, ``X`` pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from densemtmd.errors import UserError
from densemtmd.files import read_yaml
from densemtmd.tasks import VOID, Labelset, OutputSpace, Task, harmonised, nearest

REST = "rest"
ITERATIONS = 20
"""Of the expectation maximisation: q is then exact to about 0.001."""


@dataclass(frozen=True)
class Merged:
    """A merged labelset.

    Args:
        labelset: its name, labels and colours.
        groups: labelset -> (L,) for each of its labels the merged label that names it, or −1.
        rest: the merged label that is what remains, or None.
        truth: class of a truth -> merged label, where the YAML says it (see :meth:`from_truth`).
    """

    labelset: Labelset
    groups: Mapping[str, tuple[int, ...]]
    rest: int | None
    truth: Mapping[str, int] | None = None

    def named(self, tasks: Mapping[str, Task]) -> dict[str, list[str]]:
        """Merged label -> what it is made of: ``{"car": ["he.car", "kundu.car"], "background": ["rest"]}``."""
        found: dict[str, list[str]] = {label: [] for label in self.labelset.labels}
        for name, group in self.groups.items():
            for label, to in zip(tasks[name].channel_names, group, strict=True):
                if to >= 0:
                    found[self.labelset.labels[to]].append(f"{name}.{label}")
        return found if self.rest is None else found | {self.labelset.labels[self.rest]: [REST]}

    def fuse(self, probabilities: Mapping[str, Tensor]) -> Tensor:
        """The fused probabilities of the merged labels.

        Args:
            probabilities: labelset -> (L, ...) of each labelset in :attr:`groups`, each pixel's sum to 1.

        Returns:
            (M, ...) in [0, 1], each pixel's sum to 1. Of plain products and sums, so that ``torch.jit.trace`` records what is right for
            pictures of all sizes.
        """
        count = self.labelset.channels
        first = probabilities[next(iter(self.groups))]
        # X pixels: what the labelsets say together of each merged label (M, X), what each leaves (S, X), and what that is about (S, M).
        said, left = first.new_zeros(()), []
        silent = torch.tensor([[m not in group for m in range(count)] for group in self.groups.values()]).to(first)
        for name, group in self.groups.items():
            sums = torch.tensor([[to == m for to in group] for m in (*range(count), -1)]).to(first)
            groups = sums @ probabilities[name].reshape(len(group), -1)
            said = said + groups[:count]
            left.append(groups[count:])
        unsaid, q = torch.cat(left), torch.full_like(said, 1 / count)
        for _ in range(ITERATIONS if any(m not in group for group in self.groups.values() for m in range(count)) else 1):
            q = said + q * (silent.T @ (unsaid / (silent @ q).clamp(min=1e-12)))
            q = q / q.sum(0, keepdim=True).clamp(min=1e-12)
        return q.reshape(count, *first.shape[1:])

    def from_truth(self, classes: Sequence[str], tables: Mapping[str, np.ndarray]) -> np.ndarray:
        """What the merged labelset calls each class of a truth (see :class:`densemtmd.truth.Truth`): (T + 1,) uint8.

        A class is the merged label that names what some labelset calls it; of which nobody names a thing, it is the rest. It is void, and
        not scored, where two merged labels claim it, where there is no rest, and where nobody can tell: all labelsets that name some
        merged label leave it unlabelled. A ``truth`` in the YAML overrules this; classes that it does not name are the rest.

        Args:
            classes: names of the classes.
            tables: labelset -> (T + 1,), what it calls each class, 255 where it says nothing; of all labelsets in :attr:`groups`.

        Raises:
            UserError: the YAML's ``truth`` names a class that there is not.
        """
        found = np.full(len(next(iter(tables.values()))), VOID, np.uint8)
        rest = VOID if self.rest is None else self.rest
        if self.truth is not None:
            for name in self.truth:
                if name not in classes:
                    raise UserError(f"the truth of {self.labelset.name!r} names {name!r}, which is no class; {nearest(name, classes)}")
            found[: len(classes)] = [self.truth.get(name, rest) for name in classes]
            return found
        for number in range(len(classes)):
            said = {name: int(tables[name][number]) for name in self.groups}
            claims = {self.groups[name][label] for name, label in said.items() if label != VOID} - {-1}
            heard = {m for name, group in self.groups.items() if said[name] != VOID for m in group}
            unheard = {m for group in self.groups.values() for m in group} - heard - {-1}
            if claims or unheard:
                found[number] = claims.pop() if len(claims) == 1 else VOID
            else:
                found[number] = rest
        return found


def load_merged(path: str | Path, space: OutputSpace) -> Merged:
    """Reads the YAML of a merged labelset.

    Args:
        path: of the file.
        space: the labelsets that there are.

    Raises:
        UserError: no such file, no YAML, an unknown key, labelset or label (with the nearest known one), a label named twice or an empty
            one, more than one rest, fewer than two labels.
    """
    path = Path(path)
    data = _mapping(read_yaml(path, "a merged labelset"), ("name", "labels", "truth"), str(path))
    if not isinstance(name := data.get("name"), str):
        raise UserError(f"{path}: name is {name!r}, expected what the merged labelset is called")
    if name in space.names:
        raise UserError(f"{path}: name is {name!r}, which is a labelset of the network: give the merged one another")
    entries = {label: _entry(label, value, path) for label, value in _mapping(data.get("labels"), None, f"{path}: labels").items()}
    try:
        merged = Labelset(name, list(entries), [entry.get("colour") for entry in entries.values()])
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    labelset = harmonised([*(task for task in space.tasks if isinstance(task, Labelset)), merged])[-1]

    groups: dict[str, list[int]] = {}
    rest: list[int] = []
    taken: dict[str, str] = {}
    for number, (label, entry) in enumerate(entries.items()):
        if entry["labels"] == REST:
            rest.append(number)
            continue
        for named in entry["labels"]:
            owner, position = _find(named, space, f"{path}: {label!r}")
            if named in taken:
                raise UserError(f"{path}: {named} is named twice, by {taken[named]!r} and by {label!r}, expected once")
            taken[named] = label
            groups.setdefault(owner, [-1] * space[owner].channels)[position] = number
    if len(rest) > 1:
        raise UserError(f"{path}: {' and '.join(repr(labelset.labels[n]) for n in rest)} are both the rest, expected it once at most")
    if not groups:
        raise UserError(f"{path}: labels has nothing but the rest, expected labels of the network's labelsets such as {_example(space)}")
    truth = None if data.get("truth") is None else _truth(data["truth"], labelset, path)
    return Merged(labelset, {owner: tuple(groups[owner]) for owner in space.names if owner in groups}, rest[0] if rest else None, truth)


def _mapping(data: Any, known: Sequence[str] | None, what: str) -> dict[str, Any]:
    if not isinstance(data, Mapping) or not data:
        raise UserError(f"{what} is {data!r}, expected keys and values{'' if known is None else ': ' + ', '.join(known)}")
    for key in data:
        if not isinstance(key, str):
            raise UserError(f"{what} has the key {key!r}, expected a text; put quotes around one that YAML takes for something else")
        if known is not None and key not in known:
            raise UserError(f"{what} has the unknown key {key!r}; {nearest(key, known)}")
    return dict(data)


def _entry(label: str, value: Any, path: Path) -> dict[str, Any]:
    """``{"labels": [...] or "rest"}``, and the colour if there is one."""
    entry = _mapping(value, ("labels", "colour"), f"{path}: {label!r}") if isinstance(value, Mapping) else {"labels": value}
    named = entry.get("labels")
    named = [named] if isinstance(named, str) and named != REST else named
    if named != REST and not (isinstance(named, list) and named and all(isinstance(one, str) for one in named)):
        raise UserError(f"{path}: {label!r} is made of {entry.get('labels')!r}, expected labels such as [he.person, ros.cyclist], or rest")
    if "colour" not in entry:
        return {"labels": named}
    colour = entry["colour"]
    if not (isinstance(colour, list) and len(colour) == 3 and all(type(v) is int and 0 <= v <= 255 for v in colour)):
        raise UserError(f"{path}: {label!r} has the colour {colour!r}, expected [R, G, B] with values 0..255")
    return {"labels": named, "colour": tuple(colour)}


def _find(named: str, space: OutputSpace, where: str) -> tuple[str, int]:
    """``"he.person"`` -> the labelset and the label's position in it; both may hold dots."""
    owners = [name for name in space.names if named.startswith(f"{name}.")]
    if not owners:
        if "." not in named:
            raise UserError(f"{where} names {named!r}, expected a labelset and a label such as {_example(space)}")
        raise UserError(f"{where} names {named!r}, of an unknown labelset; {nearest(named.partition('.')[0], space.names)}")
    for owner in owners:
        labels = space[owner].channel_names
        if (label := named.removeprefix(f"{owner}.")) in labels:
            return owner, labels.index(label)
    label, labels = named.removeprefix(f"{owners[0]}."), space[owners[0]].channel_names
    raise UserError(f"{where} names {named!r}, but {owners[0]} has no label {label!r}; {nearest(label, labels)}")


def _example(space: OutputSpace) -> str:
    return f"{space.names[0]}.{space.tasks[0].channel_names[0]}"


def _truth(data: Any, labelset: Labelset, path: Path) -> dict[str, int]:
    """``{car: [car, van]}`` -> ``{"car": 0, "van": 0}``."""
    found: dict[str, int] = {}
    for label, classes in _mapping(data, tuple(labelset.labels), f"{path}: truth").items():
        for one in classes if isinstance(classes, list) else [classes]:
            if not isinstance(one, str) or one in found:
                raise UserError(f"{path}: truth of {label!r} has {one!r}, expected names of classes, each once")
            found[one] = list(labelset.labels).index(label)
    return found
