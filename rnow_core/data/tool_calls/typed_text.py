"""Argument values that a format writes as bare text, brought to the type that the tool's schema declares."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rnow_core.data.tool_calls.records import ToolSchemas
from rnow_core.data.tool_calls.strict_json import Malformed, whole_json

_PYTHON_WORDS = {"True": True, "False": False, "None": None}
_TYPES = {bool: "boolean", int: "integer", float: "number", dict: "object", list: "array", type(None): "null"}


def parameter_schemas(tools: ToolSchemas | None, name: str) -> Mapping[str, Any]:
    """The schemas of a tool's parameters; empty for a tool that is not there."""
    for tool in tools or ():
        function = tool.get("function", tool)
        if function.get("name") == name:
            properties = (function.get("parameters") or {}).get("properties")
            return properties if isinstance(properties, Mapping) else {}
    return {}


def typed(text: str, schema: Any) -> Any:
    """The value in its declared type; the text itself where it has none of them (the check of it says so).

    Where text is allowed it stays text, except `null`. Templates write Python's True, False and None.
    """
    allowed = _declared(schema)
    word = text.strip()
    if word in _PYTHON_WORDS:
        value = _PYTHON_WORDS[word]
    else:
        try:
            value = whole_json(text)
        except Malformed:
            return text
    kind = _TYPES.get(type(value), "string")
    if "string" in allowed:
        return None if kind == "null" and "null" in allowed else text
    fits = kind in allowed or (kind == "integer" and "number" in allowed)
    return value if fits and kind != "string" else text


def _declared(schema: Any) -> set[str]:
    """The types that a schema allows, through unions; all but text where it declares none."""
    if not isinstance(schema, Mapping):
        return {"string"}
    given = schema.get("type")
    found = {given} if isinstance(given, str) else set(given or ())
    for choice in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        found |= _declared(choice)
    if "enum" in schema and not found:
        found = {_TYPES.get(type(value), "string") for value in schema["enum"]}
    if schema.get("nullable"):
        found.add("null")
    return found or set(_TYPES.values())
