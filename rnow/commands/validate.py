"""`rnow validate`: everything that can be known before a run, all at once."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rnow.display import console
from rnow.display.findings import render_findings, verdict
from rnow.display.plan import plan_lines
from rnow_core.errors import Finding, FindingsError, UsageError


def split_arguments(arguments: Sequence[str]) -> tuple[Path, list[str]]:
    """`[DIR] [KEY=VALUE]...` in any order -> the folder (default: here) and the overrides."""
    overrides = [argument for argument in arguments if "=" in argument]
    places = [argument for argument in arguments if "=" not in argument]
    if len(places) > 1:
        raise UsageError(
            f"Only one DIR can be checked at a time, got: {', '.join(places)}", "Overrides are KEY=VALUE."
        )
    return Path(places[0]) if places else Path(), overrides


def check_arguments(directory: Path, overrides: Iterable[str]) -> None:
    """Raise UsageError when the folder is none or an override is not KEY=VALUE."""
    for override in overrides:
        if "=" not in override:
            hint = (
                f"For a project elsewhere: --dir {override}" if Path(override).is_dir() else "Example: seed=1"
            )
            raise UsageError(f"'{override}' is not KEY=VALUE.", hint)
    if not directory.is_dir():
        raise UsageError(f"There is no folder {directory}.", "A new project: rnow init TEMPLATE DIR")


def validate(directory: Path, overrides: list[str], as_json: bool) -> int:
    """Show every finding and the plan. 0 when the run can start, else 1."""
    check_arguments(directory, overrides)
    findings, plan, ok = _check(directory, overrides)
    if as_json:
        console.document({"ok": ok, "findings": [finding.as_dict() for finding in findings], "plan": plan})
    else:
        _show(findings, plan, ok, directory)
    return 0 if ok else 1


def _check(directory: Path, overrides: list[str]) -> tuple[list[Finding], dict[str, Any], bool]:
    from rnow_core.preflight.check import check_project

    try:
        report = check_project(directory, overrides)
    except FindingsError as error:
        return error.findings, {}, False
    return list(report.findings), dict(report.plan), report.ok


def _show(findings: list[Finding], plan: dict[str, Any], ok: bool, directory: Path) -> None:
    colour = console.coloured(sys.stdout)
    for text in render_findings(findings, directory, colour):
        console.out(text)
    console.out(console.paint(verdict(findings, ok), "green" if ok else "red", colour))
    for line in plan_lines(plan):
        console.out(line)
    if ok and "epoch_tokens" in plan:
        console.out("what is trained, token by token: rnow generate --show 3")
