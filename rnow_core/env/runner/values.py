"""Values on their way between JSON and Python: arguments before a call, results and defaults after it.

Python 3.8, standard library only: this file also runs inside sandboxes.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import json
import os
import uuid
from typing import Any

from .hints import (
    DICTS,
    LISTS,
    SCALARS,
    container,
    enum_json,
    fields,
    has_default,
    is_dataclass,
    is_typed_dict,
    literals,
    members,
    name_of,
    strip,
    typed_dict_keys,
)

_AS_TEXT = (os.PathLike, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID)


class Mismatch(Exception):
    """A JSON value that a type hint does not take."""


def convert(hint: Any, value: Any, name: str) -> Any:
    """The Python value of a JSON value: members of Enums, dataclasses, tuples, sets; 3.0 for an int is 3.

    `name` is where it stands (`points[0].x`). Raises Mismatch, which names it.
    """
    hint = strip(hint)[0]
    if hint is Any or hint is object:
        return value
    values = literals(hint)
    if values is not None:
        return _member(hint, values, value, name)
    if isinstance(hint, type) and hint in SCALARS:
        return _scalar(hint, value, name)
    union = members(hint)
    if union:
        return _one_of(union, value, name)
    if is_dataclass(hint):
        return _dataclass(hint, value, name)
    if is_typed_dict(hint):
        keys, _ = typed_dict_keys(hint)
        given = _expect(dict, "an object", value, name)
        return {key: convert(keys.get(key, Any), item, f"{name}.{key}") for key, item in given.items()}
    return _container(hint, value, name)


def to_json(value: Any) -> Any:
    """The value with everything in JSON's own types; TypeError where something has no JSON form."""
    return json.loads(json.dumps(value, default=json_default))


def json_default(value: Any) -> Any:
    """What json.dumps writes for values that are not JSON's own: its `default` argument."""
    if isinstance(value, enum.Enum):
        return enum_json(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, (set, frozenset)):
        return sorted(value, key=repr)
    if isinstance(value, _AS_TEXT):
        return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    for method in ("tolist", "model_dump"):  # numpy, torch; pydantic
        if callable(getattr(value, method, None)) and not isinstance(value, type):
            return getattr(value, method)()
    raise TypeError(f"a {type(value).__name__} has no JSON form")


def shown(value: Any) -> str:
    """A value in a message, as short JSON."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _expect(kind: Any, expected: str, value: Any, name: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise Mismatch(f"`{name}` is {shown(value)}, expected {expected}")
    return value


def _scalar(hint: Any, value: Any, name: str) -> Any:
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if hint is float and type(value) is int:
        return float(value)
    return _expect(hint, f"a value of type {SCALARS[hint]}", value, name)


def _member(hint: Any, values: list[Any], value: Any, name: str) -> Any:
    options: list[Any] = list(getattr(hint, "__args__", hint))
    for at, known in enumerate(values):
        if known == value and isinstance(known, bool) == isinstance(value, bool):
            return options[at]
    raise Mismatch(f"`{name}` is {shown(value)}, expected one of {', '.join(map(shown, values))}")


def _one_of(union: list[Any], value: Any, name: str) -> Any:
    exact = [member for member in union if member is type(value)]
    for member in exact + [member for member in union if member not in exact]:
        try:
            return convert(member, value, name)
        except Mismatch:
            continue
    raise Mismatch(f"`{name}` is {shown(value)}, expected one of {', '.join(map(name_of, union))}")


def _dataclass(hint: Any, value: Any, name: str) -> Any:
    given = _expect(dict, "an object", value, name)
    known = fields(hint)
    unknown = [key for key in given if key not in known]
    missing = [key for key, (_, field) in known.items() if key not in given and not has_default(field)]
    if unknown or missing:
        problem = f"has no `{missing[0]}`" if missing else f"has the unknown key `{unknown[0]}`"
        raise Mismatch(f"`{name}` {problem}, expected {', '.join(known)}")
    made = {}
    for key, item in given.items():
        kind, field = known[key]
        kept = item is None and field.default is None
        made[key] = None if kept else convert(kind, item, f"{name}.{key}")
    return hint(**made)


def _container(hint: Any, value: Any, name: str) -> Any:
    kind, arguments = container(hint)
    if kind in DICTS:
        given = _expect(dict, "an object", value, name)
        inner = arguments[1] if len(arguments) == 2 else Any
        return {key: convert(inner, item, f"{name}.{key}") for key, item in given.items()}
    items = _expect(list, "a list", value, name)
    if kind is tuple and arguments and not (len(arguments) == 2 and arguments[1] is ...):
        return _fixed(() if arguments == ((),) else arguments, items, name)
    inner = arguments[0] if arguments else Any
    made = [convert(inner, item, f"{name}[{at}]") for at, item in enumerate(items)]
    if kind in LISTS:
        return made
    return tuple(made) if kind is tuple else (frozenset if kind is frozenset else set)(made)


def _fixed(kinds: tuple[Any, ...], items: list[Any], name: str) -> tuple[Any, ...]:
    if len(items) != len(kinds):
        raise Mismatch(f"`{name}` has {len(items)} items, expected {len(kinds)}")
    return tuple(convert(kind, items[at], f"{name}[{at}]") for at, kind in enumerate(kinds))
