"""Findings as people read them: place, code, message, the source line with a caret, the fix."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from rnow.display.console import paint
from rnow_core.errors import Finding

COLOURS = {"error": "red", "warning": "yellow", "info": "cyan"}
SOURCE_WIDTH = 100
SHOWN_EACH = 20
"""Ten thousand bad rows are one mistake: nobody reads them all on a terminal."""


def render_finding(finding: Finding, root: Path, colour: bool) -> str:
    """`file:line:col: severity[CODE] path: message`, then the source line and the hint, indented."""
    place = paint(finding.where(), "bold", colour) + ": " if finding.where() else ""
    label = paint(f"{finding.severity}[{finding.code}]", COLOURS[finding.severity], colour)
    path = f" {finding.path}:" if finding.path else ""
    lines = [f"{place}{label}{path} {finding.message}"]
    lines += [f"    {line}" for line in _source(finding, root)]
    lines += [f"    {paint('hint:', 'cyan', colour)} {line}" for line in finding.hint.splitlines()]
    return "\n".join(lines)


def render_findings(findings: Iterable[Finding], root: Path, colour: bool) -> Iterator[str]:
    """Each finding; of those with one code in one file the first SHOWN_EACH, then how many more there are."""
    groups: dict[tuple[str, str | None], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.code, finding.file), []).append(finding)
    for (code, file), group in groups.items():
        yield from (render_finding(finding, root, colour) for finding in group[:SHOWN_EACH])
        if len(group) > SHOWN_EACH:
            where = f" in {file}" if file else ""
            yield f"... and {len(group) - SHOWN_EACH:,} more {code}{where}; all of them with --json"


def verdict(findings: Iterable[Finding], ok: bool) -> str:
    """One line: whether a run can start, and how many errors and warnings there are."""
    counts = Counter(finding.severity for finding in findings)
    said = [
        f"{counts[kind]} {kind}{'s' if counts[kind] > 1 else ''}"
        for kind in ("error", "warning")
        if counts[kind]
    ]
    detail = f" ({', '.join(said)})" if said else ""
    return f"ok: a run can start{detail}" if ok else f"not ok: a run cannot start{detail}"


def _source(finding: Finding, root: Path) -> list[str]:
    """The line that the finding is about and a caret under its column; nothing when it cannot be shown."""
    if finding.file is None or finding.line is None:
        return []
    places = (Path(finding.file), root / finding.file)
    text = next((line for place in places if (line := _read_line(place, finding.line))), "")
    if not text.strip():
        return []
    column = finding.col or 0
    start = max(0, column - SOURCE_WIDTH // 2) if len(text) > SOURCE_WIDTH else 0
    shown = text[start : start + SOURCE_WIDTH].replace("\t", " ")
    if not column:
        return [shown]
    return [shown, " " * (column - 1 - start) + "^"]


def _read_line(path: Path, number: int) -> str:
    """Line `number` (from 1) of a file, or an empty string."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            return next(itertools.islice(stream, number - 1, number), "").rstrip("\n")
    except OSError:
        return ""
