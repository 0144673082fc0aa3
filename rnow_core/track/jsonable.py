"""JSON text that every reader accepts: no NaN, no Infinity, one form for numpy scalars and paths."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any


def dumps(data: Any, indent: int | None = None) -> str:
    """`data` as strict JSON. Non-finite floats become null.

    Args:
        data: dicts, lists, tuples, sets, dataclasses, paths, scalars (numpy's too).
        indent: spaces a level; None gives a single line, as JSON lines need it.
    """
    try:
        return _encode(data, indent)
    except (ValueError, TypeError):
        return _encode(jsonable(data), indent)


def jsonable(value: Any) -> Any:
    """A copy of `value` that holds only what JSON knows; TypeError for what has no representation."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    return _convert(value)


def _encode(data: Any, indent: int | None) -> str:
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(data, ensure_ascii=False, allow_nan=False, indent=indent, separators=separators)


def _convert(value: Any) -> Any:
    """The rarer types, and numpy's scalars through their `item` method."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(jsonable(item) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return jsonable(asdict(value))
    if hasattr(value, "item"):
        return jsonable(value.item())
    raise TypeError(f"{type(value).__name__} has no JSON form: {value!r}")
