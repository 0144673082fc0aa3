"""Skills: folders with a SKILL.md that is valid by the Agent Skills specification (https://agentskills.io).

A skill that owns a template says so in its frontmatter (`metadata.template`); its frontmatter and its
sections are then what the template is filled with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rnow_core.errors import RnowError

KEYS = ("name", "description", "license", "compatibility", "metadata", "allowed-tools")
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
MAX_NAME, MAX_DESCRIPTION, MAX_COMPATIBILITY = 64, 1024, 500
FRONTMATTER = re.compile(r"\A---\n(.*?)^---[ \t]*\n", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"(#{1,6})\s+(.+?)\s*#*")
FENCE = re.compile(r"\s{0,3}(`{3,}|~{3,})")


@dataclass(frozen=True, slots=True)
class Skill:
    """One skill. `sections` maps each heading's text to what stands under it, deeper headings included."""

    name: str
    description: str
    metadata: Mapping[str, str]
    sections: Mapping[str, str]
    folder: Path

    @property
    def template(self) -> str | None:
        """The template that this skill owns."""
        return self.metadata.get("template")

    def section(self, heading: str) -> str:
        """The text under a heading, without the heading itself. An unknown heading is an error."""
        if heading not in self.sections:
            raise RnowError(
                f"{self.folder / 'SKILL.md'} has no section '{heading}'.",
                f"It has: {', '.join(self.sections)}",
            )
        return self.sections[heading]

    def descriptor(self) -> dict[str, Any]:
        """What a template sees as `skill`; each metadata key is a name of its own beside these."""
        own = {"name": self.name, "description": self.description, "metadata": self.metadata}
        return {**self.metadata, **own, "sections": self.sections, "section": self.section}

    def commands(self, heading: str) -> list[str]:
        """The shell commands in a section's fenced blocks, without comments; none without such a section."""
        blocks = re.findall(
            r"^```(?:bash|sh)\n(.*?)^```", self.sections.get(heading, ""), re.DOTALL | re.MULTILINE
        )
        lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
        return [line for line in lines if line and not line.startswith("#")]


def load_skill(folder: Path) -> Skill:
    """Read `folder`/SKILL.md. Raises RnowError listing everything that breaks the specification."""
    path = folder / "SKILL.md"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RnowError(
            f"{path} cannot be read: {error.strerror}", "A skill is a folder with a SKILL.md."
        ) from error
    frontmatter, body = _split(path, text)
    problems = check_frontmatter(frontmatter, folder.name)
    if problems:
        listed = "\n".join(f"{path}: {problem}" for problem in problems)
        raise RnowError(listed, "The rules are at https://agentskills.io/specification")
    return Skill(
        name=frontmatter["name"],
        description=frontmatter["description"],
        metadata=frontmatter.get("metadata", {}),
        sections=split_sections(body),
        folder=folder,
    )


def check_frontmatter(data: Mapping[str, Any], folder_name: str) -> list[str]:
    """What breaks the Agent Skills specification; empty when nothing does."""
    problems = [f"unknown key '{key}'; allowed: {', '.join(KEYS)}" for key in data if key not in KEYS]
    problems += _check_name(data.get("name"), folder_name)
    problems += _check_text("description", data.get("description"), MAX_DESCRIPTION, required=True)
    problems += _check_text("compatibility", data.get("compatibility"), MAX_COMPATIBILITY)
    problems += _check_text("license", data.get("license"))
    problems += _check_text("allowed-tools", data.get("allowed-tools"))
    metadata = data.get("metadata", {})
    if not isinstance(metadata, dict):
        return [*problems, f"metadata must map strings to strings, got {type(metadata).__name__}"]
    for key, value in metadata.items():
        if not isinstance(key, str) or not isinstance(value, str):
            problems.append(f"metadata.{key} must be a string, got {value!r}; write it in quotes")
    return problems


def split_sections(body: str) -> dict[str, str]:
    """Heading -> the Markdown below it, up to the next heading of its level or above.

    A `#` line inside a fenced block is no heading. Of two equal headings the first counts.
    """
    lines = body.splitlines()
    headings = _headings(lines)
    sections: dict[str, str] = {}
    for position, (start, level, title) in enumerate(headings):
        rest = (line for line, other, _ in headings[position + 1 :] if other <= level)
        end = next(rest, len(lines))
        sections.setdefault(title, "\n".join(lines[start + 1 : end]).strip("\n"))
    return sections


def _headings(lines: list[str]) -> list[tuple[int, int, str]]:
    """(line index, level, title) of every heading outside fenced blocks."""
    found: list[tuple[int, int, str]] = []
    fence = ""
    for index, line in enumerate(lines):
        marker = FENCE.match(line)
        if fence:
            if marker and marker[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = ""
        elif marker:
            fence = marker[1]
        elif heading := HEADING.fullmatch(line):
            found.append((index, len(heading[1]), heading[2]))
    return found


def _split(path: Path, text: str) -> tuple[dict[str, Any], str]:
    """Frontmatter and body of a SKILL.md."""
    match = FRONTMATTER.match(text.replace("\r\n", "\n"))
    if match is None:
        raise RnowError(f"{path}:1: no frontmatter", "The file begins with '---', YAML, and a second '---'.")
    try:
        data = yaml.safe_load(match[1])
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 2 if error.problem_mark else 1
        raise RnowError(f"{path}:{line}: the frontmatter is not YAML: {error.problem}") from error
    if not isinstance(data, dict):
        raise RnowError(f"{path}:2: the frontmatter must be a mapping, got {type(data).__name__}")
    return data, match.string[match.end() :]


def _check_name(name: object, folder_name: str) -> list[str]:
    if not isinstance(name, str) or not NAME.fullmatch(name) or len(name) > MAX_NAME:
        return [f"name must be 1-{MAX_NAME} lower-case letters, digits and single hyphens, got {name!r}"]
    return (
        []
        if name == folder_name
        else [f"name is '{name}' but the folder is '{folder_name}'; they must be equal"]
    )


def _check_text(key: str, value: object, longest: int | None = None, required: bool = False) -> list[str]:
    if value is None and not required:
        return []
    if not isinstance(value, str) or not value.strip():
        return [f"{key} must be a non-empty string, got {value!r}"]
    if longest is not None and len(value) > longest:
        return [f"{key} has {len(value)} characters; at most {longest} are allowed"]
    return []
