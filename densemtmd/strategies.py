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
        ``all``: one network for all datasets; ``each``: one such stage per dataset, each with a network of its own; or
            a list of names.
    ``budget``
        The stage's share of the run's budget (epochs, minutes, outputs). ``split``: an equal share for each of the
        stages made by ``each``, so that K networks together see as much as one network does; a number: that share for
        each.
    ``answers``
        Whether the stage's network gives the run's answers (true) or is only a step towards one (false).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densemtmd.errors import UserError
from densemtmd.tasks import nearest

KEYS = ("name", "datasets", "budget", "answers")
"""Of a stage."""


@dataclass(frozen=True)
class Stage:
    """One training of one network; see the module's text for what the fields mean."""

    name: str
    datasets: tuple[str, ...]
    budget: float = 1.0
    answers: bool = True


def stages(strategy: Mapping[str, Any], datasets: Sequence[str]) -> tuple[Stage, ...]:
    """The stages of a strategy on some datasets, in the order in which they are trained.

    Args:
        strategy: what a file of ``conf/strategy/`` says.
        datasets: the names of the run's datasets.

    Raises:
        UserError: a key or dataset that is unknown, or a value that is not as above.

    >>> no_fusion = {"name": "nf", "stages": [{"name": "{dataset}", "datasets": "each", "budget": "split"}]}
    >>> [stage.name for stage in stages(no_fusion, ["a", "b"])]
    ['a', 'b']
    """
    name, entries = strategy.get("name"), strategy.get("stages")
    if not isinstance(name, str) or not isinstance(entries, list) or not entries or not all(isinstance(e, Mapping) for e in entries):
        raise UserError(f"strategy {name!r} has the stages {entries!r}, expected a name, and a list of stages with a name each")
    made: list[Stage] = []
    for entry in entries:
        if unknown := [str(key) for key in entry if key not in KEYS]:
            raise UserError(f"strategy {name!r}: unknown key {unknown[0]!r}; {nearest(unknown[0], KEYS)}")
        stage, which, budget = entry.get("name"), entry.get("datasets", "all"), entry.get("budget", 1.0)
        if not isinstance(stage, str) or not stage or Path(stage).name != stage:
            raise UserError(f"strategy {name!r} calls a stage {stage!r}, expected a name for a folder")
        if not which or not isinstance(which, str | list):
            raise UserError(f"strategy {name!r}: the datasets of stage {stage!r} are {which!r}, expected all, each or a list of names")
        listed = [which] if isinstance(which, str) else list(which)
        groups = [[d] for d in datasets] if which == "each" else [list(datasets) if which == "all" else listed]
        share = 1 / len(groups) if budget == "split" else budget
        if not isinstance(share, int | float) or not share > 0:
            raise UserError(f"strategy {name!r}: the budget of stage {stage!r} is {budget!r}, expected split or a number above 0")
        for group in groups:
            if missing := [d for d in group if d not in datasets]:
                raise UserError(f"strategy {name!r} wants the dataset {missing[0]!r}; {nearest(missing[0], datasets)}")
            made.append(Stage(stage.replace("{dataset}", group[0]), tuple(group), float(share), bool(entry.get("answers", True))))
    names = [stage.name for stage in made]
    if len(set(names)) < len(names):
        raise UserError(f"strategy {name!r} has two stages of one name ({', '.join(names)}): names must differ")
    return tuple(made)
