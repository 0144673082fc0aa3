"""What pydantic refuses, in our words: what was got, what may stand there, and the fix."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from rnow_core.config.problems import KeyPath, Problem, lookup, present, show
from rnow_core.config.schema_tree import choices, describe, expected
from rnow_core.config.suggest import for_unknown_key, nearest


def explain(error: ValidationError, data: Mapping[str, Any]) -> list[Problem]:
    """One problem a key. Of a union's complaints about one value the innermost is kept."""
    problems: dict[KeyPath, Problem] = {}
    for details in error.errors(include_url=False, include_context=False):
        problem = _problem(details, data)
        problems.setdefault(problem.path, problem)
    return [p for p in problems.values() if not any(_inside(other, p.path) for other in problems)]


def _inside(inner: KeyPath, outer: KeyPath) -> bool:
    return len(inner) > len(outer) and inner[: len(outer)] == outer


def _problem(details: ErrorDetails, data: Mapping[str, Any]) -> Problem:
    loc = details["loc"]
    if details["type"] == "missing":
        path = (*present(loc[:-1], data), loc[-1])
        return Problem("RN102", path, f"`{loc[-1]}` is required", describe(path))
    path = present(loc, data)
    if details["type"] == "extra_forbidden":
        return Problem("RN101", path, f"unknown key `{path[-1]}`", for_unknown_key(path))
    value = lookup(path, data)
    message = f"expected {expected(path)}, got {show(value)}"
    return Problem("RN103", path, message, _hint(path, value), at="value")


def _hint(path: KeyPath, value: Any) -> str:
    """The likeliest fix, or else what the key means."""
    words = choices(path)
    if isinstance(value, str):
        word = nearest(value, words)
        if word:
            return f"did you mean `{word}`?"
        if "number" in expected(path) and _is_number(value):
            return f"write {value} without the quotes"
    if isinstance(value, float) and value.is_integer() and "whole number" in expected(path):
        return f"write {int(value)}"
    if value is None:
        return "remove the line to get the default"
    return describe(path)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
