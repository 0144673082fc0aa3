"""How the text of a region becomes a value: the content parsers of a `response_template`, version 1."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from rnow_core.data.tool_calls.strict_json import Malformed, whole_json

_BARE_KEY = re.compile(r"(?<=[{,])(\s*)(\w+):")
_PLACEHOLDER = re.compile(r"\{(\w+(?:\.\w+)*)\}")


def _text(text: str, arguments: Mapping[str, Any]) -> str:
    return text.strip() if arguments.get("strip", True) else text


def _number(kind: Callable[[str], Any]) -> Callable[[str, Mapping[str, Any]], Any]:
    def read(text: str, arguments: Mapping[str, Any]) -> Any:
        try:
            return kind(text.strip())
        except ValueError as error:
            raise Malformed(str(error)) from error

    return read


def _bool(text: str, arguments: Mapping[str, Any]) -> bool:
    return text.strip().lower() in ("true", "1")


def _json(text: str, arguments: Mapping[str, Any]) -> Any:
    """JSON with the dialect's own string marks and bare keys brought to JSON first."""
    try:
        return whole_json(_plain_json(text, arguments))
    except Malformed:
        if arguments.get("allow_non_json"):
            return text.strip()
        raise


def _plain_json(text: str, arguments: Mapping[str, Any]) -> str:
    """Strings in marks of their own are cut out before the keys between them are quoted."""
    marks = arguments.get("string_delims", [])
    if not marks:
        return _BARE_KEY.sub(r'\1"\2":', text) if arguments.get("unquoted_keys") else text
    string = "|".join(f"{re.escape(opens)}(.*?){re.escape(closes)}" for opens, closes in marks)
    pieces, position = [], 0
    for found in re.finditer(string, text, re.DOTALL):
        pieces += [text[position : found.start()], next(g for g in found.groups() if g is not None)]
        position = found.end()
    pieces.append(text[position:])
    bare = arguments.get("unquoted_keys")
    return "".join(
        json.dumps(piece) if i % 2 else (_BARE_KEY.sub(r'\1"\2":', piece) if bare else piece)
        for i, piece in enumerate(pieces)
    )


def _xml_inline(text: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Tags to an object; a key that stands twice is malformed unless the template wants a list."""
    values: dict[str, Any] = {}
    for found in re.finditer(arguments["tag_pattern"], text, re.DOTALL):
        key, value = found.group("key"), _inner(found.group("value") or "", arguments)
        if key not in values:
            values[key] = value
        elif not arguments.get("merge_duplicates"):
            raise Malformed(f"the parameter {key!r} is given twice")
        else:
            values[key] = [*(values[key] if isinstance(values[key], list) else [values[key]]), value]
    return values


def _kv_lines(text: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    separator = arguments.get("kv_sep", ":")
    for line in text.split(arguments.get("line_sep", "\n")):
        key, found, value = line.partition(separator)
        if found:
            values[_text(key, arguments)] = _inner(_text(value, arguments), arguments)
    return values


def _inner(text: str, arguments: Mapping[str, Any]) -> Any:
    parser = arguments.get("value_parser")
    return text if parser is None else CONTENT[parser.get("name", "text")](text, parser.get("args", {}))


CONTENT: dict[str, Callable[[str, Mapping[str, Any]], Any]] = {
    "text": _text,
    "int": _number(int),
    "float": _number(float),
    "bool": _bool,
    "json": _json,
    "xml-inline": _xml_inline,
    "kv-lines": _kv_lines,
}


def check_content(name: str, arguments: Mapping[str, Any]) -> None:
    """Raises ValueError, KeyError, TypeError or re.error for a parser that could fail on some text."""
    if name not in CONTENT:
        raise ValueError(f"unknown content {name!r}, expected one of {', '.join(CONTENT)}")
    if name == "xml-inline" and not {"key", "value"} <= set(re.compile(arguments["tag_pattern"]).groupindex):
        raise ValueError(f"the tag_pattern {arguments['tag_pattern']!r} has no groups key and value")
    if arguments.get("value_parser") is not None:
        inner = arguments["value_parser"]
        check_content(inner.get("name", "text"), inner.get("args", {}))
    with suppress(Malformed):
        CONTENT[name]("a:b", arguments)


def filled(value: Any, transform: Any, each: bool, captures: Mapping[str, str]) -> Any:
    """The transform with its placeholders replaced: by `content` and captures, or for each item by its keys.

    Raises Malformed for a placeholder that the value does not have.
    """
    if transform is None:
        return value
    if not each:
        return _fill(transform, {**captures, "content": value})
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise Malformed("expected a JSON list of objects")
    return [_fill(transform, {**captures, **item}) for item in value]


def _fill(transform: Any, scope: Mapping[str, Any]) -> Any:
    if isinstance(transform, dict):
        return {key: _fill(value, scope) for key, value in transform.items()}
    if isinstance(transform, list):
        return [_fill(value, scope) for value in transform]
    found = _PLACEHOLDER.fullmatch(transform) if isinstance(transform, str) else None
    if found is None:
        return transform
    value: Any = scope
    for key in found.group(1).split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise Malformed(f'the call has no "{key}"')
        value = value[key]
    return value
