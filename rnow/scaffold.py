"""From a template to files on disk: first a plan, then, when nothing is in the way, the writing.

Nothing is ever deleted. A file that is there already and has the same bytes is left alone, so that a second
`init` changes nothing.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rnow.render import SUFFIX, render
from rnow.skills import Skill
from rnow_core.errors import RnowError, WouldOverwrite

SKILL_HOMES = (".claude/skills", ".agents/skills")
NOT_PART = {".gitkeep", ".DS_Store", "__pycache__"}

State = Literal["create", "identical", "conflict", "blocked"]
"""`conflict`: a file with other bytes is there. `blocked`: something that writing a file cannot replace."""


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file of the project-to-be; `path` is relative to the project, with forward slashes."""

    path: str
    content: bytes
    executable: bool
    state: State


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that `init` would write below `target`."""

    target: Path
    files: tuple[PlannedFile, ...]

    def paths(self, *states: State) -> list[str]:
        """The paths that are in one of these states."""
        return [file.path for file in self.files if file.state in states]


def plan_project(template: Path, skill: Skill | None, target: Path, context: Mapping[str, Any]) -> Plan:
    """Render everything in memory and compare it with what is in `target`. Writes nothing.

    `*.j2` files are rendered with `context`; every other file is copied byte for byte. The skill is copied to
    where AI assistants look for skills.
    """
    files = [_from_template(template, name, target, context) for name in _walk(template)]
    if skill is not None:
        names = list(_walk(skill.folder))
        for home in SKILL_HOMES:
            files += [_copied(skill.folder, name, target, f"{home}/{skill.name}/{name}") for name in names]
    return Plan(target, tuple(files))


def write_project(plan: Plan, force: bool) -> None:
    """Write what is missing; with `force` also what differs. Raises WouldOverwrite before the first write."""
    raise_if_in_the_way(plan, force)
    for file in plan.files:
        if file.state != "identical":
            _write(plan.target / file.path, file)


def raise_if_in_the_way(plan: Plan, force: bool) -> None:
    """Raise WouldOverwrite naming every file that stands in the way."""
    if blocked := plan.paths("blocked"):
        raise WouldOverwrite(
            f"A file cannot be written where a folder is, or below a file: {', '.join(blocked)}",
            "Move it away, or choose another DIR. --force does not delete.",
        )
    if not force and (conflicts := plan.paths("conflict")):
        raise WouldOverwrite(
            f"{plan.target} has other files of the same name: {', '.join(conflicts)}. Nothing was written.",
            "Choose another DIR, or overwrite them with --force.",
        )


def _walk(folder: Path) -> Iterator[str]:
    """Every file of a template or skill, relative to its folder."""
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.is_file() and not NOT_PART.intersection(relative.parts):
            yield relative.as_posix()


def _from_template(template: Path, name: str, target: Path, context: Mapping[str, Any]) -> PlannedFile:
    if not name.endswith(SUFFIX):
        return _copied(template, name, target, name)
    content = render(template, name, context).encode()
    return _planned(template / name, target, name.removesuffix(SUFFIX), content)


def _copied(folder: Path, name: str, target: Path, path: str) -> PlannedFile:
    source = folder / name
    return _planned(source, target, path, source.read_bytes())


def _planned(source: Path, target: Path, path: str, content: bytes) -> PlannedFile:
    executable = bool(source.stat().st_mode & 0o100)
    return PlannedFile(path, content, executable, _state(target, path, content))


def _state(target: Path, path: str, content: bytes) -> State:
    place = target / path
    above = [target, *(target / parent for parent in Path(path).parents)]
    if place.is_dir() or any(os.path.lexists(parent) and not parent.is_dir() for parent in above):
        return "blocked"
    if not os.path.lexists(place):
        return "create"
    return "identical" if place.is_file() and place.read_bytes() == content else "conflict"


def _write(path: Path, file: PlannedFile) -> None:
    """Write the file whole or not at all: into a temporary neighbour, then rename."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(file.content)
            Path(temporary).chmod((0o777 if file.executable else 0o666) & ~_umask())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RnowError(
            f"{path} cannot be written: {error.strerror}",
            "Files written so far are complete; run the same command again once this is fixed.",
        ) from error


def _umask() -> int:
    """The process's umask; the only way to read it is to set it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
