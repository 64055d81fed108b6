"""Which worlds a data choice wants, rendered where they are not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from densemtmd.datasets.hands.sets import HAND_SETS
from densemtmd.errors import UserError
from densemtmd.settings import DataSettings
from densemtmd.tasks import nearest
from densemtmd.worlds import annotators, hands, otherworld


def rendered(data: DataSettings, root: Path) -> dict[str, Path]:
    """Where the datasets lie that a data choice has rendered; worlds that are not there are rendered below ``root``.

    Raises:
        UserError: a setting of a world that is unknown, or no whole number.
    """
    of_hands = [name for name in data.datasets if name in HAND_SETS]
    of_streets = tuple(name for name in data.datasets if name in annotators.ANNOTATORS)
    known = ("frames", "test", "seed") if of_hands else ("images", "frames", "width", "height", "seed")
    world = whole_numbers("data.world", data.world or {}, known)
    others = whole_numbers("data.otherworld", data.otherworld or {}, ("images", "width", "height", "seed"))
    places: dict[str, Path] = {}
    if data.world is not None and of_hands:
        places |= dict.fromkeys(of_hands, hands.ensure_hands(root, hands.HandWorldSettings(**world)))
    elif data.world is not None and of_streets:
        places |= dict.fromkeys(of_streets, annotators.ensure_streets(root, annotators.StreetSettings(**world, annotators=of_streets)))
    if data.otherworld is not None and otherworld.NAME in data.datasets:
        places[otherworld.NAME] = otherworld.ensure_otherworld(root, otherworld.OtherSettings(**others))
    return places


def rendered_names(data: Mapping[str, Any]) -> set[str]:
    """The datasets of a data choice that are of rendered worlds, and not those whose names they have.

    Args:
        data: of a run's ``config.yaml``.
    """
    of = {"world": {*annotators.ANNOTATORS, *HAND_SETS}, "otherworld": {otherworld.NAME}}
    return {name for world, names in of.items() if data.get(world) is not None for name in names & {*data["datasets"]}}


def whole_numbers(setting: str, values: Mapping[str, Any], known: Sequence[str]) -> dict[str, int]:
    """The values, all of whose keys are known and which are whole numbers."""
    for key, value in values.items():
        if key not in known:
            raise UserError(f"unknown setting {setting}.{key}; {nearest(str(key), known)}")
        if type(value) is not int:
            raise UserError(f"{setting}.{key} is {value!r}, expected a whole number")
    return dict(values)
