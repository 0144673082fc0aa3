"""Older names of keys: accepted, translated, and noted."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rnow_core.config.problems import KeyPath, Problem, dotted

CHARACTERS_A_TOKEN = 4


def _tokens(characters: Any) -> Any:
    """Characters as tokens; anything but a whole number is left for the schema to refuse."""
    whole = isinstance(characters, int) and not isinstance(characters, bool)
    return -(-characters // CHARACTERS_A_TOKEN) if whole else characters


@dataclass(frozen=True, slots=True)
class Renamed:
    """An older key of a section and what it is called now."""

    section: str
    old: str
    new: str
    note: str = ""
    convert: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True, slots=True)
class Ignored:
    """A key of other systems that has no effect here. `section` is empty at the top level."""

    section: str
    key: str
    reason: str


RENAMED = (
    Renamed("rollout", "thinking_mode", "reasoning_mode"),
    Renamed("rollout", "rollout_timeout", "deadline"),
    Renamed(
        "rollout",
        "max_tool_response_chars",
        "max_tool_response",
        f"counted in tokens now: {CHARACTERS_A_TOKEN} characters were taken as one",
        _tokens,
    ),
)
IGNORED = (
    Ignored("", "project_id", "runs are local and have no project id"),
    Ignored("", "organization_id", "runs are local and have no organization"),
    Ignored("", "dataset_id", "the data is what data.train_file names"),
    Ignored("", "dataset_name", "the data is what data.train_file names"),
    Ignored(
        "", "docker_cmd", "a container starts with its image's own command; rows name the image as `docker`"
    ),
    Ignored("teacher", "agentic", "a row is agentic when its tools resolve and rollout.max_turns is above 1"),
    Ignored("model", "name", "the trained model lies in the run's folder"),
    Ignored("model", "description", "the trained model lies in the run's folder"),
    Ignored("trainer", "max_billing", "runs are local and cost nothing to others; see trainer.max_steps"),
)


@dataclass(slots=True)
class Translated:
    """Data in today's names. `moved`: current path -> the older one that the file has."""

    data: dict[str, Any]
    moved: dict[KeyPath, KeyPath] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def translate(data: dict[str, Any]) -> Translated:
    """A copy of `data` (stages included) with older keys renamed or dropped."""
    result = Translated(copy.deepcopy(data))
    stages = result.data.get("stages")
    roots: list[tuple[KeyPath, Any]] = [((), result.data)]
    roots += [(("stages", i), s) for i, s in enumerate(stages)] if isinstance(stages, list) else []
    for prefix, root in roots:
        for renamed in RENAMED:
            for path, section in _sections(root, prefix, renamed.section):
                _rename(result, path, section, renamed)
        for ignored in IGNORED:
            for path, section in _sections(root, prefix, ignored.section):
                _drop(result, path, section, ignored)
    return result


def _sections(root: Any, prefix: KeyPath, name: str) -> Iterator[tuple[KeyPath, dict[str, Any]]]:
    """The mappings that are this section: none, one, or the elements of a list of teachers."""
    value = root if not name else root.get(name) if isinstance(root, dict) else None
    path = (*prefix, name) if name else prefix
    elements = [((*path, i), v) for i, v in enumerate(value)] if isinstance(value, list) else [(path, value)]
    for place, element in elements:
        if isinstance(element, dict):
            yield place, element


def _rename(result: Translated, path: KeyPath, section: dict[str, Any], renamed: Renamed) -> None:
    if renamed.old not in section:
        return
    old, new = (*path, renamed.old), (*path, renamed.new)
    value = renamed.convert(section.pop(renamed.old))
    if renamed.new in section:
        message = f"`{dotted(old)}` is the older name of `{dotted(new)}`, and both are set"
        result.problems.append(Problem("RN109", old, message, f"keep {dotted(new)}", also=(new,)))
        return
    section[renamed.new] = value
    result.moved[new] = old
    message = f"`{renamed.old}` is an older name of `{dotted(new)}`"
    hint = f"rename it to {renamed.new}"
    if renamed.note:
        message, hint = f"{message}, {renamed.note}", f"write {renamed.new}: {value}"
    result.problems.append(Problem("RN107", old, message, hint, "warning"))


def _drop(result: Translated, path: KeyPath, section: dict[str, Any], ignored: Ignored) -> None:
    if ignored.key in section:
        del section[ignored.key]
        message = f"`{ignored.key}` has no effect here: {ignored.reason}"
        result.problems.append(Problem("RN108", (*path, ignored.key), message, "remove it", "info"))
