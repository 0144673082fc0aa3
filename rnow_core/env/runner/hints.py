"""Type hints taken apart, the same way on every Python from 3.8 on.

Python 3.8, standard library only: this file also runs inside sandboxes.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import sys
import types
import typing
from typing import Any

NONE = type(None)
SCALARS = {str: "string", int: "integer", float: "number", bool: "boolean", NONE: "null"}
LISTS = (list, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
SETS = (set, frozenset, collections.abc.Set)
DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_UNION_TYPE: Any = getattr(types, "UnionType", None)


class BadHint(Exception):
    """A type hint that has no JSON form. `fix` says what to write instead."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(problem)
        self.fix = fix


class _Holder:
    """What typing.get_type_hints needs of a function to evaluate the hint of one parameter."""

    def __init__(self, hint: Any, namespace: dict[str, Any]) -> None:
        self.__annotations__ = {"hint": hint}
        self.__globals__ = namespace


def evaluate(hint: Any, namespace: dict[str, Any]) -> Any:
    """The type that a hint stands for, strings and forward references inside included.

    Raises whatever evaluating it raises (NameError, TypeError, SyntaxError).
    """
    holder: Any = _Holder(hint, namespace)
    try:
        return typing.get_type_hints(holder, namespace, include_extras=True)["hint"]
    except TypeError as error:
        if "include_extras" not in str(error):
            raise
        return typing.get_type_hints(holder, namespace)["hint"]


def strip(hint: Any) -> tuple[Any, str]:
    """The hint without Annotated, NewType and `type` aliases, and the text that Annotated gives."""
    text = ""
    while True:
        if hasattr(hint, "__metadata__"):
            notes = [note for note in hint.__metadata__ if isinstance(note, str)]
            text = text or (notes[0] if notes else "")
            hint = hint.__origin__
        elif hasattr(hint, "__supertype__"):
            hint = hint.__supertype__
        elif type(hint).__name__ == "TypeAliasType":
            hint = hint.__value__
        else:
            return (NONE if hint is None else hint), text


def members(hint: Any) -> list[Any]:
    """The members of a union, None as NoneType; an empty list for anything else."""
    origin = typing.get_origin(hint)
    if origin is typing.Union or (_UNION_TYPE is not None and isinstance(hint, _UNION_TYPE)):
        return [strip(member)[0] for member in typing.get_args(hint)]
    return []


def accepts_none(hint: Any) -> bool:
    """Whether None is a value of it."""
    hint = strip(hint)[0]
    if hint in (NONE, Any, object):
        return True
    return any(accepts_none(member) for member in members(hint))


def literals(hint: Any) -> list[Any] | None:
    """The JSON values of a Literal or an Enum, in order; None for anything else.

    An Enum stands for its values where all are text or numbers, else for its names.
    """
    if typing.get_origin(hint) is typing.Literal:
        return [
            enum_json(value) if isinstance(value, enum.Enum) else value for value in typing.get_args(hint)
        ]
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return [enum_json(member) for member in hint]
    return None


def enum_json(member: enum.Enum) -> Any:
    """The JSON value that stands for a member."""
    plain = all(type(other.value) in (str, int, float, bool) for other in type(member))
    return member.value if plain else member.name


def container(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """The class and the type arguments of `list[str]`, `Dict[str, int]`, plain `list`, ...

    A bare TypeVar as argument (`List` on Python 3.8) counts as none.
    """
    origin = typing.get_origin(hint)
    arguments = tuple(item for item in typing.get_args(hint) if not isinstance(item, typing.TypeVar))
    return (hint if origin is None else origin), arguments


def is_dataclass(hint: Any) -> bool:
    """Whether it is a dataclass itself, not an instance of one."""
    return isinstance(hint, type) and dataclasses.is_dataclass(hint)


def fields(hint: Any) -> dict[str, tuple[Any, dataclasses.Field[Any]]]:
    """The fields of a dataclass that its constructor takes: name -> (type, field)."""
    module = sys.modules.get(hint.__module__)
    namespace = dict(vars(module)) if module else {}
    return {
        field.name: (evaluate(field.type, namespace), field)
        for field in dataclasses.fields(hint)
        if field.init
    }


def has_default(field: dataclasses.Field[Any]) -> bool:
    """Whether the field may be left out."""
    missing = dataclasses.MISSING
    return field.default is not missing or field.default_factory is not missing


def is_typed_dict(hint: Any) -> bool:
    """Whether it is a TypedDict class."""
    return isinstance(hint, type) and issubclass(hint, dict) and hasattr(hint, "__total__")


def typed_dict_keys(hint: Any) -> tuple[dict[str, Any], list[str]]:
    """The types of a TypedDict's keys, and the keys that must be there."""
    types_of = typing.get_type_hints(hint)
    default = types_of if hint.__total__ else {}
    required = getattr(hint, "__required_keys__", default)
    return types_of, [name for name in types_of if name in required]


def name_of(hint: Any) -> str:
    """As a person would write it."""
    if isinstance(hint, type) and typing.get_origin(hint) is None:
        return hint.__name__
    return str(hint).replace("typing.", "")
