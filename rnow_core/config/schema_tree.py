"""Questions to the schema: which keys exist where, and what a value there may be, in words."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from rnow_core.config.problems import KeyPath
from rnow_core.config.schema import json_schema

Node = dict[str, Any]


@cache
def _schema() -> Node:
    return json_schema()


def _alternatives(node: Node) -> Iterator[Node]:
    """The node itself, or what it refers to, or the members of its union."""
    if "$ref" in node:
        yield from _alternatives(_schema()["$defs"][node["$ref"].rsplit("/", 1)[1]])
    elif "anyOf" in node:
        for member in node["anyOf"]:
            yield from _alternatives(member)
    else:
        yield node


def _step(node: Node, part: str | int) -> Node | None:
    """The node of one key or element below; a key reaches through a list to its elements."""
    for option in _alternatives(node):
        if isinstance(part, str) and part in option.get("properties", {}):
            return dict(option["properties"][part])
        if isinstance(part, int) and "items" in option:
            return dict(option["items"])
    return node if isinstance(part, int) else None


def node_at(path: KeyPath) -> Node | None:
    """The schema of the value at `path`, or None when there is no such key."""
    node: Node | None = _schema()
    for part in path:
        node = _step(node, part) if node is not None else None
    return node


def keys_of(path: KeyPath) -> list[str]:
    """The keys that may stand in the mapping at `path`."""
    node = node_at(path)
    options = _alternatives(node) if node is not None else iter(())
    return list(dict.fromkeys(key for option in options for key in option.get("properties", {})))


@cache
def all_keys() -> tuple[tuple[str, ...], ...]:
    """Every key of the schema as a path, list indices left out."""

    def below(path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for key in keys_of(path):
            yield (*path, key)
            yield from below((*path, key))

    return tuple(below(()))


def describe(path: KeyPath) -> str:
    """The description of the key at `path`, or an empty string; an element of a list has its list's."""
    while path and isinstance(path[-1], int):
        path = path[:-1]
    return str((node_at(path) or {}).get("description", ""))


def choices(path: KeyPath) -> list[str]:
    """The words that may stand at `path`, when it is a choice of words."""
    node = node_at(path)
    values = [v for option in _alternatives(node or {}) for v in option.get("enum", [option.get("const")])]
    return [value for value in values if isinstance(value, str)]


def expected(path: KeyPath) -> str:
    """What may stand at `path`, in words: `a whole number of at least 1, or null`."""
    node = node_at(path)
    return " or ".join(dict.fromkeys(_words(option) for option in _alternatives(node or {})))


def _words(option: Node) -> str:
    if "enum" in option or "const" in option:
        values = option.get("enum", [option.get("const")])
        texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
        return texts[0] if len(texts) == 1 else f"one of {', '.join(texts)}"
    kind = option.get("type")
    if kind in ("integer", "number"):
        return _number(option)
    if kind == "array":
        return f"a list of {'mappings' if '$ref' in option['items'] else _plural(option['items'])}"
    if kind == "string" and "pattern" in option:
        return f"a text such as {' or '.join(option['examples'])}"
    words = {"string": "a text", "boolean": "true or false", "null": "null", "object": "a mapping"}
    return words.get(str(kind), "a value")


def _number(option: Node) -> str:
    bounds = {
        "minimum": "of at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    limits = [f"{text} {option[name]:g}" for name, text in bounds.items() if name in option]
    noun = "a whole number" if option["type"] == "integer" else "a number"
    return " ".join([noun, " and ".join(limits)]).strip()


def _plural(items: Node) -> str:
    kind = items.get("type")
    if kind == "integer":
        return _number(items).replace("a whole number", "whole numbers", 1)
    return {"string": "texts", "object": "mappings"}.get(str(kind), "values")
