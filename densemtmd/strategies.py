"""The strategies of the paper (section 3, Figure 1), as data: a strategy is a list of stages.

The loop in ``training.py`` knows stages; it does not know what a strategy is called. A strategy is one file in
``conf/strategy/``:

``name``
    What tables call it.
``stages``
    A list; each stage is one training of one network:

    ``name``
        Names the stage's folder and checkpoint. With ``datasets: each``, ``{dataset}`` in it stands for the dataset.
    ``datasets``
        ``all``: one network for all datasets; ``each``: one such stage per dataset, each with a network of its own; ``last``: the last
            of the data choice; ``others``: all but the last; or a list of names.
    ``budget``
        The stage's share of the run's budget (epochs, minutes, outputs). ``split``: an equal share for each of the
        stages made by ``each``, so that K networks together see as much as one network does; a number: that share for
        each.
    ``start``
        The name of an earlier stage, from whose best weights this one starts. The network that it starts as is then a candidate of
        early stopping, as epoch 0.
    ``take``
        What of these weights is taken: ``all``, or ``features`` (θ_f alone, to fine-tune on other labels).
    ``equilibrium``
        Dataset equilibrium (DE): every dataset has the same part in the gradient.
    ``reversal``
        Gradient reversal (GR) between the domains of the stage's datasets, by the settings ``reversal``.
    ``context``
        The shared context θ' (SC) on top, by the settings ``context``.
    ``answers``
        Whether the stage's network gives the run's answers (true) or is only a step towards one (false).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from densemtmd.errors import UserError
from densemtmd.tasks import nearest

TAKES = ("all", "features")
"""What a stage may take of another's weights."""


@dataclass(frozen=True)
class Stage:
    """One training of one network; see the module's text for what the fields mean."""

    name: str
    datasets: tuple[str, ...]
    budget: float = 1.0
    start: str | None = None
    take: str = "all"
    equilibrium: bool = False
    reversal: bool = False
    context: bool = False
    answers: bool = True
    depth: int = 0  # how many stages this one builds upon, one upon the other


KEYS = tuple(field.name for field in fields(Stage) if field.name != "depth")
"""Of a stage in a strategy's file."""


def stages(strategy: Mapping[str, Any], datasets: Sequence[str]) -> tuple[Stage, ...]:
    """The stages of a strategy on some datasets, in the order in which they are trained.

    Args:
        strategy: what a file of ``conf/strategy/`` says.
        datasets: the names of the run's datasets.

    Raises:
        UserError: a key, dataset or stage that is unknown, or a value that is not as above.

    >>> no_fusion = {"name": "nf", "stages": [{"name": "{dataset}", "datasets": "each", "budget": "split"}]}
    >>> [stage.name for stage in stages(no_fusion, ["a", "b"])]
    ['a', 'b']
    """
    name, entries = strategy.get("name"), strategy.get("stages")
    if not isinstance(name, str) or not isinstance(entries, list) or not entries or not all(isinstance(e, Mapping) for e in entries):
        raise UserError(f"strategy {name!r} has the stages {entries!r}, expected a name, and a list of stages with a name each")
    made: dict[str, Stage] = {}
    for entry in entries:
        for stage in _expanded(f"strategy {name!r}", entry, datasets, made):
            if stage.name in made:
                raise UserError(f"strategy {name!r} has two stages called {stage.name!r}: names must differ")
            made[stage.name] = stage
    return tuple(made.values())


def _expanded(where: str, entry: Mapping[str, Any], datasets: Sequence[str], earlier: Mapping[str, Stage]) -> list[Stage]:
    """The stages that one entry of a strategy stands for."""
    if unknown := [str(key) for key in entry if key not in KEYS]:
        raise UserError(f"{where}: unknown key {unknown[0]!r}; {nearest(unknown[0], KEYS)}")
    name, budget, start, take = entry.get("name"), entry.get("budget", 1.0), entry.get("start"), entry.get("take", "all")
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise UserError(f"{where} calls a stage {name!r}, expected a name for a folder")
    where = f"{where}, stage {name!r}"
    groups = _groups(where, entry.get("datasets", "all"), datasets)
    share = 1 / len(groups) if budget == "split" else budget
    if not isinstance(share, int | float) or not share > 0:
        raise UserError(f"{where}: the budget is {budget!r}, expected split or a number above 0")
    if start is not None and not isinstance(start, str):
        raise UserError(f"{where}: start is {start!r}, expected the name of an earlier stage")
    if take not in TAKES:
        raise UserError(f"{where}: take is {take!r}; {nearest(str(take), TAKES)}")
    flags = {key: entry[key] for key in ("equilibrium", "reversal", "context", "answers") if key in entry}
    for key, value in flags.items():
        if not isinstance(value, bool):
            raise UserError(f"{where}: {key} is {value!r}, expected true or false")
    made = []
    for group in groups:
        of_start = None if start is None else start.replace("{dataset}", group[0])
        if of_start is not None and of_start not in earlier:
            raise UserError(f"{where} starts from {of_start!r}, which is no earlier stage; {nearest(of_start, earlier)}")
        depth = 0 if of_start is None else earlier[of_start].depth + 1
        made.append(
            Stage(name.replace("{dataset}", group[0]), tuple(group), float(share), start=of_start, take=take, depth=depth, **flags)
        )
    return made


def _groups(where: str, which: Any, datasets: Sequence[str]) -> list[list[str]]:
    """The datasets of each of the stages that an entry stands for."""
    if not which or not isinstance(which, str | list):
        raise UserError(f"{where}: the datasets are {which!r}, expected all, each, last, others or a list of names")
    if which in ("last", "others") and len(datasets) < 2:
        raise UserError(f"{where} learns from one dataset for another, but there is only {datasets[0]}: choose data with two or more")
    words = {"each": [[d] for d in datasets], "all": [list(datasets)], "last": [list(datasets[-1:])], "others": [list(datasets[:-1])]}
    groups = words.get(which) if isinstance(which, str) else None
    if groups is None:
        groups = [[which] if isinstance(which, str) else list(which)]
    if missing := [d for group in groups for d in group if d not in datasets]:
        raise UserError(f"{where} wants the dataset {missing[0]!r}; {nearest(str(missing[0]), datasets)}")
    return groups
