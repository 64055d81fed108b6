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
from typing import Any

from densemtmd.errors import UserError
from densemtmd.tasks import nearest


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
        UserError: a key or dataset that is unknown, or a budget that is no share.

    >>> no_fusion = {"name": "nf", "stages": [{"name": "{dataset}", "datasets": "each", "budget": "split"}]}
    >>> [stage.name for stage in stages(no_fusion, ["a", "b"])]
    ['a', 'b']
    """
    made: list[Stage] = []
    for entry in strategy["stages"]:
        if unknown := set(entry) - {"name", "datasets", "budget", "answers"}:
            word = sorted(unknown)[0]
            raise UserError(
                f"strategy {strategy['name']!r}: unknown key {word!r}; {nearest(word, ['name', 'datasets', 'budget', 'answers'])}"
            )
        which = entry.get("datasets", "all")
        groups = [[d] for d in datasets] if which == "each" else [list(datasets) if which == "all" else list(which)]
        budget = entry.get("budget", 1.0)
        share = 1 / len(groups) if budget == "split" else budget
        if not isinstance(share, int | float) or share <= 0:
            raise UserError(
                f"strategy {strategy['name']!r}: the budget of stage {entry['name']!r} is {budget!r}, expected split or a number above 0"
            )
        for group in groups:
            if missing := [d for d in group if d not in datasets]:
                raise UserError(f"strategy {strategy['name']!r} wants the dataset {missing[0]!r}; {nearest(missing[0], datasets)}")
            name = entry["name"].replace("{dataset}", group[0])
            made.append(Stage(name, tuple(group), float(share), bool(entry.get("answers", True))))
    names = [stage.name for stage in made]
    if len(set(names)) < len(names):
        raise UserError(f"strategy {strategy['name']!r} has two stages of one name ({', '.join(names)}): names must differ")
    return tuple(made)
