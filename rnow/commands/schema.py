"""`rnow schema`: the JSON Schema of config.yml, or one of its keys explained."""

from __future__ import annotations

import difflib
import json
import sys
from typing import Any

from rnow.display import console
from rnow_core.config.schema import json_schema
from rnow_core.config.schema_tree import describe, expected, keys_of, node_at
from rnow_core.errors import UsageError


def schema(field: str, as_json: bool) -> int:
    """Print the whole schema as JSON, or one key for people (`as_json`: as data)."""
    if not field:
        console.document(json_schema())
        return 0
    facts = field_facts(field)
    if as_json:
        console.document(facts)
    else:
        _show(facts)
    return 0


def field_facts(field: str) -> dict[str, Any]:
    """What is known of the key `a.b`: description, expected value, default, the keys below.

    `default` is missing where the key is required or has keys below. An unknown key is a usage error.
    """
    path = tuple(field.split("."))
    node = node_at(path)
    if node is None:
        raise UsageError(f"config.yml has no key '{field}'.", _suggest(path))
    below = {key: describe((*path, key)) for key in keys_of(path)}
    facts: dict[str, Any] = {"field": field, "description": describe(path), "expected": expected(path)}
    if "default" in node:
        facts["default"] = node["default"]
    facts["required"] = "default" not in node and not below
    return {**facts, "keys": below}


def _suggest(path: tuple[str, ...]) -> str:
    """The closest key, or the keys of the deepest part that exists."""
    known = next(depth for depth in reversed(range(len(path))) if node_at(path[:depth]) is not None)
    names, above = keys_of(path[:known]), ".".join(path[:known])
    close = difflib.get_close_matches(path[known], names, n=1)
    if close:
        return f"Did you mean '{'.'.join([*path[:known], close[0]])}'?"
    if not names:
        return f"'{above}' has no keys below it."
    return f"Keys {f'below {above!r}' if above else 'at the top'}: {', '.join(names)}"


def _show(facts: dict[str, Any]) -> None:
    colour = console.coloured(sys.stdout)
    console.out(console.paint(facts["field"], "bold", colour))
    console.out(f"  {facts['description']}")
    if not facts["keys"] or "default" in facts:
        default = "none, the key is required" if facts["required"] else json.dumps(facts["default"])
        console.out(f"  expected: {facts['expected']}")
        console.out(f"  default: {default}")
    width = max(map(len, facts["keys"]), default=0)
    for name, description in facts["keys"].items():
        console.out(f"    {console.paint(name.ljust(width), 'bold', colour)}  {description}")
