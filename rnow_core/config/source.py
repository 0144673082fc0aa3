"""Where the data of a config came from: the file, an older spelling in it, or the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from rnow_core.config.problems import KeyPath, Problem, dotted, written
from rnow_core.config.yaml_file import Place
from rnow_core.errors import Finding, Severity

COMMAND_LINE = "command line"


class Location(NamedTuple):
    """A place for a finding; line and column count from 1 and are None on the command line."""

    file: str
    line: int | None
    col: int | None


@dataclass(frozen=True, slots=True)
class Source:
    """The origin of every key: `moved` maps a current key to the older one in the file."""

    file: str
    data: Mapping[str, Any]
    places: Mapping[KeyPath, Place]
    moved: Mapping[KeyPath, KeyPath] = field(default_factory=dict)
    overridden: frozenset[KeyPath] = frozenset()

    def find(self, path: KeyPath, at: Literal["key", "value"] = "key") -> Location | None:
        """Where this key stands, or None when it stands nowhere."""
        if any(path[:length] in self.overridden for length in range(1, len(path) + 1)):
            return Location(COMMAND_LINE, None, None)
        place = self.places.get(self.moved.get(path, path))
        if place is None:
            return None
        return Location(self.file, *(place.value if at == "value" else place.key))

    def locate(self, path: KeyPath, at: Literal["key", "value"] = "key") -> Location:
        """Where this key stands, or else its nearest parent, or else where the file begins."""
        path = written(path, self.data)
        for length in range(len(path), 0, -1):
            found = self.find(path[:length], at if length == len(path) else "key")
            if found:
                return found
        below = any(key[: len(path)] == path for key in self.overridden)
        return Location(COMMAND_LINE, None, None) if path and below else Location(self.file, 1, 1)

    def finding(self, problem: Problem) -> Finding:
        """The problem with its place; where its own key is not written, that of a key it rests on."""
        path = written(problem.path, self.data)
        others = (self.find(written(key, self.data)) for key in problem.also)
        here = self.find(path, problem.at) or next(filter(None, others), None) or self.locate(path)
        severity: Severity = problem.severity
        return Finding(
            problem.code, severity, problem.message, problem.hint, *here, path=dotted(path) or None
        )
