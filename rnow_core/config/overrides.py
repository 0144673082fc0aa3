"""`key.path=value` from the command line: parsed as YAML 1.2, applied before validation, echoed."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rnow_core.config.problems import KeyPath, Problem, dotted, lookup, show
from rnow_core.config.schema_tree import node_at
from rnow_core.config.spellings import translate
from rnow_core.config.yaml_file import parse


@dataclass(frozen=True, slots=True)
class Change:
    """One override as applied. `old` is what stood in the file, or the default where nothing stood."""

    path: str
    old: Any
    new: Any


@dataclass(slots=True)
class Overridden:
    """The data with the overrides applied; `paths` are the keys they set."""

    data: dict[str, Any]
    paths: list[KeyPath] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> Overridden:
    """A copy of `data` with each override set in turn; later ones win. Never raises.

    An override of the whole reaches all stages: it also replaces what a stage writes at that key.
    """
    result = Overridden(copy.deepcopy(data))
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = tuple(path.strip().split("."))
        if not equals or not all(keys):
            hint = "write key.path=value, for example trainer.max_steps=5"
            result.problems.append(Problem("RN106", (), f"cannot read the override {show(override)}", hint))
            continue
        parsed = parse(text)
        if parsed.faults:
            message = f"the value of the override {show(override)} is {parsed.faults[0].message}"
            result.problems.append(Problem("RN106", keys, message, "put the value in quotes"))
            continue
        _apply(result, keys, parsed.data)
    return result


def _apply(result: Overridden, keys: tuple[str, ...], value: Any) -> None:
    for part in reversed(keys[1:]):
        value = {part: value}
    translated = translate({keys[0]: value})
    result.problems += translated.problems
    for path, leaf in _leaves(translated.data, len(keys)):
        for place in [path, *_in_stages(path, result.data)]:
            problem = _set(result.data, place, copy.deepcopy(leaf))
            if problem:
                result.problems.append(problem)
            else:
                result.paths.append(_indexed(place, result.data))


def _in_stages(path: tuple[str, ...], data: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """The same key in each stage that writes it."""
    stages = data.get("stages")
    if path[0] == "stages" or not isinstance(stages, list):
        return
    for index, stage in enumerate(stages):
        above = lookup(_indexed(path[:-1], stage), stage)
        if isinstance(above, dict) and path[-1] in above:
            yield ("stages", str(index), *path)


def _leaves(data: dict[str, Any], depth: int) -> list[tuple[tuple[str, ...], Any]]:
    """The values `depth` keys deep; nothing when an ignored older key was all there was."""
    if depth == 1:
        return [((key,), value) for key, value in data.items()]
    return [((key, *rest), leaf) for key, below in data.items() for rest, leaf in _leaves(below, depth - 1)]


def _set(data: dict[str, Any], path: tuple[str, ...], value: Any) -> Problem | None:
    """Set `path` in `data`, making the mappings on the way."""
    here: Any = data
    for depth, part in enumerate(path):
        last = depth == len(path) - 1
        if isinstance(here, list):
            if not part.isdecimal() or int(part) >= len(here):
                above = ".".join(path[:depth])
                hint = f"write {'.'.join((*path[:depth], '0', *path[depth:]))} for the first of {len(here)}"
                return Problem(
                    "RN106", path, f"`{above}` is a list, and {show(part)} is not one of its indices", hint
                )
            key: Any = int(part)
        else:
            key = part
            if not last and here.get(key) is None:
                here[key] = {}
        if last:
            here[key] = value
        elif not isinstance(here[key], dict | list):
            above = ".".join(path[: depth + 1])
            message = f"`{above}` is {show(here[key])}, which has nothing below it"
            return Problem("RN106", path, message, f"set {above} itself")
        here = here[key]
    return None


def _indexed(path: tuple[str, ...], data: Any) -> KeyPath:
    """The path with its list indices as numbers."""
    kept: list[str | int] = []
    for part in path:
        kept.append(int(part) if isinstance(data, list) else part)
        data = lookup((kept[-1],), data)
    return tuple(kept)


def changes(paths: Sequence[KeyPath], before: Any, after: Any) -> list[Change]:
    """What to echo: each overridden path with its old value (or default) and its new one."""
    unique = list(dict.fromkeys(paths))
    return [Change(dotted(path), _old(path, before), lookup(path, after)) for path in unique]


def _old(path: KeyPath, before: Any) -> Any:
    value = lookup(path, before)
    return (node_at(path) or {}).get("default") if value is None else value
