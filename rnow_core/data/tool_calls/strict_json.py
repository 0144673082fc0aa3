"""JSON as models write it, read strictly: what is half, doubled or no number is described, never guessed."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, NoReturn

MAX_DEPTH = 100
"""Nesting that everything behind the parser (schema checks, templates, wire formats) can walk."""
_SPACE = re.compile(r"[ \t\r\n]*")
_KINDS = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}


class Malformed(ValueError):
    """A call that cannot be read. `resume` is where reading may go on, if that is known."""

    def __init__(self, what: str, resume: int | None = None) -> None:
        super().__init__(what)
        self.resume = resume


def skip_space(text: str, position: int) -> int:
    """The first position from `position` on that is no white space."""
    found = _SPACE.match(text, position)
    return found.end() if found else position


def json_at(text: str, position: int) -> tuple[Any, int]:
    """(value, end) of the JSON value at a position, white space before it skipped. Raises Malformed.

    Duplicate keys, NaN and infinite numbers, lone surrogates and nesting beyond MAX_DEPTH are malformed.
    """
    start = skip_space(text, position)
    try:
        value, end = _DECODER.raw_decode(text, start)
    except Malformed:
        raise
    except json.JSONDecodeError as error:
        raise Malformed(_described(error, start, len(text))) from error
    except RecursionError as error:
        raise Malformed(_TOO_DEEP) from error
    except ValueError as error:  # an integer with thousands of digits
        raise Malformed(f"invalid JSON: {error}") from error
    _check_values(value)
    return value, end


def whole_json(text: str) -> Any:
    """The JSON value that a text is. Raises Malformed."""
    value, end = json_at(text, 0)
    if skip_space(text, end) != len(text):
        raise Malformed(f"invalid JSON: text behind the value at character {end + 1}")
    return value


def call_of(value: Any, argument_keys: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """(name, arguments) of a call given as an object. Raises Malformed naming the key at fault."""
    if not isinstance(value, dict):
        raise Malformed(f"a call must be a JSON object, got {kind_of(value)}")
    if "name" not in value:
        raise Malformed('the call has no "name"')
    name = value["name"]
    if not isinstance(name, str) or not name.strip():
        raise Malformed(f'"name" must be a non-empty string, got {kind_of(name)}')
    given = [key for key in argument_keys if key in value]
    if not given:
        raise Malformed(f'the call of {name!r} has no "{argument_keys[0]}" (an object, {{}} for none)')
    if len(given) > 1:
        raise Malformed(f"the call of {name!r} has both {' and '.join(given)}")
    return name, arguments_of(value[given[0]])


def arguments_of(value: Any) -> dict[str, Any]:
    """Arguments as an object; a string is parsed as JSON, once. Raises Malformed."""
    if isinstance(value, str):
        value = whole_json(value) if value.strip() else {}
    if not isinstance(value, dict):
        raise Malformed(f"the arguments must be a JSON object, got {kind_of(value)}")
    return value


def kind_of(value: Any) -> str:
    """The name of a JSON value's type, with its article."""
    return _KINDS.get(type(value), "a number")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        twice = counts.most_common(1)[0][0]
        raise Malformed(f"invalid JSON: the key {twice!r} stands twice in one object")
    return found


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise Malformed(f"invalid JSON: the number {text[:40]} is out of range")
    return value


def _constant(text: str) -> NoReturn:
    raise Malformed(f"invalid JSON: {text} is no JSON number")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_float=_float, parse_constant=_constant)
_TOO_DEEP = f"the JSON is nested more than {MAX_DEPTH} deep"


def _described(error: json.JSONDecodeError, start: int, end: int) -> str:
    cut = error.pos >= end or error.msg.startswith("Unterminated string")
    ending = ", and the reply ends inside it" if cut else ""
    return f"invalid JSON at character {error.pos - start + 1} of the call ({error.msg}){ending}"


def _check_values(value: Any) -> None:
    """Raises Malformed for text that has no UTF-8 form and for too deep nesting."""
    level, depth = [value], 0
    while level:
        if depth > MAX_DEPTH:
            raise Malformed(_TOO_DEEP)
        below: list[Any] = []
        for item in level:
            if isinstance(item, str) and not _is_text(item):
                raise Malformed("invalid JSON: a \\u escape is half of a surrogate pair")
            if isinstance(item, dict):
                below += [*item, *item.values()]
            elif isinstance(item, list):
                below += item
        level, depth = below, depth + 1


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
