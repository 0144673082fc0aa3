"""How an error is shown: one message and its fix on stderr, or one JSON line on stdout."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rnow.display import console
from rnow.display.findings import render_findings, verdict
from rnow_core.errors import FindingsError, Interrupted, RnowError


def error_data(error: RnowError) -> dict[str, Any]:
    """The error as JSON-ready data; `findings` only where there are some."""
    data: dict[str, Any] = {
        "type": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "exit_code": error.exit_code,
    }
    if isinstance(error, FindingsError):
        data["findings"] = [finding.as_dict() for finding in error.findings]
    return data


def show_error(error: RnowError, as_json: bool, root: Path | None = None) -> int:
    """Show the error and return its exit code. `root` is where a finding's file is looked up."""
    if as_json:
        console.json_line({"error": error_data(error)})
        return error.exit_code
    colour = console.coloured(sys.stderr)
    if isinstance(error, FindingsError):
        for text in render_findings(error.findings, root or Path.cwd(), colour):
            console.err(text)
        console.err(console.paint(verdict(error.findings, ok=False), "red", colour))
        return error.exit_code
    label, style = ("interrupted:", "yellow") if isinstance(error, Interrupted) else ("error:", "red")
    console.err(f"{console.paint(label, style, colour)} {error.message}")
    for line in error.hint.splitlines():
        console.err(f"  {console.paint('hint:', 'cyan', colour)} {line}")
    return error.exit_code
