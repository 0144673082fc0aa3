"""Data -> `Config` and everything wrong with it at once."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rnow_core.config.advice import advice
from rnow_core.config.explain import explain
from rnow_core.config.problems import KeyPath, Problem, lookup, written
from rnow_core.config.rules import contradictions
from rnow_core.config.schema import Config, merge
from rnow_core.config.stages import disagreements, holds_in_stages


@dataclass(frozen=True, slots=True)
class Checked:
    """`config` is None when a problem is an error."""

    config: Config | None
    problems: tuple[Problem, ...]


def check(data: dict[str, Any], root: Path | None = None) -> Checked:
    """Validate data in today's spelling. `root`: the folder that relative model paths start from."""
    stages = data.get("stages")
    if isinstance(stages, list) and stages:
        problems = _dedupe(_staged(data, stages, root))
    else:
        problems = _dedupe(_whole(data, root))
    wrong = any(problem.severity == "error" for problem in problems)
    return Checked(None if wrong else Config.model_validate(data), problems)


def _dedupe(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    return tuple({(p.code, p.path, p.message): p for p in problems}.values())


def _whole(data: dict[str, Any], root: Path | None, rules: bool = True) -> list[Problem]:
    """The problems of one config without regard to its stages."""
    try:
        config: Config | None = Config.model_validate(data)
        problems: list[Problem] = []
    except ValidationError as error:
        problems = explain(error, data)
        config = _salvage(data, problems)
    if config is None or not rules:
        return problems
    bad = [problem.path for problem in problems]
    found = contradictions(config, root)
    found += [] if found or problems else advice(config)
    return problems + [problem for problem in found if not _rests_on(problem, bad, data)]


def _rests_on(problem: Problem, bad: list[KeyPath], data: Mapping[str, Any]) -> bool:
    """True when the statement is about a key whose value was refused already."""
    keys = [written(path, data) for path in (problem.path, *problem.also)]
    return any(key[: len(path)] == path[: len(key)] for key in keys for path in bad)


def _salvage(data: dict[str, Any], problems: list[Problem]) -> Config | None:
    """The config without its refused keys, so that the rules can speak of the others in the same report."""
    rest = copy.deepcopy(data)
    for problem in problems:
        if problem.path in ((), ("dataset_type",)):
            return None
        _remove(rest, problem)
    try:
        return Config.model_validate(rest)
    except ValidationError:
        return None


def _remove(data: dict[str, Any], problem: Problem) -> None:
    path = problem.path
    parent = lookup(path[:-1], data)
    if problem.code == "RN102" and isinstance(parent, dict):
        parent[path[-1]] = {"path": "?"} if path == ("model",) else "?"
    elif isinstance(parent, list):
        _remove(data, replace(problem, path=path[:-1]))
    elif isinstance(parent, dict):
        parent.pop(path[-1], None)


def _staged(data: dict[str, Any], stages: list[Any], root: Path | None) -> list[Problem]:
    """The problems of the base alone, of each stage on it, and between the stages."""
    alone = _whole(data, None, rules=False)
    found = [_stage(data, stage, index, root) for index, stage in enumerate(stages)]
    problems = [*alone, *holds_in_stages(found, alone)]
    if any(problem.severity == "error" for problem in problems):
        return problems
    configs = Config.model_validate(data).stage_configs()
    return [*problems, *disagreements(configs, stages)]


def _stage(data: dict[str, Any], stage: Any, index: int, root: Path | None) -> list[Problem]:
    """The problems of a stage on the base; a key that the stage writes itself is named as the stage's."""
    if not isinstance(stage, dict):
        return []
    prefix: KeyPath = ("stages", index)
    nested = Problem("RN101", (*prefix, "stages"), "a stage has no stages of its own", "list them in a row")
    base = {key: value for key, value in data.items() if key != "stages"}
    overlay = {key: value for key, value in stage.items() if key != "stages"}
    problems = [_in_stage(problem, prefix, overlay) for problem in _whole(merge(base, overlay), root)]
    return [nested, *problems] if "stages" in stage else problems


def _in_stage(problem: Problem, prefix: KeyPath, overlay: Mapping[str, Any]) -> Problem:
    def place(path: KeyPath) -> KeyPath:
        return (*prefix, *path) if _has(overlay, written(path, overlay)) else path

    return replace(problem, path=place(problem.path), also=tuple(place(path) for path in problem.also))


def _has(data: Any, path: KeyPath) -> bool:
    """True when the key is written in `data`, whatever its value."""
    above = lookup(path[:-1], data)
    return path[-1] in above if isinstance(above, dict) else lookup(path, data) is not None
