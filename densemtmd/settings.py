"""How settings are declared, as dataclasses whose fields ``--help`` explains, and read back from the files that hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, field, fields, is_dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from densemtmd.errors import UserError
from densemtmd.tasks import nearest

S = TypeVar("S")


def setting(default: Any, help: str) -> Any:
    """A field of a settings dataclass with the line that ``--help`` shows for it."""
    return field(default=default, metadata={"help": help})


def from_plain(of: type[S], data: Any, name: str = "") -> S:
    """A dataclass from plain data as a file holds them, its types checked.

    Args:
        of: the dataclass; its fields are numbers, texts, truth values, lists, mappings, other dataclasses, or None.
        data: a mapping of its fields; those that are missing keep their defaults.
        name: of the data, for messages.

    Raises:
        UserError: a field that is unknown, missing or of another type.
    """
    types = get_type_hints(of)
    if not isinstance(data, Mapping):
        raise UserError(f"{name or 'the whole'} is {data!r:.60}, expected names with values")
    values = {}
    for key, value in data.items():
        if key not in types:
            raise UserError(f"{name} has the unknown {key!r}; {nearest(str(key), types)}".lstrip())
        full = f"{name}.{key}".lstrip(".")
        values[key] = from_plain(types[key], value, full) if is_dataclass(types[key]) else value
        if not is_dataclass(types[key]) and not _fits(value, types[key]):
            raise UserError(f"{full} is {value!r:.60}, expected {getattr(types[key], '__name__', types[key])}")
    try:
        return of(**values)
    except TypeError:
        needed = ", ".join(f.name for f in fields(of) if f.default is MISSING and f.default_factory is MISSING)  # type: ignore[arg-type]
        raise UserError(f"{name or 'the whole'} lacks a value, expected {needed}") from None


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, as annotations write it."""
    origin, inner = get_origin(kind) or kind, get_args(kind)
    if origin is Any:
        return True
    if origin is UnionType:
        return any(_fits(value, one) for one in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(one, *inner) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(isinstance(key, inner[0]) for key in value)
    if origin is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return type(value) is origin
