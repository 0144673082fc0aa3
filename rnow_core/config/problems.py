"""A problem in the data of a config, before it is known where in which file that data stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rnow_core.errors import Severity

KeyPath = tuple[str | int, ...]
"""`("teacher", 0, "path")`: mapping keys and list indices from the root."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to say about `path`. `also` names the other keys that the statement rests on.

    `at` chooses what the position in the file shows: the key, or the value behind it.
    """

    code: str
    path: KeyPath
    message: str
    hint: str = ""
    severity: Severity = "error"
    also: tuple[KeyPath, ...] = ()
    at: Literal["key", "value"] = "key"


def dotted(path: KeyPath) -> str:
    """`teacher[0].path` for `("teacher", 0, "path")`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def present(path: KeyPath, data: Any) -> KeyPath:
    """The part of `path` that exists in `data`, with what the file leaves out left out.

    Pydantic's locations carry names of union members, and indices of lists that a file may write as one value
    (`teacher`); neither is a place in the file.
    """
    kept: list[str | int] = []
    for part in path:
        named = isinstance(data, Mapping) and part in data
        counted = isinstance(data, list) and isinstance(part, int) and part < len(data)
        if named or counted:
            data = data[part]
            kept.append(part)
    return tuple(kept)


def written(path: KeyPath, data: Any) -> KeyPath:
    """`path` as the file spells it: without the index of a list that the file writes as one value."""
    kept: list[str | int] = []
    for part in path:
        if isinstance(part, str) or isinstance(data, list):
            kept.append(part)
            data = lookup((part,), data)
    return tuple(kept)


def lookup(path: KeyPath, data: Any) -> Any:
    """The value at `path`, or None where there is none."""
    for part in path:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            return None
    return data


def show(value: Any) -> str:
    """A value as a person would write it in the file, cut to one short line."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= 60 else f'{text[:56]}..."'
