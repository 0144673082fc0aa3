"""`rnow generate --show N`: rows of the output as the student will be trained on them."""

from __future__ import annotations

import sys
from pathlib import Path

from rnow.commands.generate import load_env_files
from rnow.display import console, loss_mask
from rnow.display.findings import render_findings
from rnow_core.errors import FindingsError
from rnow_core.jobs.show_rows import ShowRequest
from rnow_core.jobs.show_rows import show_rows as render_rows


def show_rows(file: Path, count: int, tools: str, student: str | None, full: bool, as_json: bool) -> int:
    """Show the first `count` rows of a file; then what `sft` has against them, as FindingsError. `tools`: a file, or
    `none`.
    """
    tools_file = None if tools == "none" else Path(tools)
    load_env_files(tools_file)
    named = None if student == "none" else student
    shown = render_rows(ShowRequest(file, count, tools_file, named))
    if as_json:
        for row in shown.rows:
            console.json_line(loss_mask.row_data(row))
    else:
        loss_mask.show_rows(shown, full)
    errors = [finding for finding in shown.findings if finding.severity == "error"]
    others = [finding for finding in shown.findings if finding.severity != "error"]
    for text in render_findings(others, Path.cwd(), console.coloured(sys.stderr)):
        console.err(text)
    if errors:
        raise FindingsError(errors)
    return 0
