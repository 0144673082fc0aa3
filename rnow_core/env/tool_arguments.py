"""Whether the arguments of a call fit the tool's schema, and how to say to the model that they do not."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from rnow_core.errors import RnowError

MAX_PROBLEMS = 5
_SHOWN = 80
_NAMES = {
    "string": "text",
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}


class ArgumentCheck:
    """Checks the arguments of one tool against its JSON schema.

    Raises RnowError where the schema is none (tools of MCP servers bring their own).
    """

    def __init__(self, name: str, parameters: Mapping[str, Any]) -> None:
        kind = validator_for(parameters, default=Draft202012Validator)
        try:
            kind.check_schema(parameters)
        except SchemaError as error:
            raise RnowError(
                f"the parameters of the tool `{name}` are no JSON schema: {error.message}"
            ) from error
        self._name = name
        self._known = list(parameters.get("properties", {}))
        # With a registry of its own, a `$ref` to an address is an error instead of a download.
        registry: Registry[Any] = Registry()
        self._validator = kind(parameters, registry=registry)

    def problem(self, arguments: Any) -> str:
        """What is wrong, for the model: the parameter, what came, what was expected. "" when nothing is."""
        if not isinstance(arguments, Mapping):
            got = f"{_kind(arguments)} {_shown(arguments)}"
            return self._not_called([f"expected an object with its parameters, got {got}"])
        try:
            errors = sorted(
                self._validator.iter_errors(arguments), key=lambda error: list(map(str, error.path))
            )
        except (Unresolvable, RecursionError) as error:
            return self._not_called([f"its schema cannot be followed ({type(error).__name__})"])
        return self._not_called(dict.fromkeys(self._describe(error) for error in errors)) if errors else ""

    def _not_called(self, problems: Iterable[str]) -> str:
        listed = list(problems)
        more = f"; and {len(listed) - MAX_PROBLEMS} more" if len(listed) > MAX_PROBLEMS else ""
        return f"`{self._name}` was not called: {'; '.join(listed[:MAX_PROBLEMS])}{more}"

    def _describe(self, error: ValidationError) -> str:
        where = _where(error)
        schema: Any = error.schema
        if error.validator == "required":
            return self._missing(error, where)
        if error.validator == "additionalProperties" and schema["additionalProperties"] is False:
            return self._unknown(error, where)
        if error.validator in ("minItems", "maxItems"):
            bound = "at least" if error.validator == "minItems" else "at most"
            return f"`{where}` has {len(error.instance)} items, expected {bound} {error.validator_value}"
        if error.validator in ("type", "enum", "anyOf"):
            got = f"{_shown(error.instance)} ({_kind(error.instance)})"
            return f"`{where}` is {got}, expected {_expected(schema)}"
        return f"`{where}`: {error.message[:200]}" if where else error.message[:200]

    def _missing(self, error: ValidationError, where: str) -> str:
        schema: Any = error.schema
        names = [name for name in schema["required"] if name not in error.instance]
        listed = ", ".join(
            f"`{_join(where, name)}` ({_expected(schema.get('properties', {}).get(name, {}))})"
            for name in names
        )
        return f"missing {'parameter' if len(names) == 1 else 'parameters'} {listed}"

    def _unknown(self, error: ValidationError, where: str) -> str:
        schema: Any = error.schema
        known = list(schema.get("properties", {}))
        said = []
        for name in error.instance:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                said.append(f"`{_join(where, name)}`" + (f" (did you mean `{close[0]}`?)" if close else ""))
        there = f"there is {', '.join(f'`{name}`' for name in known)}" if known else "it takes none"
        return f"unknown {'parameter' if len(said) == 1 else 'parameters'} {', '.join(said)}: {there}"


def _where(error: ValidationError) -> str:
    where = ""
    for step in error.absolute_path:
        where = f"{where}[{step}]" if isinstance(step, int) else _join(where, str(step))
    return where


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _expected(schema: Any) -> str:
    """A schema in few words."""
    if not isinstance(schema, Mapping):
        return "something else"
    if "enum" in schema:
        return f"one of {', '.join(map(_shown, schema['enum']))}"
    if "anyOf" in schema:
        return " or ".join(_expected(option) for option in schema["anyOf"])
    kinds = schema.get("type")
    if isinstance(kinds, str):
        kinds = [kinds]
    if not isinstance(kinds, list):
        return "any value"
    items = schema.get("items")
    of = f" of {_expected(items)}" if kinds == ["array"] and isinstance(items, Mapping) else ""
    return " or ".join(_NAMES.get(kind, str(kind)) for kind in kinds) + of


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return "null" if value is None else "true or false"
    kinds = {str: "text", int: "an integer", float: "a number", list: "a list", dict: "an object"}
    return kinds.get(type(value), type(value).__name__)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
