"""Docstrings of tools: what the tool does, and what each parameter means (Google, NumPy and Sphinx styles).

Python 3.8, standard library only: this file also runs inside sandboxes.
"""

from __future__ import annotations

import inspect
import re

_GOOGLE_TITLE = re.compile(r"^(args|arguments|parameters|params|attributes)\s*:\s*$", re.IGNORECASE)
_NUMPY_TITLE = re.compile(r"^(other )?(parameters|attributes)\s*$", re.IGNORECASE)
_GOOGLE_ITEM = re.compile(r"^\*{0,2}(\w+)\s*(?:\([^)]*(?:\([^)]*\)[^)]*)*\)|\[[^\]]*\])?\s*:\s*(.*)$")
_NUMPY_ITEM = re.compile(r"^(\*{0,2}\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?$")
_SPHINX_ITEM = re.compile(r"^:param\s+(?:[^:]*\s)?\*{0,2}(\w+)\s*:\s*(.*)$")
_UNDERLINE = re.compile(r"^-{3,}\s*$")


def parse_docstring(text: str | None) -> tuple[str, dict[str, str]]:
    """The docstring without its parameters, and the parameters' descriptions as one line each."""
    lines = inspect.cleandoc(text or "").splitlines()
    kept: list[str] = []
    found: dict[str, str] = {}
    at = 0
    while at < len(lines):
        end = _section_end(lines, at, found)
        if end == at:
            kept.append(lines[at])
            end += 1
        at = end
    described = re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()
    return described, {name: text for name, text in found.items() if text}


def _section_end(lines: list[str], at: int, found: dict[str, str]) -> int:
    """Read the section that starts at this line into `found`; the line after it, or `at` where none starts."""
    line = lines[at]
    if _GOOGLE_TITLE.match(line):
        return _google(lines, at + 1, found)
    if _NUMPY_TITLE.match(line) and at + 1 < len(lines) and _UNDERLINE.match(lines[at + 1]):
        return _numpy(lines, at + 2, found)
    match = _SPHINX_ITEM.match(line)
    if match:
        return _continued(lines, at + 1, 0, found, [match.group(1)], match.group(2))
    return at


def _google(lines: list[str], at: int, found: dict[str, str]) -> int:
    width = 0
    while at < len(lines):
        line = lines[at]
        indent = _indent(line)
        if not line.strip():
            at += 1
            continue
        if indent == 0:
            return at
        width = width or indent
        match = _GOOGLE_ITEM.match(line.strip())
        if match and indent <= width:
            at = _continued(lines, at + 1, indent, found, [match.group(1)], match.group(2))
        else:
            at += 1
    return at


def _numpy(lines: list[str], at: int, found: dict[str, str]) -> int:
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        titled = at + 1 < len(lines) and _UNDERLINE.match(lines[at + 1])
        match = None if titled or _indent(lines[at]) else _NUMPY_ITEM.match(lines[at])
        if not match:
            return at
        names = [name.strip().lstrip("*") for name in match.group(1).split(",")]
        at = _continued(lines, at + 1, 0, found, names, "")
    return at


def _continued(
    lines: list[str], at: int, indent: int, found: dict[str, str], names: list[str], first: str
) -> int:
    """Take the deeper lines that follow an item as the rest of its text; the line after them."""
    words = [first.strip()]
    while at < len(lines) and (not lines[at].strip() or _indent(lines[at]) > indent):
        words.append(lines[at].strip())
        at += 1
    for name in names:
        found[name] = " ".join(word for word in words if word)
    return at


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
