"""JSON schemas from type hints.

Python 3.8, standard library only: this file also runs inside sandboxes.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from .docstring import parse_docstring
from .hints import (
    DICTS,
    LISTS,
    NONE,
    SCALARS,
    SETS,
    BadHint,
    accepts_none,
    container,
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
from .values import to_json

_KNOWN = "str, int, float, bool, list, dict, tuple, Literal, an Enum, a dataclass, Optional or Union of these"


def schema_of(hint: Any, inside: tuple[Any, ...] = ()) -> dict[str, Any]:
    """The schema of a type. `inside`: the dataclasses around it. Raises BadHint where there is none."""
    hint, note = strip(hint)
    schema = _schema(hint, inside)
    return {**schema, "description": note} if note else schema


def property_of(hint: Any, text: str, default: Any, inside: tuple[Any, ...] = ()) -> dict[str, Any]:
    """The schema of a parameter or field. `default`: dataclasses.MISSING where it has none."""
    schema = schema_of(hint, inside)
    if default is None and not accepts_none(hint):
        schema = _nullable(schema)
    if text:
        schema["description"] = text
    if default is dataclasses.MISSING:
        return schema
    try:
        return {**schema, "default": json.loads(json.dumps(to_json(default), allow_nan=False))}
    except (TypeError, ValueError, RecursionError):
        return schema


def object_schema(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """An object with these properties and no others."""
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _schema(hint: Any, inside: tuple[Any, ...]) -> dict[str, Any]:
    if hint in (Any, object):
        return {}
    values = literals(hint)
    if values is not None:
        return _enum(hint, values)
    if isinstance(hint, type) and hint in SCALARS:
        return {"type": SCALARS[hint]}
    union = members(hint)
    if union:
        return _union(union, inside)
    if is_dataclass(hint):
        return _dataclass(hint, inside)
    if is_typed_dict(hint):
        keys, required = typed_dict_keys(hint)
        return object_schema({name: schema_of(key, inside) for name, key in keys.items()}, required)
    return _container(hint, inside)


def _container(hint: Any, inside: tuple[Any, ...]) -> dict[str, Any]:
    kind, arguments = container(hint)
    if kind in LISTS:
        return _array(arguments[:1], inside)
    if kind in SETS:
        return {**_array(arguments[:1], inside), "uniqueItems": True}
    if kind is tuple:
        return _tuple(arguments, inside)
    if kind in DICTS:
        if arguments and strip(arguments[0])[0] not in (str, Any):
            problem = f"`{name_of(hint)}` has keys of type {name_of(arguments[0])}"
            raise BadHint(problem, "JSON objects have text keys: write dict[str, ...]")
        value = schema_of(arguments[1], inside) if len(arguments) == 2 else {}
        return {"type": "object", "additionalProperties": value or True}
    raise BadHint(f"`{name_of(hint)}` has no JSON form", f"use {_KNOWN}")


def _array(arguments: tuple[Any, ...], inside: tuple[Any, ...]) -> dict[str, Any]:
    items = schema_of(arguments[0], inside) if arguments else {}
    return {"type": "array", "items": items} if items else {"type": "array"}


def _tuple(arguments: tuple[Any, ...], inside: tuple[Any, ...]) -> dict[str, Any]:
    if not arguments or (len(arguments) == 2 and arguments[1] is ...):
        return _array(arguments[:1], inside)
    arguments = () if arguments == ((),) else arguments
    items = [schema_of(item, inside) for item in arguments]
    size = len(items)
    return {"type": "array", "prefixItems": items, "minItems": size, "maxItems": size}


def _enum(hint: Any, values: list[Any]) -> dict[str, Any]:
    if not values or any(type(value) not in SCALARS for value in values):
        raise BadHint(f"`{name_of(hint)}` has values without a JSON form", "use text, numbers or booleans")
    kinds = list(dict.fromkeys(SCALARS[type(value)] for value in values))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": values}


def _union(union: list[Any], inside: tuple[Any, ...]) -> dict[str, Any]:
    schemas = [schema_of(member, inside) for member in union if member is not NONE]
    if {} in schemas:
        return {}
    if len(schemas) == 1:
        return _nullable(schemas[0])
    if all(set(schema) == {"type"} and isinstance(schema["type"], str) for schema in schemas):
        return {"type": [schema["type"] for schema in schemas] + ["null"] * (NONE in union)}
    return {"anyOf": schemas + [{"type": "null"}] * (NONE in union)}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    if "type" not in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]} if "anyOf" in schema else schema
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    wider = {**schema, "type": [kind for kind in kinds if kind != "null"] + ["null"]}
    if "enum" in schema:
        wider["enum"] = [value for value in schema["enum"] if value is not None] + [None]
    return wider


def _dataclass(hint: Any, inside: tuple[Any, ...]) -> dict[str, Any]:
    if hint in inside:
        raise BadHint(f"the dataclass `{hint.__name__}` contains itself", "use a dict for the inner one")
    written = hint.__doc__ or ""
    about, texts = parse_docstring("" if written.startswith(f"{hint.__name__}(") else written)
    properties, required = {}, []
    for name, (kind, field) in fields(hint).items():
        text = str(field.metadata.get("description") or texts.get(name, ""))
        properties[name] = property_of(kind, text, field.default, (*inside, hint))
        if not has_default(field):
            required.append(name)
    schema = object_schema(properties, required)
    return {**schema, "description": about} if about else schema
